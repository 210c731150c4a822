from itertools import permutations

import captum.attr
import pytest
import torch
from tests.attribution.test_gradients import TARGETS, close
from tests.models.tiny import images, tiny_model

from xai_robustness.attribution import ATTRIBUTORS
from xai_robustness.attribution.shapley import superpixels
from xai_robustness.types import InputError

GRID = {"n_segments": 4, "segments": "grid"}


def exact(model: torch.nn.Module, x: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    """captum's Shapley values of four quarters, all orders enumerated."""
    mask = superpixels(x[:1], 4, "grid")[:, None]
    return captum.attr.ShapleyValues(model).attribute(x, target=targets, feature_mask=mask)


def test_kernel_shap_with_all_coalitions_is_exact() -> None:
    model, x = tiny_model().double(), images(2).double()
    found = ATTRIBUTORS.create("kernel_shap", model, **GRID)(x, TARGETS[:2])
    close(found, exact(model, x, TARGETS[:2]))


def test_sampling_with_all_orders_is_exact(monkeypatch: pytest.MonkeyPatch) -> None:
    model, x = tiny_model().double(), images(2).double()
    method = ATTRIBUTORS.create("shapley_sampling", model, n_samples=24, **GRID)
    monkeypatch.setattr(method, "orders", lambda size: [torch.tensor(p) for p in permutations(range(size))])
    close(method(x, TARGETS[:2]), exact(model, x, TARGETS[:2]))


@pytest.mark.parametrize("name", ["kernel_shap", "shapley_sampling"])
@pytest.mark.parametrize("segments", ["slic", "grid"])
def test_values_sum_to_the_change_of_the_logit(name: str, segments: str) -> None:
    model, x = tiny_model().double(), images(3).double()
    options = {"n_samples": 20, "n_segments": 9, "segments": segments, "baseline": "grey"}
    found = ATTRIBUTORS.create(name, model, **options)(x, TARGETS[:3])
    labels = superpixels(x, 9, segments)
    with torch.no_grad():
        gain = (model(x) - model(torch.full_like(x, 0.5))).gather(1, TARGETS[:3, None])[:, 0]
    for i in range(3):
        values = [found[i, 0][labels[i] == s] for s in range(int(labels[i].max()) + 1)]
        assert all(len(v.unique()) == 1 for v in values) and torch.equal(found[i, 0], found[i, 2])
        torch.testing.assert_close(sum(v[0] for v in values), gain[i])


def test_samples_come_close_to_the_exact_values() -> None:
    model, x = tiny_model().double(), images(2).double()
    options = {"n_segments": 9, "segments": "grid"}
    best = ATTRIBUTORS.create("kernel_shap", model, n_samples=510, **options)(x, TARGETS[:2])
    for name, n in (("kernel_shap", 300), ("shapley_sampling", 60)):
        found = ATTRIBUTORS.create(name, model, n_samples=n, **options)(x, TARGETS[:2])
        assert not torch.allclose(found, best)
        assert (found - best).norm() < 0.2 * best.norm()


def test_superpixels() -> None:
    assert superpixels(torch.zeros(1, 1, 4, 4), 4, "grid")[0, :, 0].tolist() == [0, 0, 2, 2]
    assert superpixels(torch.zeros(2, 1, 6), 3, "slic")[1].tolist() == [0, 0, 1, 1, 2, 2]
    x = torch.zeros(1, 1, 20, 20)
    x[..., 10:] = 1
    for given in (x, x.expand(1, 3, 20, 20)):
        labels = superpixels(given, 4, "slic")[0]
        assert not set(labels[:, :10].unique().tolist()) & set(labels[:, 10:].unique().tolist())
        assert labels.unique().tolist() == list(range(int(labels.max()) + 1))


def test_one_superpixel_has_it_all() -> None:
    model, x = tiny_model(), images(2)
    with torch.no_grad():
        gain = (model(x) - model(torch.zeros_like(x))).gather(1, TARGETS[:2, None])
    for name in ("kernel_shap", "shapley_sampling"):
        found = ATTRIBUTORS.create(name, model, n_segments=1, segments="grid")(x, TARGETS[:2])
        torch.testing.assert_close(found.flatten(1), gain.expand(-1, 3 * 144))


def test_bad_options() -> None:
    with pytest.raises(InputError, match="segments parameter of KernelShap must be slic or grid. Got quads"):
        ATTRIBUTORS.create("kernel_shap", tiny_model(), segments="quads")
    with pytest.raises(InputError, match="n_segments parameter of ShapleySampling must be at least 1. Got 0"):
        ATTRIBUTORS.create("shapley_sampling", tiny_model(), n_segments=0)
