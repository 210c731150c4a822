"""Studies on data that are not here: checked and read on tiny trees in the official layouts."""

from pathlib import Path
from typing import Any

import pytest
import torch
from tests.datasets import trees
from tests.models.tiny import tiny_stages

from xai_robustness.datasets.load import load_dataset
from xai_robustness.io.config import PresetConfigLoader
from xai_robustness.models.zoo import MODELS, build
from xai_robustness.parameters import StudyParams, read_parameters
from xai_robustness.preflight import check_data, check_parameters
from xai_robustness.settings import CONFIG_LOADER_ARGS

CONF = Path(__file__).parents[1] / "conf"
FEW = {"n_train": 6, "n_val": 2, "n_test": 2, "size": 24}


def study(name: str, **runtime: Any) -> StudyParams:
    options: Any = CONFIG_LOADER_ARGS
    return read_parameters(PresetConfigLoader(str(CONF), env=name, runtime_params=runtime, **options)["parameters"])


@pytest.fixture
def raw(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XAI_DATA_ROOT", str(tmp_path))
    monkeypatch.setitem(MODELS._entries, "tiny", tiny_stages)
    return tmp_path


def test_ham10000_trains_by_the_published_recipes(raw: Path) -> None:
    trees.ham10000(raw, n=80)
    params = study("ham10000_adversarial", data=FEW)
    check_parameters(params)
    check_data(params, {"load_images"})
    splits = load_dataset(params.data, 0, raw, cache=raw / "cache")
    assert splits["train"].info.class_names == ("nv", "mel", "bkl")
    assert [len(splits[split].labels) for split in ("train", "val", "test")] == [6, 2, 2]
    standard = params.training
    assert (standard.scheduler, standard.head_epochs, standard.policy) == ("plateau", 10, "dermoscopy")
    robust, transfer = (params.comparisons.recipe(name, standard) for name in ("adversarial", "transfer"))
    assert (robust.adversarial.method, robust.adversarial.norm, robust.adversarial.eps) == ("pgd", "l2", 3.0)
    assert (transfer.frozen_to, transfer.lr, transfer.adversarial.method) == ("layer3", 1e-5, "none")


@pytest.mark.parametrize("whole", [True, False])
def test_imagenet_needs_its_validation_images_and_weights_alone(whole: bool, raw: Path, tmp_path: Path) -> None:
    folder = trees.imagenet(raw, n=160)
    if not whole:
        (folder / "train").rename(raw / "elsewhere")
    weights = build(study("smoke", model={"name": "tiny"}).model, 2, (3, 24, 24), [0.5] * 3, [0.5] * 3, seed=0)
    torch.save(weights.state_dict(), tmp_path / "weights.pth")
    given = {"checkpoint": str(tmp_path / "weights.pth")}
    params = study("imagenet_attribution", data=FEW, model={"name": "tiny"}, training=given)
    check_parameters(params)
    check_data(params, {"load_images", "train_classifier"})
    splits = load_dataset(params.data, 0, raw, cache=raw / "cache")
    assert all(name.startswith("val/") for name in splits["test"].names)
    assert all(name.startswith("train/") == whole for name in splits["train"].names)
    assert len(params.attribution_sets.methods) == 26
