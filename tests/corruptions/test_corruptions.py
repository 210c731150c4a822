import math
from itertools import pairwise

import numpy as np
import pytest
import torch
from scipy.ndimage import gaussian_filter
from tests.reference import corruptions as naive
from torch import Tensor

from xai_robustness.corruptions import CORRUPTIONS, corrupt
from xai_robustness.corruptions.base import Corruption, draw
from xai_robustness.corruptions.blur import scaled
from xai_robustness.corruptions.tables import MRI_LIKE, SEVERITIES
from xai_robustness.randomness import torch_rng
from xai_robustness.types import InputError

NAMES = CORRUPTIONS.names()
FIRST = ("brightness", "contrast", "gaussian_noise", "jpeg_compression", "motion_blur")
DRAWN = ("gaussian_noise", "speckle_noise", "impulse_noise", "shot_noise", "motion_blur")
DEPOSITS = ("stain_deposit", "bubble", "characters")


def natural(n: int = 6, c: int = 3, h: int = 48, w: int = 40) -> Tensor:
    """Images with the falling spectrum of photographs, in [0,1]."""
    rng = np.random.default_rng(0)
    fields = [gaussian_filter(rng.normal(size=(n, c, h, w)), (0, 0, s, s)) * s**1.5 for s in (1, 2, 4, 8)]
    images = np.sum(fields, axis=0)
    low, high = images.min(axis=(1, 2, 3), keepdims=True), images.max(axis=(1, 2, 3), keepdims=True)
    return torch.from_numpy((images - low) / (high - low)).float()


def expected(name: str, images: Tensor, severity: int, ids: list[int], seed: int) -> np.ndarray:
    """The naive result, with the draws of the corruption's own streams."""
    constant, results = SEVERITIES[name][severity - 1], []
    for image, sample_id in zip(images.double(), ids):
        stream = torch_rng(seed, "corruption", name, sample_id)
        arguments = (constant,)
        if name == "gaussian_noise":
            arguments = (constant, draw([stream], tuple(image.shape), images, normal=True)[0].numpy())
        if name == "motion_blur":
            uniform = draw([stream], (1,), images, normal=False).item()
            arguments = (*scaled(constant, min(image.shape[1:])), (2 * uniform - 1) * 45)
        results.append(getattr(naive, name)(image.numpy(), *arguments))
    return np.stack(results)


def test_every_corruption_has_a_standard_table_of_five():
    assert set(NAMES) == set(SEVERITIES)
    assert all(len(constants) == 5 for constants in SEVERITIES.values())
    assert set(MRI_LIKE) <= set(NAMES)


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("name", FIRST)
def test_agrees_with_the_naive_formula(name, channels):
    images, ids = natural(3, channels, 28, 24), [4, 90, 7]
    for severity in (1, 5):
        ours = corrupt(name, images, ids, severity, seed=3)
        assert np.abs(ours.numpy() - expected(name, images, severity, ids, seed=3)).max() < 2e-6


@pytest.mark.parametrize("size", [28, 64])
@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("name", NAMES)
def test_damage_rises_with_severity(name, channels, size):
    images = natural(40 if name in DEPOSITS else 16, channels, size, size)
    ids = range(len(images))
    damage = [(corrupt(name, images, ids, s, seed=0) - images).abs().mean().item() for s in range(1, 6)]
    if name == "saturate" and channels == 1:
        assert damage == [0] * 5
        return
    assert damage[0] > (1e-5 if name == "characters" else 1e-3)
    last = 4 if name == "black_corner" else 5  # its published table ends with 0.9, 0.95
    rises = [after - before for before, after in pairwise(damage[:last])]
    assert min(rises) >= 0 if name == "black_corner" else min(rises) > 0, damage


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("name", NAMES)
def test_keeps_shape_kind_and_range_and_its_input(name, dtype):
    images = natural().to(dtype)
    images[0, :, :4], images[0, :, 4:8] = 0, 1
    before = images.clone()
    corrupted = corrupt(name, images, range(6), 5, seed=0)
    assert corrupted.shape == images.shape
    assert corrupted.dtype == dtype
    assert corrupted.min() >= 0 and corrupted.max() <= 1
    assert torch.equal(images, before)


@pytest.mark.parametrize("name", NAMES)
def test_a_sample_depends_on_its_id_and_the_seed_not_on_its_batch(name):
    images = natural(4)
    together = corrupt(name, images, [3, 1, 2, 0], 3, seed=0)
    alone = torch.cat([corrupt(name, images[i : i + 1], [[3, 1, 2, 0][i]], 3, seed=0) for i in (2, 0)])
    assert torch.equal(together[[2, 0]], alone)
    random = name in DRAWN + DEPOSITS
    assert torch.equal(together, corrupt(name, images, [3, 1, 2, 0], 3, seed=1)) != random


