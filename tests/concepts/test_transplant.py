"""Transplants on made images: a mark that is added to an image, and a subgroup that differs all over."""

from dataclasses import dataclass

import numpy as np
import pandas as pd
import pytest
import torch
from torch import nn

from xai_robustness.concepts.spectral import RevealParams
from xai_robustness.concepts.suspicion import (
    LIST_COLUMNS,
    LIST_MEMBER_COLUMNS,
    NEURON_COLUMNS,
    Lists,
    TransplantParams,
)
from xai_robustness.concepts.transplant import Transplants, transplant_all
from xai_robustness.datasets.base import DatasetInfo, ImageSet
from xai_robustness.models.taps import pool, tap
from xai_robustness.types import InputError

N, SIDE = 120, 20
INFO = DatasetInfo("made", ("one", "other"), "binary-class", 1)
PARAMS = RevealParams(min_size=8)


@dataclass
class Explained:
    """Latents of a model; its heatmaps are where the mark is, and anywhere in other images."""

    model_: nn.Module
    images: ImageSet
    maps: np.ndarray
    layers: tuple[str, ...] = ("0",)
    model: str = "f1a9"

    def activations(self, split, layer, how):
        with torch.no_grad(), tap(self.model_, [layer]) as outputs:
            self.model_(self.images.tensor(slice(None)))
        return pool(outputs[layer], how).numpy()

    def heatmaps(self, split):
        return self.maps

    def targets(self, split):
        return self.images.labels

    def sample_ids(self, split):
        return self.images.sample_ids


def made(kind: str, seed: int = 0) -> tuple[Explained, np.ndarray]:
    """Class 0: rows 0 to 79, the first 24 of which carry a mark in a random place, or are brighter all over."""
    rng = np.random.default_rng(seed)
    images = rng.integers(60, 110, size=(N, SIDE, SIDE, 1)).astype(np.uint8)
    maps = rng.random((N, SIDE, SIDE)).astype(np.float32) * 0.1
    for row in range(N):
        y, x = rng.integers(0, SIDE - 5, 2)
        maps[row, y : y + 5, x : x + 5] += 1.0
        if row < 24 and kind == "mark":
            images[row, y : y + 5 : 2, x : x + 5] = 240
        elif row < 24:
            images[row] += 90
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(1, 16, 3), nn.ReLU(), nn.AdaptiveMaxPool2d(1), nn.Flatten(), nn.Linear(16, 2))
    labels = (np.arange(N) >= 80).astype(np.int64)
    found = ImageSet(images, labels, np.arange(N) + 7, INFO)
    return Explained(model.eval(), found, maps), np.arange(80) < 24


def surgeon(latents: Explained, **changes) -> Transplants:
    return Transplants(latents, latents.model_, latents.images, TransplantParams(**changes), seed=0)


def test_a_mark_travels_and_a_subgroup_does_not():
    rows = np.arange(80)
    latents, carriers = made("mark")
    mark = surgeon(latents).travelled(rows, "0", carriers)
    assert mark.share > 0.8 and (mark.inside == carriers).all()
    turned = surgeon(latents).travelled(rows, "input", ~carriers)
    assert turned.share > 0.8 and (turned.inside == carriers).all()
    latents, subgroup = made("subgroup")
    assert surgeon(latents).travelled(rows, "0", subgroup).share < TransplantParams().share
    whole = surgeon(latents, area=1 - 1e-9).travelled(rows, "0", subgroup)
    assert 0.8 < whole.share <= 1.1  # whole images change sides, and all of the difference with them


