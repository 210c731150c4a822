import io

import matplotlib.image
import numpy as np
import pytest
from matplotlib.colors import to_rgb

from xai_robustness.figures.gallery import clipping, gallery
from xai_robustness.figures.style import GREEN, VERMILLION
from xai_robustness.types import InputError


def drawn(figure) -> np.ndarray:
    buffer = io.BytesIO()
    figure.savefig(buffer, dpi=50, metadata={"Software": None})
    buffer.seek(0)
    return matplotlib.image.imread(buffer)


@pytest.fixture
def some():
    rng = np.random.default_rng(0)
    images = rng.random((3, 1, 10, 10))
    return images, {"saliency": rng.normal(size=(3, 1, 10, 10)), "lrp": rng.normal(size=(3, 3, 10, 10))}


@pytest.mark.parametrize("factor", [1e-12, 1e12])
def test_maps_of_any_magnitude_look_the_same(some, factor) -> None:
    images, maps = some
    scaled = {key: value * factor for key, value in maps.items()}
    assert np.abs(drawn(gallery(images, maps)) - drawn(gallery(images, scaled))).max() <= 1 / 255
    flipped = {key: -value for key, value in maps.items()}
    assert np.abs(drawn(gallery(images, maps)) - drawn(gallery(images, flipped))).max() > 0.1


def test_small_float32_and_float16_maps_are_not_blank(some) -> None:
    images, maps = some
    tiny = {key: (value * 1e-12).astype(np.float32) for key, value in maps.items()}
    assert np.abs(drawn(gallery(images, maps)) - drawn(gallery(images, tiny))).max() <= 2 / 255


def test_rows_columns_titles_and_frames(some) -> None:
    images, maps = some
    figure = gallery(images, maps, titles=["one", "two", "three"], correct=[True, False, True])
    axes = figure.axes[:9]
    assert [a.get_title() for a in axes[:3]] == ["one", "two", "three"]
    assert [a.get_ylabel() for a in axes[::3]] == ["image", "saliency", "lrp"]
    colours = [to_rgb(a.spines["top"].get_edgecolor()) for a in axes[:3]]
    assert colours == [to_rgb(GREEN), to_rgb(VERMILLION), to_rgb(GREEN)]
    shown = axes[3].images[0]
    assert shown.get_clim() == (-1, 1)
    expected = maps["lrp"].sum(1)[2]
    expected = expected / np.percentile(np.abs(expected), 99)
    np.testing.assert_allclose(axes[8].images[0].get_array(), expected)


def test_an_outlier_does_not_hide_the_rest() -> None:
    one = np.ones((20, 20))
    one[0, 0] = 1e6
    assert clipping(one, 99) == 1
    assert clipping(one, 100) == 1e6


def test_sparse_empty_and_broken_maps() -> None:
    sparse = np.zeros((20, 20))
    sparse[3, 3] = -2.0
    assert clipping(sparse, 99) == 2
    assert clipping(np.zeros((4, 4)), 99) == 0
    assert clipping(np.full((4, 4), np.nan), 99) == 0
    gallery(np.zeros((1, 1, 4, 4)), {"a": np.full((1, 1, 4, 4), np.nan)})


def test_nothing_to_show_and_a_bad_percentile(some) -> None:
    assert "no attribution set" in gallery([], {}).texts[0].get_text()
    with pytest.raises(InputError, match=r"percentile .* in \(0,100\]. Got 0"):
        gallery(*some, percentile=0)
