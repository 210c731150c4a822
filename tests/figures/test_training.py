import numpy as np
import pandas as pd
from tests.figures.tools import legend_of

from xai_robustness.figures import training


def history(epochs: int = 4) -> pd.DataFrame:
    rows = [(e, s, 1 / e, 0.5 + e / 20, 0.5, 0.6) for s in ("train", "val") for e in range(1, epochs + 1)]
    return pd.DataFrame(rows, columns=["epoch", "split", "loss", "accuracy", "balanced_accuracy", "auroc"])


def test_training_draws_each_split_in_each_panel(draw):
    figure = draw(training.curves(history(), best_epoch=3))
    assert [axes.get_title() for axes in figure.axes] == ["loss", "accuracy", "AUROC"]
    assert legend_of(figure) == ["train", "val", "kept epoch"]
    train, val, kept = figure.axes[0].get_lines()
    assert np.allclose(train.get_ydata(), [1, 1 / 2, 1 / 3, 1 / 4])
    assert train.get_linestyle() != val.get_linestyle()
    assert list(kept.get_xdata()) == [3, 3]


def test_training_of_a_given_checkpoint_says_so(draw):
    figure = draw(training.curves(history().iloc[:0]))
    assert all("checkpoint was given" in axes.texts[0].get_text() for axes in figure.axes)
    assert not figure.legends
