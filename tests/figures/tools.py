"""What the tests of figures share: small inputs, and reading figures back."""

import numpy as np

RNG = np.random.default_rng(0)


def legend_of(figure) -> list[str]:
    return [text.get_text() for legend in figure.legends for text in legend.get_texts()]


def images(n: int, channels: int = 3, size: int = 12) -> np.ndarray:
    return RNG.integers(0, 255, (n, size, size, channels), dtype=np.uint8)


def maps(n: int, scale: float) -> np.ndarray:
    return (RNG.normal(size=(n, 12, 12)) * scale).astype(np.float64)


def shown(axes) -> np.ndarray:
    (image,) = axes.images
    return np.ma.filled(image.get_array(), np.nan)


def tiles(figure, rows: int, columns: int) -> np.ndarray:
    return np.array(figure.axes[: rows * columns]).reshape(rows, columns)