def test_a_part_elsewhere_carries_nothing():
    latents, carriers = made("mark")
    latents.maps = np.roll(latents.maps, SIDE // 2, axis=(1, 2))
    rows = np.arange(80)
    elsewhere = surgeon(latents, area=25 / SIDE**2).travelled(rows, "0", carriers)
    assert elsewhere.share < 0.3


def test_what_activations_do_not_tell_is_not_tried():
    latents, _ = made("mark")
    rng = np.random.default_rng(1)
    assert np.isnan(surgeon(latents).travelled(np.arange(80), "0", rng.random(80) < 0.4).share)
    assert np.isnan(surgeon(latents).travelled(np.arange(80), "0", np.arange(80) < 1).share)


def test_the_model_is_given_back_as_it_was():
    latents, carriers = made("mark")
    before = {key: value.clone() for key, value in latents.model_.state_dict().items()}
    latents.model_.train()
    surgeon(latents).travelled(np.arange(80), "0", carriers)
    assert latents.model_.training and all(w.requires_grad for w in latents.model_.parameters())
    assert all(torch.equal(value, before[key]) for key, value in latents.model_.state_dict().items())
    assert not any(module._forward_hooks for module in latents.model_.modules())


def test_samples_without_an_image_are_refused():
    latents, _ = made("mark")
    latents.images = latents.images.subset(np.arange(50))
    one = Explained(latents.model_, made("mark")[0].images, latents.maps)
    with pytest.raises(InputError, match="Got 50 of them"):
        Transplants(one, one.model_, latents.images, TransplantParams(), seed=0)


def listed(latents: Explained, clusters: dict[str, np.ndarray], q: float = 0.01) -> Lists:
    rows = [
        {"kind": "cluster", "name": name, "class": 0, "view": "0", "size": len(own), "ratio": 2.0, "q_value": q}
        for name, own in clusters.items()
    ]
    table = pd.DataFrame(rows, columns=list(LIST_COLUMNS)).astype({"transplant": float})
    table["flagged"], table["place"] = True, range(1, len(table) + 1)
    members = [pd.DataFrame({"name": n, "sample_id": own + 7, "typical": 1.0}) for n, own in clusters.items()]
    none = pd.DataFrame(columns=list(NEURON_COLUMNS))
    return Lists(table, pd.concat(members)[list(LIST_MEMBER_COLUMNS)], none)


def test_what_travels_leads_the_list_and_is_joined():
    latents, carriers = made("mark")
    rng = np.random.default_rng(2)
    parts = {
        "noise": np.flatnonzero(rng.random(80) < 0.3),
        "some": np.arange(14),
        "others": np.arange(10, 24),
    }
    found = transplant_all(
        listed(latents, parts), latents, latents.model_, latents.images, PARAMS, seed=0, device="cpu"
    )
    table = found.suspects
    assert list(table.columns) == list(LIST_COLUMNS) and table["place"].tolist() == [1, 2, 3, 4]
    assert table["name"].iloc[0] == "joined 0" and set(table["name"].iloc[1:3]) == {"some", "others"}
    assert table["flagged"].tolist() == [True, True, True, False]
    members = found.members.loc[found.members["name"] == "joined 0", "sample_id"].to_numpy()
    assert len(members) == table["size"].iloc[0]
    inside = np.isin(np.arange(80) + 7, members)
    assert inside[carriers].mean() > 0.9 and inside[~carriers].mean() < 0.05


def test_what_is_above_the_level_is_not_tried():
    latents, _ = made("mark")
    found = transplant_all(
        listed(latents, {"some": np.arange(24)}, q=0.2), latents, latents.model_, latents.images, PARAMS, 0
    )
    assert found.suspects["transplant"].isna().all() and not found.suspects["flagged"].any()
    assert found.suspects["name"].tolist() == ["some"]


def test_too_few_pairs_are_refused():
    with pytest.raises(ValueError, match="at least 10"):
        TransplantParams(pairs=3)


def test_more_tests_ask_for_more():
    latents, carriers = made("mark")
    rows = np.arange(80)
    one, many = (surgeon(latents).travelled(rows, "0", carriers, tests) for tests in (1, 50))
    assert many.share < one.share <= one.alone and many.alone == one.alone
