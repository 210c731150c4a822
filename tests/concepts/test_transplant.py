"""Transplants on made images: a mark that is added to an image, and a subgroup that differs all over."""

from dataclasses import dataclass

import numpy as np
import pandas as pd
import pytest
import torch
from scipy import stats
from sklearn.linear_model import Ridge
from sklearn.preprocessing import StandardScaler
from torch import nn

from xai_robustness.concepts.neurons import best_split
from xai_robustness.concepts.spectral import RevealParams
from xai_robustness.concepts.suspicion import (
    LIST_COLUMNS,
    LIST_MEMBER_COLUMNS,
    NEURON_COLUMNS,
    Lists,
    TransplantParams,
    pooled_activation,
)
from xai_robustness.concepts.transplant import CUT, Split, Transplants, Travelled, _Ridge, most_relevant
from xai_robustness.concepts.transplant_list import CARRYING, _Evidence, _joined, transplant_all
from xai_robustness.datasets.base import DatasetInfo, ImageSet
from xai_robustness.metrics.ranking import auroc
from xai_robustness.models.taps import pool, tap
from xai_robustness.types import InputError

N, SIDE = 120, 20
INFO = DatasetInfo("made", ("one", "other"), "binary-class", 1)
PARAMS = RevealParams(min_size=8, n_neighbors=10)
LOOSE = TransplantParams(distance=99.0)
ROWS = np.arange(80)


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

    def relevances(self, split, layer, how):
        return self.activations(split, layer, "max")

    def stored(self, split, key):
        what, *where = key.split("/")
        return self.maps if what == "heatmaps" else getattr(self, what)(split, *where)

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
    return Transplants(latents, ROWS, latents.model_, latents.images, TransplantParams(**changes), seed=0)


def most(found: list[Travelled]) -> Travelled:
    return max(found, key=lambda one: one.share)


def test_a_mark_travels_and_a_subgroup_does_not():
    latents, carriers = made("mark")
    for inside in (carriers, ~carriers):
        mark = most(surgeon(latents).travelled(Split("0", inside, 3.0)))
        assert mark.share > 0.7 and (mark.inside == carriers).all() and mark.distance == 3 * mark.share
    latents, subgroup = made("subgroup")
    assert most(surgeon(latents).travelled(Split("0", subgroup, 3.0))).share < 0.1
    whole = surgeon(latents, area=1 - 1e-9)
    np.testing.assert_allclose(whole.with_["0"], whole.own["0"][whole.donors], atol=1e-5)
    assert all(one.share < 0.1 for one in whole.travelled(Split("0", subgroup, 3.0)))  # all goes along, either way