@pytest.mark.parametrize("name", NAMES)
def test_takes_one_generator_for_the_batch(name):
    images, corruption = natural(), CORRUPTIONS.create(name)
    first, again = (corruption(images, 2, torch.Generator().manual_seed(5)) for _ in range(2))
    assert torch.equal(first, again)
    if name == "gaussian_noise":
        noise = first - images
        assert (noise[0] - noise[1]).abs().mean() > 0.01


@pytest.mark.parametrize("name", NAMES)
def test_an_empty_batch_stays_empty(name):
    assert corrupt(name, natural()[:0], [], 1, seed=0).shape == (0, 3, 48, 40)


def test_noise_has_its_deviation():
    gray = torch.full((8, 1, 64, 64), 0.5)
    noise = corrupt("gaussian_noise", gray, range(8), 1, seed=0) - gray
    assert noise.std().item() == pytest.approx(0.08, rel=0.02)
    assert abs(noise.mean().item()) < 0.002


def test_flat_images_survive_contrast_and_blur():
    flat = torch.full((2, 3, 32, 32), 0.3)
    for name in ("contrast", "motion_blur"):
        assert torch.allclose(corrupt(name, flat, [0, 1], 5, seed=0), flat, atol=1e-6)


def test_contrast_keeps_the_channel_means():
    images = natural()
    means = corrupt("contrast", images, range(6), 5, seed=0).mean(dim=(2, 3))
    assert torch.allclose(means, images.mean(dim=(2, 3)), atol=1e-6)


def test_brightness_keeps_ratios_of_channels_and_turns_black_gray():
    image = torch.tensor([0.4, 0.2, 0.1]).reshape(1, 3, 1, 1)
    raised = corrupt("brightness", image, [0], 2, seed=0).flatten()
    assert torch.allclose(raised, torch.tensor([0.6, 0.3, 0.15]))
    black = corrupt("brightness", torch.zeros(1, 3, 2, 2), [0], 2, seed=0)
    assert torch.allclose(black, torch.tensor(0.2))


def test_blur_moves_along_the_drawn_angle_only():
    dot = torch.zeros(40, 1, 65, 65)
    dot[:, :, 32, 32] = 1
    blurred = corrupt("motion_blur", dot, range(40), 5, seed=0)
    assert torch.allclose(blurred.sum(dim=(1, 2, 3)), torch.ones(40))
    rows, columns = torch.where(blurred[:, 0].amax(dim=0) > 0)
    assert (32 - columns >= (32 - rows).abs()).all()
    angles = {round(math.degrees(math.atan2(*_far_end(image[0])))) for image in blurred}
    assert len(angles) > 5


def _far_end(image: Tensor) -> tuple[float, float]:
    rows, columns = torch.where(image > 0)
    end = columns.argmin()
    return (rows[end] - 32).item(), (32 - columns[end]).item()


@pytest.mark.parametrize("size", [1, 8, 28, 224])
def test_blur_radius_is_scaled_and_at_least_one_pixel(size):
    radius, sigma = scaled((10, 5), size)
    assert radius == max(1, round(10 * size / 224))
    assert sigma == pytest.approx(5 * size / 224)


@pytest.mark.parametrize("severity", [0, 6, -1, 2.5, True, "3"])
@pytest.mark.parametrize("name", NAMES)
def test_severity_outside_1_to_5_is_refused(name, severity):
    with pytest.raises(InputError, match=f"severity parameter of {name} must be a whole number from 1 to 5"):
        corrupt(name, natural(), range(6), severity, seed=0)


BAD = {
    "above 1": (torch.full((1, 3, 4, 4), 1.5), r"in \[0,1\]"),
    "below 0": (torch.full((1, 3, 4, 4), -0.1), r"in \[0,1\]"),
    "NaN": (torch.full((1, 3, 4, 4), torch.nan), "free of NaN"),
    "bytes": (torch.zeros((1, 3, 4, 4), dtype=torch.uint8), "floats of shape"),
    "two channels": (torch.zeros((1, 2, 4, 4)), "1 or 3 channels"),
    "no batch": (torch.zeros((3, 4, 4)), "floats of shape"),
    "another number": (torch.zeros((2, 3, 4, 4)), "one for each of the 2 images. Got 1"),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_images_are_refused(case):
    images, message = BAD[case]
    with pytest.raises(InputError, match=message):
        corrupt("contrast", images, [0], 1, seed=0)


def test_the_base_class_clips_whatever_a_corruption_does():
    class Wild(Corruption):
        name = "contrast"

        def apply(self, images, constant, generators):
            return images * 9 - 4

    corrupted = Wild()(natural(), 1, torch.Generator())
    assert corrupted.min() == 0
    assert corrupted.max() == 1


@pytest.mark.parametrize("device", ["cpu", *(["cuda"] if torch.cuda.is_available() else [])])
@pytest.mark.parametrize("name", NAMES)
def test_the_result_stays_on_its_device_and_equals_that_of_the_cpu(name, device):
    images = natural()
    there = corrupt(name, images.to(device), range(6), 3, seed=0)
    assert there.device.type == device
    assert torch.allclose(there.cpu(), corrupt(name, images, range(6), 3, seed=0), atol=1e-5)
