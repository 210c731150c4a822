"""Constants of each corruption at severities 1 to 5."""

from typing import Any

SEVERITIES: dict[str, tuple[Any, Any, Any, Any, Any]] = {
    # ImageNet-C [Hendrycks2019]: standard deviation; (radius, sigma) in pixels of a 224-pixel image; factor; shift.
    "gaussian_noise": (0.08, 0.12, 0.18, 0.26, 0.38),
    "motion_blur": ((10, 5), (15, 5), (15, 8), (15, 12), (20, 15)),
    "contrast": (0.4, 0.3, 0.2, 0.1, 0.05),
    "brightness": (0.1, 0.2, 0.3, 0.4, 0.5),
    # MedMNIST-C [DiSalvo2024], its list for dermamnist: JPEG quality.
    "jpeg_compression": (30, 20, 15, 10, 7),
}

REFERENCE_SIZE = 224
"""Image side, in pixels, that constants in pixels are meant for."""
