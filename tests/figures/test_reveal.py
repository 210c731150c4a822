import numpy as np
import pandas as pd
from tests.figures.tools import RNG, images

from xai_robustness.figures import reveal


def embedding(**options):
    points = RNG.normal(size=(40, 2))
    groups = np.repeat([-1, 0, 3], [20, 12, 8])
    index = np.array([22, 20, 21, 35, 33])
    names = options.pop("names", {0: "suspect 1", 3: "suspect 2"})
    return points, groups, reveal.embedding_figure(points, groups, names, images(5), index, **options)


def test_embedding_draws_groups_truth_and_thumbnails(draw):
    truth = np.arange(40) % 4 == 0
    points, groups, figure = embedding(truth=truth, title="class 0, layer3")
    draw(figure)
    axes, *small = [axes for half in figure.subfigs for axes in half.axes]
    other, second, first, rings = (part.get_offsets() for part in axes.collections)
    assert np.allclose(other, points[groups == -1])
    assert np.allclose(second, points[groups == 3])
    assert np.allclose(first, points[groups == 0])
    assert np.allclose(rings, points[truth])
    assert axes.get_title() == "class 0, layer3"
    labels = [text.get_text() for text in figure.legends[0].get_texts()]
    assert labels == ["suspect 1", "suspect 2", "no suspect", "true artifact"]
    assert [len(tile.images) for tile in small] == [1, 1, 1, 0, 0, 0, 1, 1, 0, 0, 0, 0]
    assert [small[0].get_ylabel(), small[6].get_ylabel()] == ["suspect 1", "suspect 2"]


def test_embedding_without_suspects_is_a_plain_scatter(draw):
    _, _, figure = embedding(names={})
    draw(figure)
    assert len(figure.axes) == 1
    assert [text.get_text() for text in figure.legends[0].get_texts()] == ["no suspect"]


def test_prototypes_have_a_row_each_with_their_coverage_and_channels(draw):
    rows = [(c, p, 0.75 - p / 2, place) for c in (0, 1) for p in (0, 1) for place in range(3)]
    table = pd.DataFrame(rows, columns=["class", "prototype", "coverage", "place"])
    images = np.zeros((12, 8, 8, 1), np.uint8) + np.arange(12, dtype=np.uint8)[:, None, None, None]
    lines = [(c, p, k, 10.0 * (k == p) - 2) for c in (0, 1) for p in (0, 1) for k in (1, 0)]
    concepts = pd.DataFrame(lines, columns=["class", "prototype", "neuron", "percent"])
    figure = draw(reveal.prototype_figure(table, images, concepts, images[:8] + np.uint8(50), ("benign", "malignant")))
    axes = np.array(figure.axes).reshape(6, 5)
    assert [a.get_ylabel() for a in axes[[1, 2, 4, 5], 0]][::3] == ["benign, 1: 75%", "malignant, 2: 25%"]
    assert axes[2, 2].images[0].get_array()[0, 0, 0] == 5 and not axes[0, 0].axison
    assert [a.get_title() for a in axes[3, 3:]] == ["1", "0"]
    assert [a.images[0].get_array()[0, 0, 0] for a in axes[3, 3:]] == [54, 55]
    assert [[a.texts[0].get_text() for a in line] for line in axes[1:3, 3:]] == [["-2.0", "8.0"], ["8.0", "-2.0"]]
    assert axes[1, 4].images[0].get_array()[0, 0] == 1
    none = reveal.prototype_figure(table.iloc[:0], images[:0], concepts.iloc[:0], images[:0], ("a",))
    assert "No prototypes" in draw(none).texts[0].get_text()


def test_transplants_are_outlined_where_a_part_left_and_where_it_went(draw):
    shown = np.random.default_rng(0).integers(0, 255, size=(2, 3, 4, 8, 8, 1)).astype(np.uint8)
    parts = np.zeros((2, 3, 8, 8), bool)
    parts[..., 2:5, 3:6] = True
    figure = draw(reveal.transplant_figure(["joined 0\n7.9 sd", "cluster 1\n0.3 sd"], shown, parts))
    assert len(figure.axes) == 24 and [a.get_title() for a in figure.axes[:4]] == [
        "suspect",
        "without",
        "other",
        "with",
    ]
    assert [bool(a.collections) for a in figure.axes[:4]] == [True, False, False, True]
    assert "No suspect" in draw(reveal.transplant_figure([], shown[:0], parts[:0])).texts[0].get_text()
