"""The corruptions of MedMNIST-C: against Pillow, SciPy and scikit-image image by image, and in law."""

import json
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import torch
from scipy.stats import ks_2samp, poisson
from tests.corruptions.test_corruptions import natural
from tests.reference import corruptions as naive

from xai_robustness.corruptions import CORRUPTIONS, blur, corrupt
from xai_robustness.corruptions.base import luma
from xai_robustness.corruptions.blur import shrunk
from xai_robustness.corruptions.deposits import stains
from xai_robustness.corruptions.sensor import poisson as drawn_poisson
from xai_robustness.corruptions.tables import MEDMNIST_C, STANDARD, constants, corruptions_of
from xai_robustness.datasets.medmnist import MEDMNIST_2D
from xai_robustness.datasets.phantom import make_phantom
from xai_robustness.types import InputError

PUBLISHED = json.loads((Path(__file__).parents[1] / "fixtures" / "medmnist_c.json").read_text())
MOTION = json.loads((Path(__file__).parents[1] / "fixtures" / "medmnist_c_motion.json").read_text())
EXACT = {
    "pixelate": 1.6 / 255,
    "brightness_up": 1.1 / 255,
    "brightness_down": 1.1 / 255,
    "contrast_up": 1.1 / 255,
    "contrast_down": 1.1 / 255,
    "gamma_corr_up": 1e-5,
    "gamma_corr_down": 1e-5,
    "saturate": 1e-5,
    "gaussian_blur": 1e-5,
    "defocus_blur": 1e-5,
    "zoom_blur": 1e-5,
}
"""Largest difference; Pillow rounds to 8 bits, the formulas do not."""
TABLES = {"pathmnist": 3, "dermamnist": 3, "chestmnist": 1}


def at_8_bits(n: int, c: int, size: int = 224) -> torch.Tensor:
    return (natural(n, c, size, size) * 255).round() / 255


@pytest.mark.parametrize("severity", [1, 5])
@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("name", EXACT)
def test_agrees_with_pillow_scipy_and_scikit_image(name, channels, severity):
    image = at_8_bits(1, channels)
    constant = constants(STANDARD, name)[severity - 1]
    arguments = constant if isinstance(constant, tuple) else (constant,)
    expected = getattr(naive, name)(image[0].double().numpy(), *arguments)
    ours = corrupt(name, image, [0], severity, seed=0)[0].double().numpy()
    assert np.abs(ours - expected).max() < EXACT[name]


@pytest.mark.parametrize("name", ["speckle_noise", "impulse_noise", "shot_noise", "gaussian_noise"])
def test_noise_is_equal_in_law(name):
    image, rng = at_8_bits(1, 3), np.random.default_rng(1)
    x = image[0].double().numpy()
    for severity in (1, 5):
        constant = constants("dermamnist", name)[severity - 1]
        noise = rng.standard_normal(x.shape) if name in ("speckle_noise", "gaussian_noise") else rng
        expected = getattr(naive, name)(x, constant, noise) - x
        ours = corrupt(name, image, [0], severity, 0, "dermamnist")[0].double().numpy() - x
        for part in (x < 0.3, (x >= 0.3) & (x < 0.6), x >= 0.6):
            found = ks_2samp(ours[part].round(5), expected[part].round(5))
            assert found.pvalue > 1e-4, (severity, part.sum())


@pytest.mark.parametrize("scale", [5, 60, 300])
@pytest.mark.parametrize("level", [0, 1, 128, 255])
def test_poisson_draws_invert_the_distribution_function(scale, level):
    uniform = torch.rand(20_000, generator=torch.Generator().manual_seed(0)).clamp(max=1 - 1e-6)
    ours = drawn_poisson(uniform, torch.full(uniform.shape, level, dtype=torch.int32), float(scale))
    expected = poisson.ppf(uniform.double().numpy(), scale * level / 255).clip(min=0)
    assert np.array_equal(ours.numpy(), expected)


@pytest.mark.parametrize("case", [case for case in sorted(PUBLISHED["cases"]) if case[-1] in "15"])
def test_statistics_are_those_of_the_published_package(case):
    """Mean, deviation, damage and touched share, as medmnistc computed them on the same images."""
    table, name, severity = case.split("/")
    theirs = np.array(PUBLISHED["cases"][case])
    drawn = name in ("stain_deposit", "bubble", "characters")
    n = 60 if drawn else 1
    images = phantom()[:n]
    images = images if TABLES[table] == 3 else (luma(images) * 255).round() / 255
    ours = corrupt(name, images, range(n), int(severity), 0, table)
    ours = (ours * 255).round() / 255
    damage = (ours - images).abs()
    found = torch.stack(
        [
            ours.mean((1, 2, 3)),
            ours.flatten(1).std(1),
            damage.mean((1, 2, 3)),
            (damage > 0.02).float().mean((1, 2, 3)),
        ],
        dim=1,
    ).numpy()
    if drawn:
        gap = np.abs(found[:, 2:].mean(0) - theirs[:, 2:].mean(0))
        error = np.sqrt(found[:, 2:].var(0) / n + theirs[:, 2:].var(0) / len(theirs))
        slack = {"stain_deposit": 0.15, "bubble": 0.05, "characters": 0.6}[name] * theirs[:, 2:].mean(0)
        assert (gap < 4 * error + slack).all(), (found[:, 2:].mean(0), theirs[:, 2:].mean(0))
    else:
        assert np.abs(found[:, :3] - theirs[:n, :3]).max() < 0.005, (found, theirs[:n])