def test_a_part_elsewhere_carries_nothing():
    latents, carriers = made("mark")
    latents.maps = np.roll(latents.maps, SIDE // 2, axis=(1, 2))
    assert most(surgeon(latents, area=25 / SIDE**2).travelled(Split("0", carriers, 3.0))).share < 0.3


def test_every_sample_gives_its_part_to_others_and_the_layer_sees_it():
    latents, _ = made("mark")
    found = surgeon(latents, partners=3, batch_size=7)
    assert (np.bincount(found.donors) == 3).all() and (np.bincount(found.takers) == 3).all()
    assert (found.donors != found.takers).all()
    images = latents.images.tensor(slice(None))
    for pair in (0, 100, 239):
        donor, taker = found.donors[pair], found.takers[pair]
        part = torch.from_numpy(most_relevant(latents.maps[[donor]], 0.1))
        without, with_ = images[donor].clone(), images[taker].clone()
        without[part], with_[part] = images[taker][part], images[donor][part]
        with torch.no_grad():
            seen = latents.model_[0](torch.stack([without, with_])).amax((2, 3)).numpy()
        np.testing.assert_allclose(np.stack([found.without["0"][pair], found.with_["0"][pair]]), seen, atol=1e-5)


def test_bounds_are_those_of_donors_told_out_of_fold(monkeypatch):
    """The share by hand, from a probe that is one neuron: means by donor, three standard errors."""
    latents, carriers = made("mark")
    found = surgeon(latents)
    monkeypatch.setattr("xai_robustness.concepts.transplant._Ridge.probe", lambda *_: lambda values: values[:, 3])
    monkeypatch.setattr("xai_robustness.concepts.transplant.TOLD", 0.0)
    own = found.own["0"][:, 3].astype(float)
    pairs = list(zip(found.donors, found.takers, found.without["0"][:, 3], found.with_["0"][:, 3]))

    def way(side):
        gap = own[side].mean() - own[~side].mean()
        lost = by_donor((d, (own[d] - w) / gap) for d, t, w, _ in pairs if side[d] and not side[t])
        gained = by_donor((d, (w - own[t]) / gap) for d, t, _, w in pairs if side[d] and not side[t])
        usual = by_donor((d, (w - own[t]) / gap) for d, t, _, w in pairs if not side[d] and not side[t])
        return lost, gained, usual

    (lost, gained, usual), (back_lost, back_gained, back_usual) = way(carriers), way(~carriers)
    back = min(np.mean(back_lost), np.mean(back_gained) - np.mean(back_usual))
    loss = np.mean(lost) - 3 * stats.sem(lost)
    gain = np.mean(gained) - np.mean(usual) - 3 * np.hypot(stats.sem(gained), stats.sem(usual))
    (one,) = [t for t in found.travelled(Split("0", carriers, 2.0)) if (t.inside == carriers).all()]
    assert one.share == pytest.approx(min(1.0, loss, gain) - max(0.0, back), rel=1e-6)
    assert one.distance == 2 * one.share


def by_donor(values):
    found: dict[int, list[float]] = {}
    for donor, value in values:
        found.setdefault(int(donor), []).append(value)
    return [np.mean(own) for own in found.values()]


def test_no_probe_knows_a_partner(monkeypatch):
    latents, carriers = made("mark")
    found, fits = surgeon(latents), []
    assert (found.fold[found.donors] == found.fold[found.takers]).all()
    of, probe = _Ridge.of.__func__, _Ridge.probe
    monkeypatch.setattr(_Ridge, "of", classmethod(lambda cls, x: fits.append(x) or of(cls, x)))
    monkeypatch.setattr(_Ridge, "probe", lambda self, x, inside: fits.append(x) or probe(self, x, inside))
    assert found.travelled(Split("0", carriers, 3.0)) and len(fits) == 10
    x = found.own["0"].astype(float)
    for fold in range(5):  # the probe that speaks of this fold
        np.testing.assert_array_equal(fits[fold], x[found.fold != fold])
        np.testing.assert_array_equal(fits[5 + fold], x[found.fold != fold])
    found.travelled(Split("0", ~carriers, 3.0))
    assert len(fits) == 15  # decomposed once


@pytest.mark.parametrize("n", [30, 90])
def test_probes_are_ridge_regressions(n):
    """Against scikit-learn's, with more and with fewer samples than features, one of them constant."""
    rng = np.random.default_rng(n)
    x, inside = rng.normal(3, 2, (n, 50)), rng.random(n) < 0.3
    x[:, 7] = 4.0
    probe = _Ridge.of(x).probe(x, inside)
    scaler = StandardScaler().fit(x)
    wanted = Ridge(alpha=0.3 * n).fit(scaler.transform(x), inside)
    new = rng.normal(3, 2, (20, 50))
    new[:, 7] = 4.0
    np.testing.assert_allclose(probe(new), wanted.predict(scaler.transform(new)), atol=1e-9)


def test_effects_are_what_parts_do_in_standard_deviations_of_the_class():
    latents, carriers = made("mark")
    found = surgeon(latents)
    own, effects = found.own["0"], found.effects("0")
    pairs = np.flatnonzero(found.donors == 5)
    gained = np.mean([found.with_["0"][p] - own[found.takers[p]] for p in pairs], axis=0)
    lost = np.mean([own[5] - found.without["0"][p] for p in pairs], axis=0)
    np.testing.assert_allclose(effects[5], (gained + lost) / 2 / own.std(0), rtol=1e-4, atol=1e-5)
    effect = found.standing_out(5)
    assert effect.distance == pytest.approx(effect.neurons.statistic - CUT) and effect.distance > 2
    assert (effect.neurons.inside == carriers).all()


def test_halves_of_a_normal_distribution_are_the_zero_of_effects():
    values = np.random.default_rng(0).normal(size=100_000)
    assert best_split(values, 10)[1] == pytest.approx(CUT, rel=0.01)


def test_a_small_side_that_hardly_gives_to_itself_is_tried():
    """Few of ten samples meet one of their kind, which only the way back needs."""
    latents, carriers = made("mark")
    few = ROWS < 10
    found = surgeon(latents, partners=1)
    assert (few[found.donors] & few[found.takers]).sum() < 3
    latents.images.images[10:24] = latents.images.images[30:44]
    found = surgeon(latents, partners=1)
    (one,) = [t for t in found.travelled(Split("0", few, 3.0)) if (t.inside == few).all()]
    assert one.share > 0.3


def test_what_activations_do_not_tell_is_not_tried():
    latents, _ = made("mark")
    rng = np.random.default_rng(1)
    assert surgeon(latents).travelled(Split("0", rng.random(80) < 0.4, 3.0)) == []
    assert surgeon(latents).travelled(Split("0", ROWS < 1, 3.0)) == []


def test_the_model_is_given_back_as_it_was():
    latents, _ = made("mark")
    before = {key: value.clone() for key, value in latents.model_.state_dict().items()}
    latents.model_.train()
    surgeon(latents)
    assert latents.model_.training and all(w.requires_grad for w in latents.model_.parameters())
    assert all(torch.equal(value, before[key]) for key, value in latents.model_.state_dict().items())
    assert not any(module._forward_hooks for module in latents.model_.modules())


def test_samples_without_an_image_are_refused():
    latents, _ = made("mark")
    latents.images = latents.images.subset(np.arange(50))
    one = Explained(latents.model_, made("mark")[0].images, latents.maps)
    with pytest.raises(InputError, match="Got 50 of them"):
        Transplants(one, ROWS, one.model_, latents.images, TransplantParams(), seed=0)


def listed(clusters: dict[str, np.ndarray], view: str = "0") -> Lists:
    rows = [
        {"kind": "cluster", "name": name, "class": 0, "view": view, "size": len(own), "statistic": 9.0, "ratio": 2.0}
        for name, own in clusters.items()
    ]
    table = pd.DataFrame(rows, columns=list(LIST_COLUMNS)).astype({"transplant": float})
    table["flagged"], table["place"] = True, range(1, len(table) + 1)
    members = [pd.DataFrame(columns=list(LIST_MEMBER_COLUMNS))]
    members += [pd.DataFrame({"name": n, "sample_id": own + 7, "typical": 1.0}) for n, own in clusters.items()]
    none = pd.DataFrame(columns=list(NEURON_COLUMNS))
    return Lists(table, pd.concat(members)[list(LIST_MEMBER_COLUMNS)], none)


def all_transplants(kind: str, lists: Lists, params: RevealParams = PARAMS) -> tuple[Lists, Explained, np.ndarray]:
    latents, carriers = made(kind)
    return transplant_all(lists, latents, latents.model_, latents.images, params, 0), latents, carriers


def test_what_travels_leads_the_list_and_is_joined():
    noise = np.flatnonzero(np.random.default_rng(2).random(80) < 0.3)
    parts = {"noise": noise, "some": np.arange(18), "others": np.arange(6, 24)}
    found, latents, carriers = all_transplants("mark", listed(parts))
    table = found.suspects
    assert list(table.columns) == list(LIST_COLUMNS) and table["place"].tolist() == [1, 2, 3, 4]
    assert table["name"].iloc[0] == "joined 0" and set(table["name"].iloc[1:3]) == {"some", "others"}
    assert table["flagged"].tolist() == [True, True, True, False] and table["kind"].iloc[0] == "joined"
    assert (found.neurons["name"] == "joined 0").all() and len(found.neurons) == CARRYING
    pooled = pooled_activation({"0": latents.activations("train", "0", "max")[:80]}, found.neurons, "joined 0")
    assert auroc(pooled, carriers) > 0.99
    members = found.members.loc[found.members["name"] == "joined 0"]
    inside = np.isin(ROWS + 7, members["sample_id"])
    assert inside[carriers].mean() > 0.9 and inside[~carriers].mean() < 0.05
    assert members["typical"].is_monotonic_decreasing and len(members) == table["size"].iloc[0]


def test_the_first_layer_finds_the_carriers_that_splits_leave_out():
    """Splits name half of the carriers, to which the last layer responds; the first one responds to all of them."""
    latents, carriers = made("mark")
    found, rng, half = surgeon(latents), np.random.default_rng(3), ROWS < 12
    seen = {"first": np.outer(carriers, np.ones(20)), "last": np.outer(half, np.ones(20))}
    found.own = {layer: (x + rng.normal(0, 0.3, x.shape)).astype(np.float32) for layer, x in seen.items()}
    found.layers = ("first", "last")
    latents.activations = lambda split, layer, how: np.concatenate([found.own[layer], np.zeros((40, 20), np.float32)])
    neurons, members = _joined(found, _Evidence(2.4, "first", 3.0, half.astype(float)), "joined 0", 0, latents, PARAMS)
    assert (neurons["layer"] == "first").all() and len(neurons) == CARRYING
    assert set(members["sample_id"]) == set(np.flatnonzero(carriers) + 7)


def test_what_hardly_travels_is_joined_and_not_flagged():
    found, _, _ = all_transplants("mark", listed({}), PARAMS.model_copy(update={"transplant": LOOSE}))
    assert found.suspects["name"].tolist() == ["joined 0"] and not found.suspects["flagged"].any()
    assert 0 < found.suspects["transplant"].iloc[0] < LOOSE.distance


def test_clusters_that_the_list_leaves_out_are_tried_too():
    found, _, _ = all_transplants("mark", listed({}))
    assert found.suspects["name"].tolist() == ["joined 0"] and found.suspects["flagged"].all()


def test_a_subgroup_is_not_flagged():
    table = all_transplants("subgroup", listed({"darker": np.arange(24)}))[0].suspects
    assert not table["flagged"].any() and np.isfinite(table["transplant"]).all()
    assert table.set_index("name").loc["darker", "transplant"] < 0.5 and table["transplant"].max() < 1.5


def test_clusters_of_input_heatmaps_are_not_tried():
    found, _, _ = all_transplants("mark", listed({"some": np.arange(24)}, "input"))
    table = found.suspects.set_index("name")
    assert np.isnan(table.loc["some", "transplant"]) and not table.loc["some", "flagged"]
    assert table.index.tolist() == ["joined 0", "some"]


def test_a_suspect_without_a_finite_distance_is_not_tried():
    lists = listed({"some": np.arange(24)})
    lists.suspects["statistic"] = np.inf
    table = all_transplants("mark", lists)[0].suspects.set_index("name")
    assert np.isnan(table.loc["some", "transplant"]) and np.isfinite(table.loc["joined 0", "transplant"])
