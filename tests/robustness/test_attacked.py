import pytest

from xai_robustness.parameters import read_parameters
from xai_robustness.robustness import attacked
from xai_robustness.robustness.params import RobustnessParams
from xai_robustness.types import InputError


def test_the_table_gets_what_the_parameters_ask_for(images, model):
    asked = {"attacks": [{"kind": "pgd", "eps": 0.02, "steps": 2}], "explanation_eps": 0.02, "sharpness": True}
    asked |= {"explanation_methods": ["saliency", "input_x_gradient"], "explanation_steps": 2}
    params = RobustnessParams(n_explained=3, n_predicted=6, **asked)
    table = attacked.attack_rows({"vanilla": model, "same": model}, images, params, "vanilla", 0, "cpu")
    same = table[table.model == "same"].set_index("metric")
    assert {"test/pgd_linf_0.02/accuracy", "test/input_x_gradient_attack/ssim", "test/sharpness/gini"} <= set(
        same.index
    )
    assert (same.difference == 0).all() and (same.p_value == 1).all()
    assert same.n["test/pgd_linf_0.02/accuracy"] == 6 and same.n["test/saliency_attack/ssim"] <= 3


def test_nothing_is_attacked_unless_asked(images, model):
    table = attacked.attack_rows({"vanilla": model}, images, RobustnessParams(), "vanilla", 0, "cpu")
    assert table.empty and "p_value" in table


@pytest.mark.parametrize(
    ("bad", "message"),
    [
        (
            {"explanation_eps": 8},
            r"the attack on explanations .* for 8 of 255 grey levels write 0\.03137",
        ),
        ({"explanation_eps": -0.1}, r"finite number of at least 0\. Got -0\.1"),
        ({"explanation_eps": 0}, r"must be above 0\. Got 0 instead; null attacks nothing"),
        ({"attacks": [{"eps": 4}]}, r"eps parameter of the pgd attack .* for 4 of 255 grey levels write 0\.01569"),
        (
            {"attacks": [{"eps": -0.01}]},
            r"the pgd attack must be a finite number of at least 0\. Got -0\.01",
        ),
        ({"attacks": [{"kind": "deepfool"}]}, r"Unknown .*'deepfool'"),
        (
            {"explanation_methods": ["lrp"]},
            r"can be differentiated .* Got 'lrp' instead; choose from: .*saliency",
        ),
        ({"explanation_methods": []}, r"at least one name\. Got none"),
        ({"methods": []}, r"at least one name\. Got none"),
        ({"agreements": []}, r"at least one name\. Got none"),
        ({"table": "nodulemnist3d"}, r"data set with a severity table or 'standard'\. Got 'nodulemnist3d'"),
    ],
)
def test_a_study_refuses_bad_robustness_parameters_in_one_sentence(bad, message):
    with pytest.raises(InputError, match=message) as caught:
        read_parameters({"study": "s", "robustness_eval": bad})
    assert "\n" not in str(caught.value) and str(caught.value).startswith(("Parameter 'robustness_eval", "Unknown"))


def test_an_l2_radius_above_one_is_legitimate():
    assert RobustnessParams(attacks=[{"norm": "l2", "eps": 5}]).attacks[0].eps == 5
