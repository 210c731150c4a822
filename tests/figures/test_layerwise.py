import numpy as np
import pandas as pd

from xai_robustness.figures.layerwise import layerwise_figures
from xai_robustness.figures.robustness_table import table_figure


def layerwise_table() -> pd.DataFrame:
    rng, rows = np.random.default_rng(0), []
    layers = [f"layer{i}.{j}.conv2" for i in range(1, 5) for j in (0, 1)]
    for corruption in ("gaussian_noise", "speckle_noise", "motion_blur", "contrast", "brightness"):
        for severity in range(1, 6):
            rows.append(("", corruption, severity, "all", "auroc_loss", severity / 20, 0, 1, 9))
            for layer in layers:
                for group in ("all", "correct", "incorrect"):
                    rows.append((layer, corruption, severity, group, "rmse", rng.random() / 2, 0, 1, 9))
    return pd.DataFrame(
        rows,
        columns=["layer", "corruption", "severity", "group", "metric", "value", "ci_low", "ci_high", "n"],
    )


def test_the_five_plots_are_drawn(draw):
    figures = layerwise_figures(layerwise_table())
    assert len(figures) == 5
    panels = {name: len(draw(figure).axes) for name, figure in figures.items()}
    assert panels == {
        "rmse": 5,
        "scatter_by_severity": 40,
        "scatter_by_corruption": 40,
        "box_by_layer": 2,
        "box_by_loss": 5,
    }


def test_the_one_table_has_a_panel_a_column_and_a_line_a_model(draw):
    rows = [
        (model, f"test/{c}", 0.5, 0.4, 0.6, 90, 0.1, 0.0, 0.2, p)
        for model, p in (("vanilla", np.nan), ("corrected", 0.01))
        for c in ("clean/balanced_accuracy", "corrupted/ssim")
    ]
    columns = ["model", "metric", "value", "ci_low", "ci_high", "n", "difference"]
    table = pd.DataFrame(rows, columns=[*columns, "difference_low", "difference_high", "p_value"])
    figure = draw(table_figure(table))
    assert [axes.get_title() for axes in figure.axes] == ["clean\nbalanced accuracy", "corrupted\nSSIM"]
    assert [t.get_text() for t in figure.axes[0].get_yticklabels()] == ["vanilla", "corrected"]
    assert "Nothing" in draw(table_figure(table.iloc[:0])).texts[0].get_text()
