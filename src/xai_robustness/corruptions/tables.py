"""Constants of each corruption at severities 1 to 5: the standard table and those of MedMNIST-C."""

from typing import Any

from xai_robustness.types import InputError

Constants = tuple[Any, Any, Any, Any, Any]

STANDARD = "standard"
"""Name of the table that suits any images."""

REFERENCE_SIZE = 224
"""Image side, in pixels, that constants in pixels are meant for."""


def _zooms(*ranges: tuple[int, int]) -> tuple[tuple[float, ...], ...]:
    """Zoom factors from 1 in steps, both given in hundredths: (stop, step), stop excluded."""
    return tuple(tuple(factor / 100 for factor in range(100, stop, step)) for stop, step in ranges)


def _stains(*counts: int) -> tuple[tuple[int, int], ...]:
    """Largest number of stains and the side of their box in pixels, which grows with the last two severities."""
    return tuple(zip(counts, (24, 24, 24, 24, 32)))


_DIM, _DIMMER = (0.9, 0.8, 0.7, 0.6, 0.5), (0.9, 0.8, 0.7, 0.6, 0.4)
_BRIGHT, _STEEP = (1.1, 1.2, 1.3, 1.4, 1.5), (1.1, 1.2, 1.3, 1.4, 1.6)
_JPEG, _MOTION = (50, 30, 15, 10, 7), ((10, 5), (15, 5), (15, 8), (15, 12), (20, 15))
_NOISE, _SPECKLE = (0.04, 0.08, 0.12, 0.18, 0.26), (0.05, 0.15, 0.2, 0.35, 0.45)
_IMPULSE, _SHOT = (0.01, 0.03, 0.06, 0.09, 0.17), (60, 25, 18, 10, 5)
_DISK = ((4, 0.1), (5, 0.2), (6, 0.3), (7, 0.4), (8, 0.5))

_CHEST: dict[str, Any] = {
    "gaussian_blur": (3, 5, 7, 9, 11),
    "brightness_up": _BRIGHT,
    "brightness_down": _DIM,
    "contrast_up": _STEEP,
    "contrast_down": _DIMMER,
    "gamma_corr_up": _STEEP,
    "gamma_corr_down": _DIMMER,
}
_ORGAN: dict[str, Any] = {
    "pixelate": (0.7, 0.6, 0.5, 0.4, 0.35),
    "jpeg_compression": _JPEG,
    "gaussian_noise": (0.04, 0.08, 0.12, 0.16, 0.2),
    "speckle_noise": (0.05, 0.1, 0.2, 0.3, 0.4),
    "impulse_noise": (0.01, 0.02, 0.03, 0.05, 0.08),
    "shot_noise": (200, 100, 50, 25, 15),
    "gaussian_blur": (11, 13, 15, 17, 21),
    "brightness_up": (1.2, 1.3, 1.4, 1.5, 1.6),
    "brightness_down": (0.8, 0.75, 0.7, 0.65, 0.6),
    "contrast_up": (1.3, 1.4, 1.6, 1.7, 1.8),
    "contrast_down": (0.8, 0.7, 0.6, 0.55, 0.5),
    "gamma_corr_up": (1.3, 1.4, 1.6, 1.8, 2),
    "gamma_corr_down": _DIMMER,
}

