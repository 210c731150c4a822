import numpy as np
import pytest
from tests.figures.tools import RNG, images, maps, shown, tiles

from xai_robustness.figures import localization
from xai_robustness.figures.style import DIVERGING


@pytest.mark.parametrize("scale", [1.0, 1e-12, 1e-30])
def test_heatmaps_of_any_magnitude_fill_the_scale(draw, scale):
    heatmaps, truth = maps(3, scale), RNG.random((3, 12, 12)) > 0.8
    figure = draw(localization.rows_figure(images(3), truth, heatmaps, heatmaps > 0, ["a", "b", "c"]))
    grid = tiles(figure, 4, 3)
    assert [axes.get_ylabel() for axes in grid[:, 0]] == ["input", "true mask", "heatmap", "predicted mask"]
    assert [axes.get_title() for axes in grid[0]] == ["a", "b", "c"]
    for axes, heatmap in zip(grid[2], heatmaps):
        assert np.abs(shown(axes)).max() == pytest.approx(1)
        assert np.allclose(shown(axes) * np.abs(heatmap).max(), heatmap, rtol=1e-6, atol=0)
        assert axes.images[0].get_clim() == (-1, 1)
        assert axes.images[0].get_cmap().name == DIVERGING
    assert (shown(grid[1, 1]) == truth[1]).all()
    assert (shown(grid[3, 2]) == (heatmaps[2] > 0)).all()
    assert "relevance" in figure.axes[-1].get_ylabel()


def test_without_truth_there_are_three_rows(draw):
    figure = draw(localization.rows_figure(images(2), None, maps(2, 1), np.zeros((2, 12, 12), bool)))
    assert [axes.get_ylabel() for axes in tiles(figure, 3, 2)[:, 0]] == ["input", "heatmap", "predicted mask"]


def test_zero_and_undefined_heatmaps_are_drawn(draw):
    heatmaps = np.zeros((2, 12, 12))
    heatmaps[1, 0, 0] = np.nan
    figure = draw(localization.rows_figure(images(2), None, heatmaps, heatmaps > 0))
    grid = tiles(figure, 3, 2)
    assert (shown(grid[1, 0]) == 0).all()
    assert np.isnan(shown(grid[1, 1])[0, 0])


def test_nothing_localized_is_blank(draw):
    none = maps(0, 1)
    assert (
        "No sample was localized" in draw(localization.rows_figure(images(0), None, none, none > 0)).texts[0].get_text()
    )
