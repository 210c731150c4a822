import json
import pickle
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from tests.models.tiny import disturb, images
from torch import nn

from xai_robustness.models.checkpoint import (
    build_from,
    describe,
    insertions_of,
    load_model,
    load_weights,
    save_model,
)
from xai_robustness.models.insertions import Projection
from xai_robustness.models.zoo import ModelParams, insert_after, split
from xai_robustness.types import InputError

DESCRIPTION = describe(ModelParams(name="vgg11_bn"), 3, (1, 28, 28), [0.5], [0.25])


def model(seed: int = 0) -> nn.Sequential:
    built = build_from(DESCRIPTION, seed).eval()
    torch.manual_seed(seed)
    disturb(built)
    return built


@pytest.fixture(scope="module")
def trained() -> nn.Sequential:
    return model()


def same(left: nn.Module, right: nn.Module) -> bool:
    a, b = left.state_dict(), right.state_dict()
    return list(a) == list(b) and all(torch.equal(a[key], b[key]) for key in a)


def test_round_trip_to_the_bit(trained: nn.Sequential, tmp_path: Path) -> None:
    save_model(trained, {**DESCRIPTION, "note": "kept"}, tmp_path)
    again = load_model(tmp_path)
    x = images(2, 28, channels=1)
    assert same(again, trained)
    assert torch.equal(again(x), trained(x))
    assert not again.training
    assert json.loads((tmp_path / "model.json").read_text())["note"] == "kept"
    assert {path.name for path in tmp_path.iterdir()} == {"model.safetensors", "model.json"}


def test_same_model_gives_the_same_bytes(trained: nn.Sequential, tmp_path: Path) -> None:
    save_model(trained, DESCRIPTION, tmp_path / "a")
    save_model(load_model(tmp_path / "a"), DESCRIPTION, tmp_path / "b")
    for name in ("model.safetensors", "model.json"):
        assert (tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes()


@pytest.mark.parametrize("layer", ["features.7", "avgpool", "normalize"])
def test_insertions_come_back(trained: nn.Sequential, layer: str, tmp_path: Path) -> None:
    x = images(2, 28, channels=1)
    k = split(trained, layer)[0](x).shape[1]
    axis = torch.eye(k)[0]
    corrected = insert_after(trained, layer, Projection(axis, 0.4, axis, -0.1), "projection")
    corrected = insert_after(corrected, "avgpool", Projection(torch.eye(512)[3], 0.2), "second")
    assert {entry["name"] for entry in insertions_of(corrected)} == {"projection", "second"}
    save_model(corrected, DESCRIPTION, tmp_path)
    again = load_model(tmp_path)
    assert torch.equal(again(x), corrected(x))
    assert not torch.equal(again(x), trained(x))
    assert insertions_of(again) == insertions_of(corrected)


def test_no_model_in_the_folder(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"must hold model.safetensors and model.json. Got"):
        load_model(tmp_path)


def test_description_lacks_a_key() -> None:
    with pytest.raises(InputError, match="must have the key 'mean'"):
        build_from({key: value for key, value in DESCRIPTION.items() if key != "mean"})


LAYOUTS = {
    "bare.pt": lambda state: state,
    "state_dict.pth": lambda state: {"epoch": 3, "state_dict": state},
    "model_state_dict.pt": lambda state: {"model_state_dict": state, "optimizer_state_dict": {"lr": 0.1}},
    "deit.pth": lambda state: {"model": state, "epoch": 300},
    "medmnist.pth": lambda state: {"net": state},
    "parallel.pt": lambda state: {"state_dict": {f"module.{key}": value for key, value in state.items()}},
}


@pytest.mark.parametrize("name", [*LAYOUTS, "weights.safetensors", "parallel.safetensors"])
def test_foreign_checkpoints(trained: nn.Sequential, name: str, tmp_path: Path) -> None:
    state, path = trained.state_dict(), tmp_path / name
    if path.suffix == ".safetensors":
        prefix = "module." if name.startswith("parallel") else ""
        save_file({prefix + key: value for key, value in state.items()}, path)
    else:
        torch.save(LAYOUTS[name](dict(state)), path)
    other = build_from(DESCRIPTION, seed=9)
    assert not same(other, trained)
    load_weights(path, other)
    assert same(other, trained)


def test_old_checkpoints_without_batch_counters_fit(trained: nn.Sequential, tmp_path: Path) -> None:
    state = {key: value for key, value in trained.state_dict().items() if "num_batches" not in key}
    torch.save(state, tmp_path / "old.pt")
    other = build_from(DESCRIPTION, seed=9)
    load_weights(tmp_path / "old.pt", other)
    assert torch.equal(other.features[0].weight, trained.features[0].weight)


def edited(state: dict, change: str) -> dict:
    state = dict(state)
    if change == "missing":
        del state["classifier.6.bias"]
    elif change == "unexpected":
        state["extra.weight"] = torch.zeros(1)
    elif change == "mis-shaped":
        state["classifier.6.weight"] = torch.zeros(1000, 512)
    else:
        state["classifier.6.weight"] = torch.full((3, 512), torch.nan)
    return state


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ("missing", r"1 missing \(classifier.6.bias\)"),
        ("unexpected", r"1 unexpected \(extra.weight\)"),
        ("mis-shaped", r"1 mis-shaped \(classifier.6.weight is \(1000, 512\), wanted \(3, 512\)\)"),
        ("nan", "values that are not finite"),
    ],
)
def test_checkpoints_that_do_not_fit(trained: nn.Sequential, change: str, sentence: str, tmp_path: Path) -> None:
    torch.save(edited(trained.state_dict(), change), tmp_path / "wrong.pt")
    other = build_from(DESCRIPTION, seed=9)
    before = {key: value.clone() for key, value in other.state_dict().items()}
    with pytest.raises(InputError, match=sentence):
        load_weights(tmp_path / "wrong.pt", other)
    assert all(torch.equal(value, before[key]) for key, value in other.state_dict().items())


