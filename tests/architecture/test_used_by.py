"""Parameters that few nodes use: only those nodes run again, and nothing else reads them."""

import ast
from pathlib import Path

import pytest

import xai_robustness
from xai_robustness.parameters import StudyParams, components_of
from xai_robustness.pipeline_registry import register_pipelines
from xai_robustness.types import Params, UsedBy

SOURCE = Path(xai_robustness.__file__).parent
READERS = {
    "mitigation.allowed_clean_loss": {"select_correction", "plot_corrections", "verdict"},
    "mitigation.required_recovery": {"verdict"},
    "mitigation.reveal_again": {"reveal_again"},
    "mitigation.tcav_cav": {"measure_tcav"},
    "robustness_eval.attacks": {"attack_rows"},
    "robustness_eval.explanation_eps": {"attack_rows"},
    "robustness_eval.explanation_methods": {"attack_rows"},
    "robustness_eval.explanation_steps": {"attack_rows"},
    "robustness_eval.sharpness": {"attack_rows"},
    "robustness_eval.layerwise": {"study_layers"},
    "robustness_eval.faithfulness": {"measure_faithfulness", "check_attribution_sets"},
}
"""Field -> the functions that read it: those of its nodes, and what they alone call. A new reader belongs in both."""


def marked() -> dict[str, UsedBy]:
    found = {}
    for group, outer in StudyParams.model_fields.items():
        if isinstance(outer.annotation, type) and issubclass(outer.annotation, Params):
            for name, field in outer.annotation.model_fields.items():
                found.update({f"{group}.{name}": mark for mark in field.metadata if isinstance(mark, UsedBy)})
    return found


def readers() -> dict[str, set[str]]:
    """Attribute -> the functions of the package that read it."""
    found: dict[str, set[str]] = {}
    for path in SOURCE.rglob("*.py"):
        for function in ast.walk(ast.parse(path.read_text())):
            if isinstance(function, ast.FunctionDef):
                for node in ast.walk(function):
                    if isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Load):
                        found.setdefault(node.attr, set()).add(function.name)
    return found


def test_every_marked_field_is_read_where_its_nodes_are_and_nowhere_else() -> None:
    assert set(marked()) == set(READERS)
    found = readers()
    assert {field: found[field.rpartition(".")[2]] for field in READERS} == READERS


def test_marks_name_nodes_that_take_the_group() -> None:
    takers = {node.name.rpartition(".")[2]: node.inputs for node in register_pipelines()["__default__"].nodes}
    for field, mark in marked().items():
        assert mark.nodes
        for node in mark.nodes:
            assert f"params:{field.partition('.')[0]}" in takers[node]


@pytest.mark.parametrize(
    ("changed", "untouched"),
    [
        ({"mitigation": {"allowed_clean_loss": 0.2}}, "correct_models"),
        ({"robustness_eval": {"attacks": [{"kind": "fgsm", "eps": 0.01}]}}, "evaluate_corruptions"),
        ({"robustness_eval": {"layerwise": {"n": 20}}}, "measure_attacks"),
    ],
)
def test_another_value_counts_for_its_nodes_alone(changed: dict[str, dict[str, object]], untouched: str) -> None:
    (group,) = changed
    before, after = (components_of(StudyParams.model_validate({"study": "x", **values})) for values in ({}, changed))
    field = f"{group}.{next(iter(changed[group]))}"
    assert before(f"params:{group}", untouched) == after(f"params:{group}", untouched)
    for node in marked()[field].nodes:
        assert before(f"params:{group}", node) != after(f"params:{group}", node)