MEDMNIST_C: dict[str, dict[str, Any]] = {
    "pathmnist": {
        "pixelate": (0.8, 0.6, 0.4, 0.3, 0.25),
        "jpeg_compression": _JPEG,
        "defocus_blur": ((3, 0.1), (4, 0.1), (5, 0.2), (6, 0.2), (7, 0.3)),
        "motion_blur": ((5, 5), (10, 5), (15, 5), (15, 8), (15, 12)),
        "brightness_up": (1.1, 1.15, 1.2, 1.22, 1.25),
        "brightness_down": (0.85, 0.8, 0.75, 0.72, 0.7),
        "contrast_up": _STEEP,
        "contrast_down": (0.8, 0.7, 0.6, 0.55, 0.5),
        "saturate": (0.05, 0.1, 0.15, 0.2, 0.25),
        "stain_deposit": _stains(1, 2, 3, 4, 5),
        "bubble": ((7, 15), (10, 15), (12, 15), (15, 20), (17, 25)),
    },
    "bloodmnist": {
        "pixelate": (0.6, 0.5, 0.4, 0.3, 0.25),
        "jpeg_compression": _JPEG,
        "defocus_blur": ((2, 0.01), (3, 0.1), (4, 0.1), (5, 0.1), (6, 0.1)),
        "motion_blur": ((3, 3), (5, 5), (10, 5), (10, 7), (10, 9)),
        "brightness_up": (1.1, 1.2, 1.3, 1.35, 1.4),
        "brightness_down": _DIM,
        "contrast_up": (1.1, 1.15, 1.2, 1.25, 1.3),
        "contrast_down": _DIM,
        "saturate": (0.05, 0.1, 0.15, 0.17, 0.2),
        "stain_deposit": _stains(1, 2, 3, 3, 3),
        "bubble": ((5, 10), (7, 10), (10, 10), (12, 12), (15, 12)),
    },
    "dermamnist": {
        "pixelate": (0.7, 0.5, 0.4, 0.3, 0.25),
        "jpeg_compression": (30, 20, 15, 10, 7),
        "gaussian_noise": _NOISE,
        "speckle_noise": _SPECKLE,
        "impulse_noise": _IMPULSE,
        "shot_noise": _SHOT,
        "defocus_blur": _DISK,
        "motion_blur": _MOTION,
        "zoom_blur": _zooms((111, 1), (116, 1), (121, 2), (126, 2), (131, 3)),
        "brightness_up": _BRIGHT,
        "brightness_down": _DIM,
        "contrast_up": _STEEP,
        "contrast_down": (0.8, 0.7, 0.6, 0.5, 0.4),
        "black_corner": (1.1, 1.05, 1, 0.9, 0.95),
        "characters": ((1, 6, 0.14), (2, 7, 0.15), (3, 8, 0.16), (4, 9, 0.17), (6, 10, 0.18)),
    },
    "retinamnist": {
        "pixelate": (0.8, 0.6, 0.5, 0.4, 0.35),
        "jpeg_compression": (30, 25, 20, 10, 5),
        "gaussian_noise": (0.04, 0.08, 0.12, 0.16, 0.2),
        "speckle_noise": (0.1, 0.15, 0.2, 0.25, 0.3),
        "defocus_blur": _DISK,
        "motion_blur": ((8, 5), (15, 5), (15, 8), (15, 12), (20, 15)),
        "brightness_down": _DIM,
        "contrast_down": _DIMMER,
    },
    "tissuemnist": {
        "pixelate": (0.4, 0.3, 0.2, 0.15, 0.1),
        "jpeg_compression": (25, 20, 15, 10, 7),
        "impulse_noise": (0.01, 0.015, 0.02, 0.025, 0.03),
        "gaussian_blur": (13, 15, 17, 21, 25),
        "brightness_up": (1.3, 1.4, 1.5, 1.6, 1.7),
        "brightness_down": (0.8, 0.7, 0.6, 0.5, 0.4),
        "contrast_up": _STEEP,
        "contrast_down": _DIMMER,
    },
    "octmnist": {
        "pixelate": (0.3, 0.25, 0.2, 0.15, 0.1),
        "jpeg_compression": (30, 15, 10, 7, 5),
        "speckle_noise": (0.15, 0.3, 0.4, 0.5, 0.6),
        "defocus_blur": ((0.5, 0.6), (1, 0.5), (1.5, 0.1), (2, 0.5), (2.5, 0.1)),
        "motion_blur": ((10, 3), (15, 5), (15, 8), (15, 12), (20, 15)),
        "contrast_down": (0.6, 0.4, 0.3, 0.2, 0.15),
    },
    "breastmnist": {
        "pixelate": (0.3, 0.25, 0.2, 0.15, 0.1),
        "jpeg_compression": _JPEG,
        "speckle_noise": (0.1, 0.15, 0.2, 0.25, 0.3),
        "motion_blur": ((5, 5), (9, 7), (9, 10), (13, 10), (17, 12)),
        "brightness_up": (1.4, 1.5, 1.6, 1.8, 2),
        "brightness_down": (0.55, 0.5, 0.45, 0.4, 0.3),
        "contrast_down": _DIMMER,
    },
    "chestmnist": {
        "pixelate": (0.3, 0.25, 0.2, 0.15, 0.1),
        "jpeg_compression": _JPEG,
        "gaussian_noise": _NOISE,
        "speckle_noise": _SPECKLE,
        "impulse_noise": _IMPULSE,
        "shot_noise": _SHOT,
        **_CHEST,
    },
    "pneumoniamnist": {
        "pixelate": (0.8, 0.7, 0.6, 0.5, 0.4),
        "jpeg_compression": _JPEG,
        "gaussian_noise": (0.04, 0.05, 0.06, 0.07, 0.08),
        "speckle_noise": (0.05, 0.07, 0.1, 0.15, 0.2),
        "impulse_noise": (0.005, 0.01, 0.013, 0.017, 0.02),
        "shot_noise": (300, 200, 150, 100, 80),
        **_CHEST,
    },
    "organamnist": _ORGAN,
    "organcmnist": _ORGAN,
    "organsmnist": _ORGAN,
}
"""MedMNIST-C [DiSalvo2024]: data set -> corruption -> constants; where it lists six, the first five, which it uses.

`black_corner` ends with 0.9, 0.95 as published, so its damage does not rise from severity 4 to 5.
"""