@pytest.mark.parametrize("change", ["missing", "mis-shaped"])
def test_a_head_for_other_classes_begins_anew(trained: nn.Sequential, change: str, tmp_path: Path) -> None:
    torch.save(edited(trained.state_dict(), change), tmp_path / "imagenet.pt")
    other = build_from(DESCRIPTION, seed=9)
    before = {key: value.clone() for key, value in other.state_dict().items()}
    load_weights(tmp_path / "imagenet.pt", other, new_head=True)
    for key, value in other.state_dict().items():
        expected = before if key.startswith("classifier.6.") else trained.state_dict()
        assert torch.equal(value, expected[key]), key


def test_a_head_that_fits_is_kept_and_a_wrong_body_refused(trained: nn.Sequential, tmp_path: Path) -> None:
    torch.save(trained.state_dict(), tmp_path / "same.pt")
    other = build_from(DESCRIPTION, seed=9)
    load_weights(tmp_path / "same.pt", other, new_head=True)
    assert same(other, trained)
    torch.save(edited(trained.state_dict(), "unexpected"), tmp_path / "wrong.pt")
    with pytest.raises(InputError, match="1 unexpected"):
        load_weights(tmp_path / "wrong.pt", other, new_head=True)


def test_another_architecture_names_the_first_keys(tmp_path: Path) -> None:
    state = build_from(describe(ModelParams(name="resnet18"), 3, (1, 28, 28), [0.5], [0.25])).state_dict()
    torch.save(state, tmp_path / "resnet.pt")
    with pytest.raises(InputError, match=r"missing \(features.0.weight, .*…\); \d+ unexpected \(conv1.weight, "):
        load_weights(tmp_path / "resnet.pt", build_from(DESCRIPTION))


class Evil:
    def __reduce__(self) -> tuple:
        return (Path.touch, (Path("evil_was_here"),))


def test_pickled_code_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    torch.save({"state_dict": Evil()}, tmp_path / "evil.pt")
    (tmp_path / "plain.pt").write_bytes(pickle.dumps({"state_dict": Evil()}))
    for name in ("evil.pt", "plain.pt"):
        with pytest.raises(InputError, match=r"refused|cannot be read"):
            load_weights(tmp_path / name, nn.Linear(1, 1))
    assert not (tmp_path / "evil_was_here").exists()


@pytest.mark.parametrize("name", ["absent.pt", "weights.onnx", "broken.pt", "broken.safetensors", "list.pt"])
def test_files_that_are_no_weights(name: str, tmp_path: Path) -> None:
    for other in ("weights.onnx", "broken.pt", "broken.safetensors"):
        (tmp_path / other).write_bytes(b"no weights")
    torch.save([1, 2], tmp_path / "list.pt")
    with pytest.raises(InputError, match=r"must be an existing|cannot be read|refused|must hold a state dict"):
        load_weights(tmp_path / name, nn.Linear(1, 1))
