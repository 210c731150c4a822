import pytest

from xai_robustness.robustness import attacked
from xai_robustness.robustness.params import RobustnessParams
from xai_robustness.types import InputError


def test_the_table_gets_what_the_parameters_ask_for(images, model, monkeypatch):
    whole = attacked.ExplanationAttack
    monkeypatch.setattr(attacked, "ExplanationAttack", lambda budget, method: whole(budget, method, steps=2))
    asked = {"attacks": [{"kind": "pgd", "eps": 0.02, "steps": 2}], "explanation_eps": 0.02, "sharpness": True}
    params = RobustnessParams(n_explained=3, n_predicted=6, **asked)
    table = attacked.attack_rows({"vanilla": model, "same": model}, images, params, "vanilla", 0, "cpu")
    same = table[table.model == "same"].set_index("metric")
    assert {"test/pgd_linf_0.02/accuracy", "test/saliency_attack/ssim", "test/sharpness/gini"} <= set(same.index)
    assert (same.difference == 0).all() and (same.p_value == 1).all()
    assert same.n["test/pgd_linf_0.02/accuracy"] == 6 and same.n["test/saliency_attack/ssim"] <= 3


def test_nothing_is_attacked_unless_asked(images, model):
    table = attacked.attack_rows({"vanilla": model}, images, RobustnessParams(), "vanilla", 0, "cpu")
    assert table.empty and "p_value" in table


@pytest.mark.parametrize("bad", [{"explanation_eps": 8.0}, {"explanation_eps": -0.1}, {"attacks": [{"eps": 8.0}]}])
def test_radii_in_units_of_255_are_refused(bad):
    with pytest.raises((InputError, ValueError)):
        RobustnessParams(**bad)
