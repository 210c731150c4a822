import pytest
from pydantic import ValidationError

from xai_robustness.mitigation.base import METHODS, REFERENCE, candidates, grid, label_of
from xai_robustness.mitigation.params import MitigationParams, RrClarcParams, RrrParams
from xai_robustness.models.zoo import ModelParams, build
from xai_robustness.types import InputError


def test_every_method_has_parameters_and_every_parameter_group_a_method():
    assert set(MitigationParams().methods()) == set(METHODS.names())
    for name in METHODS:
        assert METHODS[name].name == name


def test_the_grid_lists_the_reference_first_and_names_are_unique():
    found = candidates(MitigationParams(), ("layer1", "layer2"))
    names = [candidate.name for candidate in found]
    assert names[0] == REFERENCE and len(set(names)) == len(names)
    assert {c.method for c in found} == {name for name, group in MitigationParams().methods().items() if group.enabled}
    every = MitigationParams(**{name: {"enabled": True} for name in METHODS})
    found = candidates(every, ("layer1", "layer2"))
    assert {c.method for c in found} == set(METHODS.names()) and len({c.name for c in found}) == len(found)
    assert {c.layer for c in found if c.method == "p_clarc"} == {"layer1", "layer2"}


def test_disabled_methods_leave_the_reference_alone():
    off = {name: {"enabled": False} for name in METHODS}
    assert [c.name for c in candidates(MitigationParams(**off), ("layer1",))] == [REFERENCE]


def test_layers_of_the_grid_are_checked():
    model = build(ModelParams(name="resnet18"), 2, (3, 28, 28), [0.5] * 3, [0.5] * 3, 0)
    params = MitigationParams(rr_clarc=RrClarcParams(layers=("layer9",)))
    assert params.all_layers() == ("layer9",)
    with pytest.raises(InputError, match=r"Unknown layer 'layer9'.*layer1, layer2, layer3, layer4"):
        grid(params, model)
    layers = {c.layer for c in grid(MitigationParams(), model) if c.layer}
    assert layers == {"layer1", "layer2", "layer3", "layer4"}


def test_disabled_methods_do_not_ask_for_layers():
    params = MitigationParams(rr_clarc=RrClarcParams(layers=("layer9",), enabled=False))
    assert params.all_layers() == ()


@pytest.mark.parametrize(
    ("strength", "name"),
    [(0.0, "rrr-0"), (0.5, "rrr-0.5"), (1e6, "rrr-1e6"), (2.5e7, "rrr-2.5e7"), (100.0, "rrr-100"), (1e-5, "rrr-1e-5")],
)
def test_names_are_short_and_fit_for_folders(strength, name):
    assert label_of("rrr", None, strength) == name


@pytest.mark.parametrize(
    "bad",
    [
        {"rr_clarc": {"lambdas": [-1.0]}},
        {"rr_clarc": {"lambdas": [float("nan")]}},
        {"rr_clarc": {"lambdas": [1.0, 1.0]}},
        {"rr_clarc": {"lambdas": []}},
        {"rr_clarc": {"cav": "nope"}},
        {"rr_clarc": {"criterion": "nope"}},
        {"rr_clarc": {"aggregation": "nope"}},
        {"p_clarc": {"layers": ["a", "a"]}},
        {"reactive_p_clarc": {"condition": "nope"}},
        {"rrr": {"criterion": "nope"}},
        {"magic": {}},
        {"allowed_clean_loss": 2},
    ],
)
def test_bad_parameters_are_refused(bad):
    with pytest.raises(ValidationError):
        MitigationParams(**bad)


def test_batch_size_of_the_evaluation_is_neutral():
    values = MitigationParams(rrr=RrrParams(lambdas=(1.0,))).result_values()
    assert "eval_batch_size" not in values and values["rrr"]["lambdas"] == [1.0]