@pytest.mark.parametrize("severity", range(1, 6))
def test_motion_blur_is_that_of_imagemagick_to_one_grey_level(severity, monkeypatch):
    cases = MOTION["cases"][str(severity)]
    angles = torch.tensor([case["angle"] for case in cases])
    monkeypatch.setattr(blur, "draw", lambda streams, shape, like, normal: ((angles / 45 + 1) / 2)[:, None])
    images = phantom()[: len(cases)]
    ours = corrupt("motion_blur", images, range(len(cases)), severity, 0, "dermamnist")
    rows, columns = torch.tensor(MOTION["places"]).T
    found = (ours * 255)[:, :, rows, columns].permute(0, 2, 1).numpy()
    assert np.abs(found - np.array([case["pixels"] for case in cases])).max() < 1.1  # theirs are cut to whole levels
    assert np.abs(found - np.array([case["pixels"] for case in reversed(cases)])).max() > 20


_KEPT: list[torch.Tensor] = []


def phantom() -> torch.Tensor:
    if not _KEPT:
        images = make_phantom(224, {"train": 1, "val": 1, "test": 60}, 2024)["test_images"]
        _KEPT.append(torch.from_numpy(images).permute(0, 3, 1, 2).float() / 255)
    return _KEPT[0]


def test_the_tables_are_those_of_the_twelve_data_sets():
    counts = {"path": 11, "blood": 11, "derma": 15, "retina": 8, "tissue": 8, "oct": 6, "breast": 7, "chest": 13}
    counts |= {"pneumonia": 13, "organa": 13, "organc": 13, "organs": 13}
    assert {name: len(table) for name, table in MEDMNIST_C.items()} == {f"{k}mnist": v for k, v in counts.items()}
    assert set(MEDMNIST_C) == set(MEDMNIST_2D)
    assert all(len(five) == 5 for table in MEDMNIST_C.values() for five in table.values())
    families = {n.removesuffix("_up").removesuffix("_down") for table in MEDMNIST_C.values() for n in table}
    assert len(families) == 18
    assert families <= {n.removesuffix("_up").removesuffix("_down") for n in CORRUPTIONS.names()}


@pytest.mark.parametrize("table", sorted(set(MEDMNIST_C) - {"organcmnist", "organsmnist"}))
def test_damage_follows_the_table(table):
    images = natural(6, 3, 40, 40)
    for name in corruptions_of(table):
        damage = [(corrupt(name, images, range(6), s, 0, table) - images).abs().mean().item() for s in range(1, 6)]
        five = constants(table, name)
        falls = [i for i, (a, b) in enumerate(pairwise(five)) if name == "black_corner" and b > a]
        same = [i for i, (a, b) in enumerate(pairwise(five)) if a == b]
        for i, (before, after) in enumerate(pairwise(damage)):
            if name == "defocus_blur" and table == "octmnist":
                continue  # its smoothing falls while its radius rises
            slack = 0.9 if name == "pixelate" else 1.0  # its blocks meet the pixels of a small image by chance
            assert after >= slack * before - 1e-9 or i in falls + same or name in ("stain_deposit", "bubble"), (
                name,
                damage,
            )


def test_gray_images_go_through_colour_with_the_tables_of_medmnist_c_alone():
    gray = torch.full((4, 1, 96, 96), 0.5)
    published = corrupt("gaussian_noise", gray, range(4), 1, 0, "chestmnist") - gray
    assert published.std().item() == pytest.approx(0.04 * np.sqrt(0.299**2 + 0.587**2 + 0.114**2), rel=0.02)
    standard = corrupt("gaussian_noise", gray, range(4), 1, 0) - gray
    assert standard.std().item() == pytest.approx(0.08, rel=0.02)


def test_stains_fill_about_half_of_their_box():
    filled = stains(torch.rand(200, 1, 11, generator=torch.Generator().manual_seed(0)).double(), 42)
    share = filled.double().mean((1, 2, 3))
    assert 0.58 < share.mean() < 0.67
    assert share.std() > 0.04


@pytest.mark.parametrize("scale", [0.125, 0.5, 1.0, 2.0])
def test_a_shrunk_kernel_keeps_its_sum_and_centre(scale):
    kernel = torch.rand(17, 17, generator=torch.Generator().manual_seed(0)).double()
    small = shrunk(kernel, scale)
    assert small.sum().item() == pytest.approx(kernel.sum().item())
    place = torch.arange(17.0) - 8
    new = torch.arange(float(small.shape[1])) - small.shape[1] // 2
    assert (small * new).sum().item() == pytest.approx((kernel * place).sum().item() * scale)
    if scale == 1:
        assert torch.equal(small, kernel)


def test_unknown_tables_and_corruptions_outside_a_table_are_refused():
    images = natural(1)
    with pytest.raises(InputError, match=r"data set with a severity table or 'standard'\. Got 'phantom'.*breastmnist"):
        corrupt("pixelate", images, [0], 1, 0, "phantom")
    with pytest.raises(InputError, match=r"table parameter of bubble must be one that holds it\. Got 'octmnist'"):
        corrupt("bubble", images, [0], 1, 0, "octmnist")
    for severity in (0, 6):
        with pytest.raises(InputError, match=r"whole number from 1 to 5"):
            corrupt("bubble", images, [0], severity, 0)
