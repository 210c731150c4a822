import numpy as np
import pandas as pd
import pytest
from matplotlib.colors import to_hex
from tests.figures.tools import legend_of

from xai_robustness.figures import robustness
from xai_robustness.figures.style import BLUE, VERMILLION
from xai_robustness.types import InputError

CORRUPTIONS = ("gaussian_noise", "contrast")


def robustness_table(methods: tuple[str, ...] = (), clean: bool = True) -> pd.DataFrame:
    subjects = [("clean", 0)] * clean + [(c, s) for c in CORRUPTIONS for s in range(1, 6)]
    rows = [
        (model, corruption, severity, method, f"test/x/{metric}", 0.9 - severity / 10 + bonus, 0.3, 0.95, 60)
        for model, bonus in (("vanilla", 0.0), ("corrected", 0.05))
        for corruption, severity in subjects
        for method in methods or ("",)
        for metric in ("balanced_accuracy", "ssim")
    ]
    columns = ["model", "corruption", "severity", "method", "metric", "value", "ci_low", "ci_high", "n"]
    return pd.DataFrame(rows, columns=columns)


@pytest.mark.parametrize("with_method", [True, False])
def test_robustness_begins_every_curve_at_the_clean_value(draw, with_method):
    table = robustness_table() if with_method else robustness_table().drop(columns="method")
    figure = draw(robustness.curves(table))
    assert [axes.get_title() for axes in figure.axes] == ["gaussian noise", "contrast"]
    assert legend_of(figure) == ["vanilla", "corrected"]
    for axes in figure.axes:
        before, after = axes.get_lines()
        assert list(before.get_xdata()) == [0, 1, 2, 3, 4, 5]
        assert np.allclose(before.get_ydata(), 0.9 - np.arange(6) / 10)
        assert (to_hex(before.get_color()).upper(), to_hex(after.get_color()).upper()) == (VERMILLION, BLUE)
        assert before.get_linestyle() != after.get_linestyle()
        assert len(axes.collections) == 2
        assert axes.get_xlabel() == "severity (0: clean)"


def test_agreement_has_one_row_of_panels_a_method(draw):
    figure = draw(robustness.curves(robustness_table(("saliency", "grad_cam"), clean=False), "ssim"))
    assert len(figure.axes) == 4
    assert [axes.get_ylabel() for axes in figure.axes[::2]] == ["Saliency\nSSIM", "Grad-CAM\nSSIM"]
    assert list(figure.axes[0].get_lines()[0].get_xdata()) == [1, 2, 3, 4, 5]
    assert figure.axes[2].get_xlabel() == "severity"


def test_robustness_without_rows_is_blank_and_an_unknown_metric_is_refused(draw):
    assert "Nothing was measured" in draw(robustness.curves(robustness_table().iloc[:0])).texts[0].get_text()
    with pytest.raises(InputError, match=r"must be one of: balanced_accuracy, ssim\. Got 'acc'"):
        robustness.curves(robustness_table(), "acc")
