import captum.attr
import numpy as np
import pytest
import torch
from tests.attribution.test_gradients import TARGETS, close
from tests.models.tiny import images, tiny_model

from xai_robustness.attribution import ATTRIBUTORS
from xai_robustness.attribution.baselines import BASELINES, Baseline, BaselineSet
from xai_robustness.attribution.many import attribute_many
from xai_robustness.attribution.points import blocks, split_affine
from xai_robustness.types import InputError

MEAN = images(1, seed=7)[0] * 0.4


@pytest.mark.parametrize("n_steps", [50, 200])
def test_integrated_gradients_equal_captum(n_steps: int) -> None:
    model, x = tiny_model().double(), images(5).double()
    peer = captum.attr.IntegratedGradients(model).attribute(x, target=TARGETS, n_steps=n_steps)
    close(ATTRIBUTORS.create("integrated_gradients", model, n_steps=n_steps, batch_size=3)(x, TARGETS), peer)


@pytest.mark.parametrize("name", BASELINES)
def test_every_baseline_equals_captum(name: str) -> None:
    model, x = tiny_model().double(), images(3).double()
    baseline = Baseline("test", name, MEAN, seed=3).of(x)
    assert baseline.shape[1:] == x.shape[1:] and len(baseline) in (1, 3)
    options = {"baseline": name, "mean_image": MEAN, "seed": 3, "n_steps": 5, "internal_batch_size": 4}
    found = ATTRIBUTORS.create("integrated_gradients", model, **options)(x, TARGETS[:3])
    peer = captum.attr.IntegratedGradients(model)
    close(found, peer.attribute(x, baseline.expand_as(x), target=TARGETS[:3], n_steps=5))


def test_integrated_gradients_are_complete() -> None:
    model, x = tiny_model().double(), images(3).double()
    found = ATTRIBUTORS.create("integrated_gradients", model, n_steps=200, baseline="white")(x, TARGETS[:3])
    with torch.no_grad():
        gain = (model(x) - model(torch.ones_like(x))).gather(1, TARGETS[:3, None])[:, 0]
    torch.testing.assert_close(found.flatten(1).sum(1), gain, rtol=0.02, atol=0.005)


def test_the_baselines_are_what_they_are_called() -> None:
    x = images(3)
    values = {name: Baseline("test", name, MEAN).of(x) for name in BASELINES}
    assert values["zero"].eq(0).all() and values["black"].eq(0).all() and values["white"].eq(1).all()
    assert values["grey"].eq(0.5).all() and torch.equal(values["mean"][0], MEAN)
    assert 0 <= values["uniform"].min() < 0.1 and 0.9 < values["uniform"].max() <= 1
    assert values["noisy"].min() == 0 and values["noisy"].max() == 1
    for name, seeded in (("uniform", True), ("noisy", True), ("blur", False)):
        assert torch.equal(Baseline("test", name, seed=1).of(x), values[name]) != seeded
    torch.testing.assert_close(Baseline("test", "blur").of(torch.full_like(x, 0.3)), torch.full_like(x, 0.3))
    assert torch.equal(Baseline("test", MEAN).of(x)[0], MEAN)


def test_blur_of_a_point() -> None:
    point = torch.zeros(1, 1, 9, 9).double()
    point[0, 0, 4, 4] = 1
    weights = np.exp(-(np.arange(-2, 3) ** 2) / 200)
    expected = np.outer(weights, weights) / weights.sum() ** 2
    found = Baseline("test", "blur").of(point)[0, 0]
    np.testing.assert_allclose(found[2:7, 2:7].numpy(), expected)
    assert found.sum() == pytest.approx(1)


def test_bad_baselines() -> None:
    model, x = tiny_model(), images(5)
    with pytest.raises(InputError, match="Unknown baseline 'gray'. Did you mean 'grey'"):
        ATTRIBUTORS.create("integrated_gradients", model, baseline="gray")
    with pytest.raises(InputError, match="mean_image parameter of IntegratedGradients must be given"):
        ATTRIBUTORS.create("integrated_gradients", model, baseline="mean")
    with pytest.raises(InputError, match=r"baseline parameter of IntegratedGradients must be of the images' shape"):
        ATTRIBUTORS.create("integrated_gradients", model, baseline=torch.zeros(3, 10, 12))(x, TARGETS)
    with pytest.raises(InputError, match="baseline parameter of IntegratedGradients must be finite"):
        ATTRIBUTORS.create("integrated_gradients", model, baseline=torch.full((3, 12, 12), torch.nan))
    with pytest.raises(InputError, match=r"baselines parameter of GradientShap must be finite images \(R,C,H,W\)"):
        ATTRIBUTORS.create("gradient_shap", model, baselines=torch.zeros(0, 3, 12, 12))
    with pytest.raises(InputError, match="mean_image parameter of GradientShap must be of the images' shape"):
        ATTRIBUTORS.create("gradient_shap", model, mean_image=torch.zeros(1, 12, 12))(x, TARGETS)


