from pathlib import Path

import pytest
import yaml
from kedro.io import DataCatalog

from xai_robustness.hooks.plan import Planner
from xai_robustness.parameters import StudyParams, components_of, read_parameters
from xai_robustness.pipeline_registry import register_pipelines
from xai_robustness.types import InputError

CONF = Path(__file__).parents[1] / "conf"
GRAPH = register_pipelines()["__default__"]


def test_defaults_are_a_study():
    assert read_parameters({"study": "x"}).data.name == "phantom"


@pytest.mark.parametrize("study", [p.parent.name for p in CONF.glob("*/parameters.yml") if p.parent.name != "base"])
def test_every_study_in_conf_is_valid(study):
    merged = {"study": study}
    for path in sorted((CONF / "base").glob("parameters_*.yml")):
        merged |= yaml.safe_load(path.read_text())
    for key, value in yaml.safe_load((CONF / study / "parameters.yml").read_text()).items():
        merged[key] = {**merged[key], **value}
    assert isinstance(read_parameters(merged), StudyParams)


def test_an_unknown_key_names_its_neighbours():
    with pytest.raises(InputError, match=r"Unknown parameter 'training\.epoch'\. Did you mean 'epochs'\?"):
        read_parameters({"study": "x", "training": {"epoch": 3}})


def test_neutral_fields_are_no_part_of_the_fingerprint_and_others_are():
    def parts(**preprocessing) -> dict[str, str]:
        params = read_parameters({"study": "x", "preprocessing": preprocessing})
        return components_of(params)("params:preprocessing", "compute_latents")

    assert parts(batch_size=8) == parts(batch_size=64)
    assert parts(layers=["layer1"]) != parts()


def test_the_content_of_a_named_file_counts(tmp_path):
    path = tmp_path / "weights.pth"
    path.write_bytes(b"a")
    params = read_parameters({"study": "x", "training": {"checkpoint": str(path)}})
    before = components_of(params)("params:training", "train_classifier")
    path.write_bytes(b"b")
    assert components_of(params)("params:training", "train_classifier") != before


def test_the_code_of_a_network_of_ones_own_counts(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(tmp_path)
    params = read_parameters({"study": "x", "model": {"name": "invented_network:net"}})
    found = []
    for part in ("ReLU", "Tanh"):
        (tmp_path / "invented_network.py").write_text(
            f"from torch import nn\n\n\ndef net(c, k):\n    return nn.{part}()\n"
        )
        found.append(components_of(params)("params:model", "train_classifier"))
    assert found[0] != found[1] and any("invented_network" in key for key in found[0])


def test_how_batch_sizes_are_measured_counts_and_batch_sizes_do_not():
    given = [{}, {"batch_sizes": {"saliency": 2}}, {"enabled": False}, {"share": 0.4}, {"batch_size": 8}]
    params = [read_parameters({"study": "x", "preflight": one}) for one in given]
    found = [components_of(one)("params:preflight", "probe_batch_sizes") for one in params]
    assert all(a != b for i, a in enumerate(found) for b in found[:i])
    devices = [read_parameters({"study": "x", "device": device}) for device in ("cpu", "cuda")]
    planners = [Planner(GRAPH, DataCatalog(), components_of(one)) for one in devices]
    nodes = {node.name.rpartition(".")[2]: node for node in GRAPH.nodes}
    for name, same in (("probe_batch_sizes", False), ("compute_attributions", True)):
        first, second = (planner.fingerprint(nodes[name]) for planner in planners)
        assert (first == second) == same


def test_a_table_of_ticked_neurons_counts_by_its_content_and_must_exist(tmp_path):
    table = tmp_path / "ticked.csv"
    params = read_parameters({"study": "x", "reveal": {"neurons": {"spurious": str(table)}}})
    with pytest.raises(InputError, match="does not exist"):
        components_of(params)("params:reveal", "rank_neurons")
    found = []
    for text in ("model,layer,neuron\n", "model,layer,neuron\na,layer4,3\n"):
        table.write_text(text)
        found.append(components_of(params)("params:reveal", "rank_neurons"))
    assert found[0] != found[1]


def test_every_round_of_a_review_counts_by_its_content_and_must_exist(tmp_path):
    paths = [tmp_path / "first.csv", tmp_path / "second.csv"]
    paths[0].write_text("sample_id,artifact\n1,1\n")

    def parts(given) -> dict[str, str]:
        params = read_parameters({"study": "x", "sample_retrieval": {"review": {"reviewer": "csv", "csv": given}}})
        return components_of(params)("params:sample_retrieval", "review_suspects")

    both = [str(path) for path in paths]
    with pytest.raises(InputError, match=r"second\.csv.* does not exist"):
        parts(both)
    paths[1].write_text("sample_id,artifact\n2,1\n")
    before = parts(both)
    assert parts(both[0]) == parts(both[:1]) != before != parts(both[::-1])  # the order says which answer wins
    for path in paths:
        path.write_text(path.read_text() + "5,0\n")
        assert before != (before := parts(both))


@pytest.mark.parametrize("study", ["../elsewhere", "a/b", ""])
def test_a_study_cannot_leave_its_folder(study):
    with pytest.raises(InputError):
        read_parameters({"study": study})


@pytest.mark.parametrize("study", ["breastmnist", "pneumoniamnist"])
def test_a_study_with_more_rows_is_its_study_up_to_the_evaluation(study):
    """Otherwise the classifier and its corrections would be computed again, as others."""
    own, derived = (
        yaml.safe_load((CONF / name / "parameters.yml").read_text()) for name in (study, f"{study}_adversarial")
    )
    assert {k: v for k, v in derived.items() if k not in ("comparisons", "robustness_eval")} == {
        k: v for k, v in own.items() if k != "robustness_eval"
    }
