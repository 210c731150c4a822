import numpy as np
import pandas as pd
import pytest
from tests.figures.tools import legend_of

from xai_robustness.figures import retrieval


def retrieval_table() -> pd.DataFrame:
    rows = [
        (layer, kind, f"test/biased/{metric}", 0.8 + i / 100, 0.7, 0.95, 50)
        for metric in ("auroc", "average_precision")
        for i, layer in enumerate(("layer1", "layer2", "layer3"))
        for kind in ("signal", "svm", "neuron")
    ]
    return pd.DataFrame(rows, columns=["layer", "kind", "metric", "value", "ci_low", "ci_high", "n"])


def test_retrieval_has_a_panel_a_metric_and_a_mark_a_kind(draw):
    figure = draw(retrieval.comparison(retrieval_table()))
    assert [axes.get_title() for axes in figure.axes] == ["AUROC", "average precision"]
    assert legend_of(figure) == ["signal", "SVM", "neuron"]
    assert [text.get_text() for text in figure.axes[0].get_xticklabels()] == ["layer1", "layer2", "layer3"]
    marks = figure.axes[0].containers
    assert len(marks) == 3
    assert np.allclose(marks[0].lines[0].get_ydata(), [0.8, 0.81, 0.82])
    assert np.allclose(marks[0].lines[2][0].get_segments()[0][:, 1], [0.7, 0.95])


def test_retrieval_without_concept_vectors_is_blank(draw):
    assert "No concept vector" in draw(retrieval.comparison(retrieval_table().iloc[:0])).texts[0].get_text()


def test_scores_are_two_distributions_on_common_bins(draw):
    scores = np.concatenate([np.zeros(30), np.ones(10), [np.nan]])
    labels = np.arange(41) >= 30
    figure = draw(retrieval.score_figure(scores, labels, "signal, layer3"))
    assert legend_of(figure) == ["without artifact (n = 30)", "with artifact (n = 10)"]
    clean, artifact = figure.axes[0].containers
    assert [bar.get_x() for bar in clean] == [bar.get_x() for bar in artifact]
    assert sum(bar.get_height() * bar.get_width() for bar in artifact) == pytest.approx(1)
    assert figure.axes[0].get_title() == "signal, layer3"
    draw(retrieval.score_figure(np.full(4, np.nan), np.zeros(4, bool)))


def test_scores_show_samples_at_the_quantiles_of_both_groups(draw):
    scores, labels = np.arange(20.0), np.arange(20) >= 12
    shown = {has: retrieval.quantile_rows(scores, labels == has) for has in (False, True)}
    assert shown[False].tolist() == [0, 6, 11] and shown[True].tolist() == [12, 16, 19]
    images = {has: np.full((3, 8, 8, 3), 100 + 50 * has, np.uint8) for has in shown}
    figure = draw(retrieval.score_figure(scores, labels, "scores", shown, images))
    tiles = [axes for axes in figure.axes if axes.images]
    assert [axes.images[0].get_array()[0, 0, 0] for axes in tiles] == [100] * 3 + [150] * 3
    assert [axes.get_title().split()[0] for axes in tiles] == ["0.2%", "50.0%", "99.8%"] * 2
    assert [axes.get_title().split()[1] for axes in tiles[3:]] == ["12.00", "16.00", "19.00"]
    empty = {False: shown[False], True: retrieval.quantile_rows(scores, labels & ~labels)}
    draw(retrieval.score_figure(scores, labels, "", empty, {False: images[False], True: images[True][:0]}))


def test_kinds_of_relevance_vectors_are_named_so(draw):
    table = retrieval_table()
    both = pd.concat([table.assign(feature="activations"), table.assign(feature="relevances")])
    assert "signal, relevances" in legend_of(draw(retrieval.comparison(both)))


def test_label_effort_has_a_line_a_strategy(draw):
    rows = [(s, r, n, n, n / 9, 0.1 * n + r / 10) for s in ("mixed", "random") for r in (0, 1) for n in (3, 6, 9)]
    columns = ["strategy", "repeat", "labels", "found", "recall", "average_precision"]
    table = pd.DataFrame(rows, columns=columns)
    figure = draw(retrieval.effort_figure(table, 0.9))
    assert legend_of(figure) == ["mixed", "random"]
    assert np.allclose(figure.axes[1].lines[0].get_ydata(), [0.35, 0.65, 0.95])
    assert "not measured" in draw(retrieval.effort_figure(table.iloc[:0], 0.9)).texts[0].get_text()


def test_the_first_samples_are_framed_by_their_label(draw):
    images = np.full((10, 8, 8, 3), 90, np.uint8)
    scores, labels = np.linspace(3, 1, 10), np.arange(10) < 4
    figure = draw(
        retrieval.retrieved_figure(images, scores, labels, ["NV"] * 10, "First of 50 test samples by a/ridge")
    )
    tiles = [axes for axes in figure.axes if axes.images]
    assert len(tiles) == 10 and tiles[0].get_title() == "NV\n3.00"
    colours = [axes.spines["left"].get_edgecolor() for axes in tiles]
    assert len(set(colours[:4])) == len(set(colours[4:])) == 1 and colours[0] != colours[9]
    assert figure.get_suptitle() == "First of 50 test samples by a/ridge: 4 of 10 labelled with the artifact"
    assert legend_of(figure) == ["without artifact", "with artifact"]
    nothing = draw(retrieval.retrieved_figure(images[:0], scores[:0], labels[:0], [], "None confirmed"))
    assert nothing.texts[0].get_text() == "None confirmed"
