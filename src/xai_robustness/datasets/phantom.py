"""The phantom: procedurally drawn lesions whose class needs both their outline and their texture.

A sample is a closed-form picture on the unit square, so one lesion looks the same at every size. Outline and texture
each separate only one class from the other two; colour, area, position, orientation, texture strength and lighting are
drawn from the same distributions for all classes:

| class | outline | texture |
|---|---|---|
| round_dotted | round | dots |
| round_striped | round | stripes |
| lobed_dotted | lobed | dots |
"""

from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np
from scipy.special import i0

from xai_robustness.datasets.base import DatasetInfo
from xai_robustness.randomness import numpy_rng
from xai_robustness.types import Split

_LOBED = np.array([False, False, True])
_STRIPED = np.array([False, True, False])
_BATCH = 100
_NOISE_GRID = 28
_EDGE = 0.006
"""Softness of the outline, in units of the image side."""
_DOT_SHARPNESS = np.float32(0.6)
_DOT_MEAN = np.float32(i0(0.6) ** 2)
_DOT_SCALE = np.float32(np.sqrt(2 * (i0(1.2) ** 2 - i0(0.6) ** 4)))
"""Moments of exp(0.6 (sin a + sin b)): they give the dots the stripes' mean, 0, and variance, 1/2."""


class _Traits(NamedTuple):
    """Random numbers of a batch of lesions; (B,) float32 unless said. Lengths are in units of the image side."""

    x: np.ndarray
    y: np.ndarray
    radius: np.ndarray
    stretch: np.ndarray
    angle: np.ndarray
    n_lobes: np.ndarray
    lobe_depth: np.ndarray
    lobe_phase: np.ndarray
    texture_angle: np.ndarray
    texture_frequency: np.ndarray
    texture_phases: np.ndarray
    texture_depth: np.ndarray
    striped: np.ndarray
    skin: np.ndarray
    lesion: np.ndarray
    light: np.ndarray
    noise: np.ndarray


def phantom_info() -> DatasetInfo:
    """Task, classes and licence of the phantom."""
    return DatasetInfo(
        "phantom", "multi-class", ("round_dotted", "round_striped", "lobed_dotted"), "CC0 1.0 (generated)"
    )


def make_phantom(size: int, counts: dict[Split, int], seed: int) -> dict[str, np.ndarray]:
    """Draw the phantom data set.

    Sample `i` of a split depends on `seed`, the split and `i` alone, so a larger count keeps the smaller one's samples,
    and another size shows the same lesions. Classes are balanced in each block of three samples.

    Args:
        size: height and width in pixels.
        counts: number of samples a split.
        seed: seed of the data set.

    Returns:
        MedMNIST's arrays and lesion masks: `{split}_images` uint8 (N,H,W,3), `{split}_labels` int64 (N,1) and
        `{split}_masks` bool (N,H,W), true where the lesion covers at least half of the pixel.

    Example:
        >>> arrays = make_phantom(28, {"train": 6}, seed=0)
        >>> arrays["train_images"].shape, np.bincount(arrays["train_labels"][:, 0]).tolist()
        ((6, 28, 28, 3), [2, 2, 2])
    """
    arrays: dict[str, np.ndarray] = {}
    for split, count in counts.items():
        labels = _labels(count, seed, split)
        drawn = list(_draw_split(size, labels, seed, split))
        arrays[f"{split}_images"] = np.concatenate([images for images, _ in drawn])
        arrays[f"{split}_labels"] = labels[:, None]
        arrays[f"{split}_masks"] = np.concatenate([masks for _, masks in drawn])
    return arrays


