"""Pixel statistics against those of medmnistc over 1,000 images, which benchmarks/corruptions.py took."""

import json
from functools import cache
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from xai_robustness.corruptions import corrupt
from xai_robustness.corruptions.tables import corruptions_of
from xai_robustness.datasets.phantom import make_phantom

LAW = json.loads((Path(__file__).parents[1] / "fixtures" / "medmnist_c_law.json").read_text())
KINDS = sorted({case.rsplit("/", 1)[0] for case in LAW["cases"]})
N = 8
GREY = 0.004
"""One grey level: medmnistc rounds between steps and cuts at the end."""
AT_RANDOM = ("noise", "bubble", "stain_deposit", "characters", "motion_blur")
COVERAGE = ("bubble", "stain_deposit", "black_corner", "characters")


@cache
def images(gray: bool) -> np.ndarray:
    pixels = make_phantom(224, {"train": 1, "val": 1, "test": N}, 2024)["test_images"]
    return np.stack([np.array(Image.fromarray(p).convert("L")) for p in pixels])[..., None] if gray else pixels


def statistics(kind: str, severity: int) -> np.ndarray:
    """Mean, deviation, mean absolute difference and share of changed pixels of each image, as the fixture has them."""
    table, name = kind.split("/")
    given = images(table == "chestmnist")
    x = torch.from_numpy(given).permute(0, 3, 1, 2).float() / 255
    made = (corrupt(name, x, range(N), severity, 0, table) * 255 + 1e-3).to(torch.uint8).permute(0, 2, 3, 1).numpy()
    made, given = made.astype(np.float32) / 255, given.astype(np.float32) / 255
    axes, change = (1, 2, 3), np.abs(made - given)
    columns = made.mean(axes), made.std(axes), change.mean(axes), (change > 0.02).mean(axes)
    return np.stack(columns, axis=1)


@pytest.mark.parametrize("kind", KINDS)
def test_statistics_are_those_of_medmnistc(kind: str) -> None:
    name = kind.split("/")[1]
    columns = 4 if name in COVERAGE else 3
    for severity in range(1, 6):
        theirs, ours = LAW["cases"][f"{kind}/{severity}"], statistics(kind, severity)[:, :columns]
        expected, deviation = (np.array(theirs[key])[:columns] for key in ("theirs", "deviation"))
        error = deviation * (1 / N + 1 / LAW["n"]) ** 0.5
        assert (np.abs(ours.mean(0) - expected) < 4 * error + GREY).all(), (severity, ours.mean(0), expected)
        if not any(word in name for word in AT_RANDOM):
            first = np.array(theirs["first"])[:, :columns]
            assert np.abs(ours[: len(first)] - first).max() < 1.3 * GREY, severity


def test_every_corruption_and_severity_is_there() -> None:
    tables = ("pathmnist", "dermamnist", "chestmnist")
    assert {kind.split("/")[1] for kind in KINDS} == {name for table in tables for name in corruptions_of(table)}
    assert LAW["n"] == 1000 and len(LAW["cases"]) == 5 * len(KINDS)
