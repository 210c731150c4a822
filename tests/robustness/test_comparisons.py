"""Models beside the uncorrected and the corrected in the one table, and training on corrupted images."""

from pathlib import Path

import numpy as np
import pytest
import torch
from tests.models.tiny import image_set, tiny_stages

from xai_robustness.corruptions.augment import CorruptionAugmentation, CorruptionTraining
from xai_robustness.datasets.base import DatasetInfo, ImageSet
from xai_robustness.models.checkpoint import load_description, load_model
from xai_robustness.models.training import TrainingJob, TrainingParams
from xai_robustness.models.zoo import MODELS, ModelParams
from xai_robustness.parameters import read_parameters
from xai_robustness.robustness.comparisons import ComparisonJob, ComparisonParams, load_compared
from xai_robustness.types import InputError

SETTINGS = TrainingParams(epochs=1, batch_size=16, lr=0.01)


@pytest.fixture(autouse=True)
def tiny(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(MODELS._entries, "tiny", tiny_stages)


def trained(folder: Path, **changes: object) -> torch.nn.Sequential:
    params = SETTINGS.model_copy(update=changes)
    TrainingJob(ModelParams(name="tiny"), image_set(24), image_set(12, seed=1), params, 3, "cpu").write(folder)
    return load_model(folder)


def test_every_training_image_is_corrupted_once_an_epoch_and_no_other(tmp_path, monkeypatch):
    seen: list[tuple[int, int, tuple[int, ...]]] = []
    corrupt = CorruptionAugmentation.__call__

    def recorded(self, images, sample_ids, seed, epoch=0):
        seen.append((seed, epoch, tuple(int(i) for i in sample_ids)))
        return corrupt(self, images, sample_ids, seed, epoch)

    monkeypatch.setattr(CorruptionAugmentation, "__call__", recorded)
    corrupted = TrainingParams.model_validate({"corruptions": {"table": "standard", "names": ["contrast"]}}).corruptions
    model = trained(tmp_path / "corrupted", corruptions=corrupted, epochs=2)
    for epoch in (1, 2):
        ids = [i for seed, at, batch in seen if (seed, at) == (3, epoch) for i in batch]
        assert sorted(ids) == image_set(24).sample_ids.tolist()
    plain = trained(tmp_path / "plain", epochs=2)
    assert len(seen) == 4
    assert not torch.equal(model.fc.weight, plain.fc.weight)
    assert load_description(tmp_path / "corrupted")["training"]["corruptions"]["names"] == ["contrast"]


def test_corruptions_that_do_not_fit_are_refused():
    asked = TrainingParams.model_validate({"corruptions": {"table": "standard"}})
    info = DatasetInfo("ecg", "multi-class", ("a", "b", "c"), "none")
    signals = ImageSet(np.zeros((6, 1, 40, 2), np.float32), np.arange(6) % 3, np.arange(6), info)
    with pytest.raises(InputError, match=r"Got signals instead; set training\.corruptions\.table to null"):
        TrainingJob(ModelParams(name="tiny"), signals, signals, asked, 0, "cpu")
    with pytest.raises(InputError, match=r"images parameter of CorruptionAugmentation must be in \[0,1\]"):
        CorruptionAugmentation(["contrast"])(torch.full((1, 1, 4, 4), 2.0), [0], 0)
    assert CorruptionTraining().augmentation() is None
    assert len(CorruptionTraining(table="breastmnist").augmentation().names) == 7


@pytest.mark.parametrize(
    ("corruptions", "message"),
    [
        ({"table": "phantom"}, r"data set with a severity table or 'standard'\. Got 'phantom'"),
        ({"table": "octmnist", "names": ["bubble"]}, "must be one that holds it"),
        ({"table": "standard", "names": ["rain"]}, "Unknown corruption"),
        ({"table": "standard", "names": []}, "at least 1 item"),
    ],
)
def test_a_study_refuses_corruptions_that_no_table_has(corruptions, message):
    with pytest.raises(InputError, match=message):
        read_parameters({"study": "s", "training": {"corruptions": corruptions}})
    with pytest.raises(InputError, match=message):
        read_parameters({"study": "s", "comparisons": {"models": {"corrupted": {"corruptions": corruptions}}}})


@pytest.mark.parametrize(
    ("models", "message"),
    [
        ({"vanilla": {}}, r"none of vanilla, corrected, imagenet\. Got 'vanilla'"),
        ({"robust": {"epoch": 3}}, r"comparisons\.models\.robust .* Got epoch: 3 instead"),
        ({"robust": {"adversarial": {"method": "pgd", "eps": 8}}}, r"for 8 of 255 grey levels write 0\.03137"),
        ({"Robust/": {}}, "pattern"),
        ({"a": {"start": "b"}, "b": {}}, r"start parameter must be classifier.* Got 'b' instead; move it up"),
        ({"a": {"start": "a"}}, r"Got 'a' instead; move it up"),
    ],
)
def test_impossible_comparisons_are_refused(models, message):
    with pytest.raises(InputError, match=message):
        read_parameters({"study": "s", "comparisons": {"models": models}})


def test_a_recipe_is_the_studys_training_with_its_differences():
    asked = ComparisonParams(models={"robust": {"epochs": 7, "adversarial": {"method": "pgd"}}})
    study = TrainingParams(epochs=3, lr=0.5, adversarial={"eps": 0.01})
    recipe = asked.recipe("robust", study)
    assert (recipe.epochs, recipe.lr, recipe.adversarial.method, recipe.adversarial.eps) == (7, 0.5, "pgd", 0.01)
    assert study.adversarial.method == "none"


def test_compared_models_are_trained_once_and_fine_tuning_begins_with_the_classifier(tmp_path):
    start = tmp_path / "classifier" / "model.safetensors"
    trained(tmp_path / "classifier")
    still = {"start": "classifier", "frozen_to": "layer4", "lr": 1e-9}
    asked = ComparisonParams(
        models={
            "robust": {"adversarial": {"method": "fgsm_rs", "eps": 0.02}},
            "tuned": still,
            "transferred": {**still, "start": "robust"},
            "corrupted": {"corruptions": {"table": "breastmnist"}},
        }
    )
    given = SETTINGS.model_copy(update={"checkpoint": str(tmp_path / "none")})  # the classifier's own, not theirs
    job = ComparisonJob(asked, ModelParams(name="tiny"), given, image_set(24), image_set(12, seed=1), start, 0, "cpu")
    job.write(tmp_path / "compared")
    models = load_compared(tmp_path / "compared")
    assert list(models) == ["corrupted", "robust", "transferred", "tuned"]
    first = load_model(tmp_path / "classifier")
    assert torch.equal(models["tuned"].conv1.weight, first.conv1.weight)
    assert torch.equal(models["transferred"].conv1.weight, models["robust"].conv1.weight)
    assert torch.allclose(models["tuned"].fc.weight, first.fc.weight, atol=1e-6)
    assert not torch.equal(models["robust"].conv1.weight, models["corrupted"].conv1.weight)
    before = {path: path.read_bytes() for path in (tmp_path / "compared").rglob("*.*")}
    job.write(tmp_path / "compared")
    assert before == {path: path.read_bytes() for path in (tmp_path / "compared").rglob("*.*")}


def test_weights_that_recipes_name_count_for_the_fingerprint(tmp_path):
    asked = ComparisonParams(models={"a": {"start": "classifier"}, "b": {"start": "x.safetensors"}, "c": {}})
    assert asked.files == ("x.safetensors",)
    assert load_compared(tmp_path) == {}