def _labels(count: int, seed: int, split: Split) -> np.ndarray:
    blocks = [numpy_rng(seed, "phantom", split, "block", i).permutation(3) for i in range(-(-count // 3))]
    return np.concatenate(blocks).astype(np.int64)[:count]


def _draw_split(size: int, labels: np.ndarray, seed: int, split: Split) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    for start in range(0, len(labels), _BATCH):
        batch = labels[start : start + _BATCH]
        streams = [numpy_rng(seed, "phantom", split, start + i) for i in range(len(batch))]
        samples = [_draw_traits(int(label), rng) for label, rng in zip(batch, streams)]
        yield _render(_Traits(*map(np.stack, zip(*samples))), size)


def _draw_traits(label: int, rng: np.random.Generator) -> _Traits:
    """The traits of one lesion; every class draws the same numbers."""
    lobed = bool(_LOBED[label])
    depth = rng.uniform(0.07, 0.27) if lobed else rng.uniform(0.0, 0.05)
    tone = rng.uniform(0.85, 1.05)
    skin = tone * np.array([0.86, 0.70, 0.62]) + rng.normal(0, 0.02, 3)
    lesion = skin * rng.uniform(0.50, 0.72) * np.array([1.0, 0.88, 0.82]) + rng.normal(0, 0.02, 3)
    values: dict[str, Any] = dict(
        x=rng.uniform(0.42, 0.58),
        y=rng.uniform(0.42, 0.58),
        radius=rng.uniform(0.26, 0.31) / np.sqrt(1 + depth**2 / 2),
        stretch=rng.uniform(1.0, 1.15),
        angle=rng.uniform(0, np.pi),
        n_lobes=rng.integers(4, 7),
        lobe_depth=depth,
        lobe_phase=rng.uniform(0, 2 * np.pi),
        texture_angle=rng.uniform(0, np.pi),
        texture_frequency=rng.uniform(3.6, 4.2),
        texture_phases=rng.uniform(0, 2 * np.pi, 3),
        texture_depth=rng.uniform(0.24, 0.38),
        striped=_STRIPED[label],
        skin=skin,
        lesion=lesion,
        light=rng.normal(0, 0.05, 3),
        noise=rng.normal(0, 1, (_NOISE_GRID, _NOISE_GRID)) * rng.uniform(0.01, 0.03),
    )
    return _Traits(**{k: np.asarray(v, bool if k == "striped" else np.float32) for k, v in values.items()})


def _render(traits: _Traits, size: int) -> tuple[np.ndarray, np.ndarray]:
    """Images uint8 (B,size,size,3) and masks bool (B,size,size), averaged over `k` x `k` points a pixel."""
    k = -(-84 // size)
    points = (np.arange(size * k, dtype=np.float32) + 0.5) / (size * k)
    y, x = points[:, None], points[None, :]
    inside = _outline(traits, x, y)
    shade = inside * (1 + _column(traits.texture_depth) * _texture(traits, x, y))
    cover, shade = _shrink(inside, k), _shrink(shade, k)
    coarse = (np.arange(size, dtype=np.float32) + 0.5) / size
    light = 1 + _lighting(traits, coarse[None, :], coarse[:, None]) + _noise(traits.noise, coarse)
    skin, lesion = traits.skin[:, None, None, :], traits.lesion[:, None, None, :]
    image = ((1 - cover)[..., None] * skin + shade[..., None] * lesion) * light[..., None]
    return np.round(np.clip(image, 0, 1) * 255).astype(np.uint8), cover >= 0.5


def _column(values: np.ndarray) -> np.ndarray:
    return values[:, None, None]


def _turned(traits: _Traits, x: np.ndarray, y: np.ndarray, angle: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Coordinates around the lesion's centre, turned by `angle`; (B,H,W) each."""
    dx, dy = x - _column(traits.x), y - _column(traits.y)
    cos, sin = _column(np.cos(angle)), _column(np.sin(angle))
    return cos * dx + sin * dy, cos * dy - sin * dx


def _outline(traits: _Traits, x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Coverage in [0,1], (B,H,W): r(theta) = radius (1 + depth cos(n theta + phase)) on an ellipse of equal area."""
    u, v = _turned(traits, x, y, traits.angle)
    stretch = _column(np.sqrt(traits.stretch))
    u, v = u / stretch, v * stretch
    theta = np.arctan2(v, u)
    wave = np.cos(_column(traits.n_lobes) * theta + _column(traits.lobe_phase))
    border = _column(traits.radius) * (1 + _column(traits.lobe_depth) * wave)
    return 1 / (1 + np.exp(np.clip((np.sqrt(u * u + v * v) - border) / np.float32(_EDGE), -30, 30)))


def _texture(traits: _Traits, x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Stripes or dots of one frequency, mean 0 and equal variance, (B,H,W), on slightly bent coordinates."""
    u, v = _turned(traits, x, y, traits.texture_angle)
    phases = traits.texture_phases[:, :, None, None]
    turns = _column(2 * np.pi * traits.texture_frequency).astype(np.float32)
    bend = np.float32(0.012) * np.sin(12 * v + phases[:, 2])
    along, across = np.sin(turns * (u + bend) + phases[:, 0]), np.sin(turns * v + phases[:, 1])
    dots = (_DOT_MEAN - np.exp(_DOT_SHARPNESS * (along + across))) / _DOT_SCALE
    return np.where(_column(traits.striped), along, dots)


def _lighting(traits: _Traits, x: np.ndarray, y: np.ndarray) -> np.ndarray:
    a, b, c = (_column(traits.light[:, i]) for i in range(3))
    return a * (2 * x - 1) + b * (2 * y - 1) + c * np.cos(np.pi * x) * np.cos(np.pi * y)


def _noise(grid: np.ndarray, points: np.ndarray) -> np.ndarray:
    """Noise on a fixed grid, interpolated linearly at `points`, so that it is the same picture at every size."""
    position = np.clip(points * _NOISE_GRID - 0.5, 0, _NOISE_GRID - 1)
    weights = np.clip(1 - np.abs(position[:, None] - np.arange(_NOISE_GRID)), 0, 1).astype(np.float32)
    return weights @ grid @ weights.T


def _shrink(image: np.ndarray, k: int) -> np.ndarray:
    b, h, w = image.shape
    return image.reshape(b, h // k, k, w // k, k).mean(axis=(2, 4))
