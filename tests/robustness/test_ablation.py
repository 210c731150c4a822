from pathlib import Path

import numpy as np
import pytest
from tests.models.tiny import image_set, tiny_model, tiny_stages

from xai_robustness.models.training import TrainingParams
from xai_robustness.models.zoo import MODELS, ModelParams
from xai_robustness.robustness.ablation import Heatmaps, ablate, remove_and_retrain
from xai_robustness.robustness.sharpness import sharpness_table, sharpness_values
from xai_robustness.types import InputError


def test_exactly_the_most_relevant_pixels_are_replaced() -> None:
    data = image_set(5)
    maps = np.random.default_rng(0).normal(size=(5, 12, 12))
    maps[2] = 0.0  # ties
    for fill in ("white", "black", "mean"):
        cut = ablate(data, maps, 0.25, fill)
        for i in range(5):
            changed = np.zeros((12, 12), dtype=bool)
            changed.ravel()[np.argsort(-maps[i].ravel(), kind="stable")[:36]] = True
            assert (cut.images[i][~changed] == data.images[i][~changed]).all()
            own = np.round(data.images[i].mean((0, 1)))
            expected = {"white": 255, "black": 0, "mean": own}[fill]
            assert (cut.images[i][changed] == expected).all()
    assert (ablate(data, maps, 0.0).images == data.images).all()
    assert (ablate(data, maps, 1.0, "black").images == 0).all()
    assert data.images.max() > 0  # the set itself is as it was


def test_bad_ablation() -> None:
    data = image_set(3)
    for bad in ({"share": 1.2}, {"fill": "blur"}, {"heatmaps": np.zeros((3, 5, 5))}):
        options = {"heatmaps": np.zeros((3, 12, 12)), "share": 0.1, **bad}
        with pytest.raises(InputError, match="heatmaps, share and fill parameters of ablate"):
            ablate(data, **options)


def test_retraining_without_what_matters_is_worse(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(MODELS._entries, "tiny", tiny_stages)
    sets = {"train": image_set(60), "val": image_set(30, seed=1), "test": image_set(60, seed=2)}
    for data in sets.values():  # the class is in the left half alone
        data.images[:, :, 6:] = 100
    left = np.zeros((12, 12))
    left[:, :6] = 1
    maps = Heatmaps(*(np.broadcast_to(left, (len(data), 12, 12)) for data in sets.values()))
    training = TrainingParams(epochs=5, batch_size=16, lr=0.02)
    table = remove_and_retrain(sets, maps, [0.5], ModelParams(name="tiny"), training, tmp_path, "black")
    accuracy = table[table["metric"] == "test/ablated/accuracy"].set_index("relevance")["value"]
    assert accuracy["given"] < 0.5 < accuracy["random"]
    assert set(table["share"]) == {0.5} and {"ci_low", "ci_high", "n"} <= set(table)


def test_sharpness_of_models_in_one_table() -> None:
    data = image_set(12)
    lesions = np.zeros((12, 12, 12), dtype=bool)
    lesions[:, 3:6, 3:6] = True
    from dataclasses import replace

    with_lesions = replace(data, lesion_masks=lesions)
    table = sharpness_table({"vanilla": tiny_model(), "other": tiny_model(1)}, with_lesions)
    assert set(table["metric"].str.rpartition("/")[2]) == {
        "total_variation",
        "entropy",
        "gini",
        "top1_mass",
        "high_frequency",
        "lesion_energy",
        "lesion_colour",
    }
    own = table[table["model"] == "vanilla"]
    assert (own["difference"] == 0).all() and (own["n"] == 12).all()
    other = table[table["model"] == "other"].set_index("metric")
    values = sharpness_values(tiny_model(1), data)["gini"] - sharpness_values(tiny_model(), data)["gini"]
    assert other.loc["test/sharpness/saliency/gini", "difference"] == pytest.approx(values.mean())