MRI_LIKE = ("gaussian_noise", "speckle_noise", "motion_blur", "contrast", "brightness")
"""The five perturbations of the layer-wise study, with ImageNet-C's constants, which the standard table holds."""

SEVERITIES: dict[str, Constants] = {
    # ImageNet-C [Hendrycks2019]: standard deviations; (radius, sigma) in pixels of a 224-pixel image; factor; shift.
    "gaussian_noise": (0.08, 0.12, 0.18, 0.26, 0.38),
    "speckle_noise": (0.15, 0.2, 0.35, 0.45, 0.6),
    "motion_blur": _MOTION,
    "contrast": (0.4, 0.3, 0.2, 0.1, 0.05),
    "brightness": (0.1, 0.2, 0.3, 0.4, 0.5),
    # MedMNIST-C [DiSalvo2024], its lists for dermamnist, chestmnist and pathmnist.
    **{
        name: MEDMNIST_C["dermamnist"][name]
        for name in (
            *("pixelate", "jpeg_compression", "impulse_noise", "shot_noise", "defocus_blur", "zoom_blur"),
            *("brightness_up", "brightness_down", "contrast_up", "contrast_down", "black_corner", "characters"),
        )
    },
    **{name: _CHEST[name] for name in ("gaussian_blur", "gamma_corr_up", "gamma_corr_down")},
    **{name: MEDMNIST_C["pathmnist"][name] for name in ("saturate", "stain_deposit", "bubble")},
}
"""The standard table, for images of any data set."""


def corruptions_of(table: str) -> tuple[str, ...]:
    """Names of the corruptions that a table holds, in its order.

    Raises:
        InputError: `table` is neither `standard` nor a data set with a table.
    """
    return tuple(_table(table))


def constants(table: str, name: str) -> Constants:
    """Constants of a corruption at severities 1 to 5.

    Raises:
        InputError: no such table, or it does not hold the corruption.
    """
    found = _table(table)
    if name not in found:
        raise InputError(
            f"The table parameter of {name} must be one that holds it. Got '{table}' instead, which holds "
            f"{', '.join(found)}; take one of them or table: {STANDARD}."
        )
    five: Constants = found[name]
    return five


def _table(table: str) -> dict[str, Any]:
    if table == STANDARD:
        return SEVERITIES
    if table not in MEDMNIST_C:
        raise InputError(
            f"The table parameter of the corruptions must be a data set with a severity table or '{STANDARD}'. "
            f"Got '{table}' instead; choose from: {STANDARD}, {', '.join(sorted(MEDMNIST_C))}."
        )
    return MEDMNIST_C[table]