@pytest.mark.parametrize("n_samples", [20, 40])
def test_gradient_shap_equals_captum_with_the_same_draws(n_samples: int, monkeypatch: pytest.MonkeyPatch) -> None:
    model, x = tiny_model().double(), images(5).double()
    found = ATTRIBUTORS.create("gradient_shap", model, n_samples=n_samples, mean_image=MEAN)(x, TARGETS)
    baselines, positions = BaselineSet("test", mean_image=MEAN).draw(x, range(n_samples))
    order = np.tile(np.arange(n_samples), 5)  # captum repeats each image for all samples
    monkeypatch.setattr(np.random, "choice", lambda n, size: order[:size])
    monkeypatch.setattr(np.random, "uniform", lambda low, high, size: positions.numpy()[order[:size]])
    peer = captum.attr.GradientShap(model).attribute(x, baselines, n_samples=n_samples, target=TARGETS)
    close(found, peer)


def test_draws_are_thirds_and_own_baselines_are_drawn_evenly() -> None:
    x = images(1, size=4)
    mean = torch.full((3, 4, 4), 0.25)
    found, positions = BaselineSet("test", mean_image=mean).draw(x, range(600))
    grey, average = found.eq(0.5).flatten(1).all(1), found.eq(0.25).flatten(1).all(1)
    noise = found[~grey & ~average]
    for share in (grey.float().mean(), average.float().mean(), len(noise) / 600):
        assert abs(float(share) - 1 / 3) < 0.07
    assert abs(float(noise.mean()) - 0.5) < 0.03 and abs(float(noise.std()) - 0.5) < 0.03
    assert abs(float(positions.mean()) - 0.5) < 0.05 and positions.min() >= 0 and positions.max() < 1
    own = torch.stack([mean, mean + 0.5])
    found, _ = BaselineSet("test", own).draw(x, range(400))
    assert abs(float(found.eq(0.25).float().mean()) - 0.5) < 0.1


def test_more_draws_begin_with_the_fewer_and_methods_share_them() -> None:
    model, x = tiny_model().double(), images(5).double()
    methods = {f"{n}": ATTRIBUTORS.create("gradient_shap", model, n_samples=n, mean_image=MEAN) for n in (20, 40)}
    methods["other"] = ATTRIBUTORS.create("gradient_shap", model, n_samples=20, mean_image=MEAN, seed=1)
    found = attribute_many(methods, x, TARGETS)
    assert found.passes == 1 + 5 * (1 + 40 + 20)  # checking a target, logits, draws
    for key, method in methods.items():
        torch.testing.assert_close(found.attributions[key], method(x, TARGETS), rtol=1e-9, atol=1e-12)


def test_leading_affine_stages_are_cut_off() -> None:
    model, x = tiny_model(), images(2)
    first, rest = split_affine(model)
    assert [name for name, _ in first.named_children()] == ["normalize", "conv1", "bn1"]
    torch.testing.assert_close(rest(first(x)), model(x))
    torch.testing.assert_close(first(0.3 * x), torch.lerp(first(0 * x), first(x), 0.3))
    handle = model.conv1.register_forward_hook(lambda module, given, output: output.relu())
    assert [name for name, _ in split_affine(model)[0].named_children()] == ["normalize"]
    handle.remove()
    nested = torch.nn.Sequential(torch.nn.Sequential(torch.nn.Conv2d(3, 2, 3), torch.nn.ReLU()), torch.nn.Flatten())
    first, rest = split_affine(nested)
    assert len(list(first.modules())) == 3 and torch.equal(rest(first(x)), nested(x))
    for whole in (torch.nn.Sequential(torch.nn.ReLU()), torch.nn.Linear(2, 2)):
        assert split_affine(whole)[1] is whole


def test_blocks_cover_everything_once_in_the_size() -> None:
    for n_rows, n_places, size in ((3, 5, 6), (10, 4, 3), (1, 7, 100), (5, 1, 5)):
        seen = np.zeros((n_rows, n_places), int)
        for rows, ranges in blocks(n_rows, range(n_places), size):
            for some in ranges:
                assert (rows.stop - rows.start) * len(some) <= size
                seen[rows, some.start : some.stop] += 1
        assert (seen == 1).all()


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("integrated_gradients", {"n_steps": 1}),
        ("integrated_gradients", {"internal_batch_size": 0}),
        ("gradient_shap", {"n_samples": 0}),
    ],
)
def test_bad_options(name: str, options: dict[str, int]) -> None:
    with pytest.raises(InputError, match=f"The {next(iter(options))} parameter of"):
        ATTRIBUTORS.create(name, tiny_model(), **options)
