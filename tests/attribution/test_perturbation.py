import captum.attr
import pytest
import torch
from tests.attribution.test_gradients import TARGETS, close
from tests.models.tiny import images, tiny_model

from xai_robustness.attribution import ATTRIBUTORS
from xai_robustness.attribution.many import attribute_many, count_passes
from xai_robustness.attribution.perturbation import windows
from xai_robustness.types import InputError

MEAN = images(1, size=30, seed=7)[0] * 0.4


@pytest.mark.parametrize("patch", [8, 14, 16])
def test_feature_ablation_equals_captum(patch: int) -> None:
    model, x = tiny_model().double(), images(5, size=30).double()
    row = torch.arange(30) // patch
    grid = row[:, None] * (30 // patch + 1) + row
    peer = captum.attr.FeatureAblation(model).attribute(x, target=TARGETS, feature_mask=grid[None, None])
    ours = ATTRIBUTORS.create("feature_ablation", model, patch_size=patch, internal_batch_size=7, batch_size=4)
    close(ours(x, TARGETS), peer)


@pytest.mark.parametrize("patch", [8, 14, 16])
@pytest.mark.parametrize("baseline", ["zero", "mean"])
def test_occlusion_equals_captum(patch: int, baseline: str) -> None:
    model, x = tiny_model().double(), images(5, size=30).double()
    ours = ATTRIBUTORS.create("occlusion", model, patch_size=patch, baseline=baseline, mean_image=MEAN)
    peer = captum.attr.Occlusion(model).attribute(
        x,
        sliding_window_shapes=(3, patch, patch),
        strides=(3, patch // 2, patch // 2),
        baselines=ours.baseline.of(x),
        target=TARGETS,
    )
    close(ours(x, TARGETS), peer)


def test_windows_by_hand() -> None:
    found = windows((5,), side=2, stride=1).int().tolist()
    assert found == [[1, 1, 0, 0, 0], [0, 1, 1, 0, 0], [0, 0, 1, 1, 0], [0, 0, 0, 1, 1]]
    assert windows((3, 3), side=9, stride=4).int().tolist() == [[[1] * 3] * 3]
    assert windows((28, 28), side=8, stride=4).shape == (36, 28, 28)


def test_a_patch_of_the_whole_image_is_the_change_of_the_logit() -> None:
    model, x = tiny_model(), images(5)
    with torch.no_grad():
        gain = (model(x) - model(torch.ones_like(x))).gather(1, TARGETS[:, None])
    for name in ("feature_ablation", "occlusion"):
        found = ATTRIBUTORS.create(name, model, patch_size=12, baseline="white")(x, TARGETS)
        torch.testing.assert_close(found.flatten(1), gain.expand(-1, 3 * 144))


def test_the_images_own_logits_are_shared() -> None:
    model, x = tiny_model(), images(5)
    methods = {f"{p}": ATTRIBUTORS.create("feature_ablation", model, patch_size=p) for p in (4, 6)}
    with count_passes(model) as passes:
        assert attribute_many(methods, x).passes == 5 * (1 + 9 + 4)
    assert passes.calls == 3


def test_signals_equal_captum() -> None:
    model = torch.nn.Sequential(torch.nn.Conv1d(2, 4, 5), torch.nn.ReLU(), torch.nn.Flatten(), torch.nn.Linear(80, 3))
    x = torch.rand(5, 2, 24, generator=torch.Generator().manual_seed(0)).double()
    peer = captum.attr.Occlusion(model.double()).attribute(x, (2, 7), (2, 3), target=TARGETS)
    close(ATTRIBUTORS.create("occlusion", model, patch_size=7)(x, TARGETS), peer)


@pytest.mark.parametrize("options", [{"patch_size": 0}, {"internal_batch_size": 0}])
def test_bad_options(options: dict[str, int]) -> None:
    with pytest.raises(InputError, match=f"{next(iter(options))} parameter of Occlusion must be at least 1. Got 0"):
        ATTRIBUTORS.create("occlusion", tiny_model(), **options)
