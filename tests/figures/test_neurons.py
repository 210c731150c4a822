import numpy as np
from tests.figures.tools import RNG, images

from xai_robustness.figures.neurons import References, glocal_figure, neuron_gallery


def rows(count, samples):
    return [References(f"layer4, {k}", images(samples), RNG.normal(size=(samples, 8, 8))) for k in range(count)]


def test_gallery_pairs_images_and_heatmaps_in_two_lines_a_neuron(draw):
    given = rows(2, 4)
    figure = draw(neuron_gallery(given, 2, ("most relevance", "most activation")))
    grid = np.array(figure.axes[:-1]).reshape(4, 4)
    assert [grid[i, 0].get_ylabel() for i in range(4)] == ["layer4, 0", "", "layer4, 1", ""]
    assert [grid[0, j].texts[0].get_text() for j in (0, 2)] == ["most relevance", "most activation"]
    shown = np.asarray(grid[3, 1].images[0].get_array())
    np.testing.assert_allclose(shown, given[1].heatmaps[1] / np.abs(given[1].heatmaps[1]).max())
    more = [References(row.title, np.concatenate([row.images, images(2)]), row.heatmaps) for row in given]
    figure = draw(neuron_gallery(more, 2, ("most relevance", "most activation", "made for it")))
    grid = np.array(figure.axes[:-1]).reshape(4, 6)
    assert grid[0, 4].texts[0].get_text() == "made for it"
    assert grid[2, 5].images and not grid[3, 5].images
    assert "reveal.neurons.shown" in draw(neuron_gallery([], 2)).texts[0].get_text()


def test_a_sample_is_taken_apart_on_one_scale(draw):
    parts = RNG.normal(size=(2, 8, 8)) * np.array([1.0, 3.0])[:, None, None]
    figure = draw(glocal_figure(images(1), RNG.normal(size=(8, 8)), parts, rows(2, 3)))
    grid = np.array(figure.axes[:-1]).reshape(4, 5)
    for line, part in zip((0, 2), parts):
        np.testing.assert_allclose(grid[line, 1].images[0].get_array(), part / np.abs(parts).max())
    assert [grid[i, 1].get_xlabel() for i in (0, 2)] == ["layer4, 0", "layer4, 1"]
    assert len(grid[2, 0].images) == 0 and len(grid[3, 4].images) == 1
