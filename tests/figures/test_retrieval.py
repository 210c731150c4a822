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
