import numpy as np
import pandas as pd
import pytest
from matplotlib.colors import to_rgba
from tests.figures.tools import images, maps, shown, tiles

from xai_robustness.figures.mitigation import before_after, comparison, tradeoff
from xai_robustness.figures.style import BLUE, VERMILLION
from xai_robustness.types import InputError

CANDIDATES = {
    "vanilla": ("vanilla", None, 0.93, 0.60),
    "rrr-10": ("rrr", None, 0.92, 0.70),
    "rr_clarc-layer2-1e6": ("rr_clarc", "layer2", 0.91, 0.85),
    "p_clarc-layer1": ("p_clarc", "layer1", np.nan, np.nan),
}
BEST = {"vanilla": "vanilla", "rr_clarc": "rr_clarc-layer2-1e6", "p_clarc": "p_clarc-layer1"}


def table(candidates: dict = CANDIDATES) -> pd.DataFrame:
    rows = [
        (name, method, layer, f"{split}/{condition}/{metric}", value, value - 0.02, value + 0.01, 60)
        for name, (method, layer, clean, attacked) in candidates.items()
        for split in ("val", "test")
        for condition, value in (("clean", clean), ("attacked", attacked))
        for metric in ("balanced_accuracy", "auroc")
    ]
    return pd.DataFrame(rows, columns=["candidate", "method", "layer", "metric", "value", "ci_low", "ci_high", "n"])


def test_comparison_has_two_bars_with_intervals_a_candidate(draw):
    figure = draw(comparison(table(), BEST, selected="rr_clarc-layer2-1e6"))
    (axes,) = figure.axes
    labels = axes.get_xticklabels()
    assert [text.get_text() for text in labels] == ["vanilla", "RR-ClArC\nlayer2, 1e6", "P-ClArC\nlayer1"]
    assert [text.get_fontweight() for text in labels] == ["normal", "bold", "normal"]
    bars = [container for container in axes.containers if hasattr(container, "patches")]
    heights = [[bar.get_height() for bar in group] for group in bars]
    assert heights[0][:2] == [0.93, 0.91]
    assert heights[1][:2] == [0.60, 0.85]
    assert np.isnan([heights[0][2], heights[1][2]]).all()
    whisker = bars[1].errorbar.lines[2][0].get_segments()[1]
    assert np.allclose(whisker[:, 1], [0.83, 0.86])
    texts = [text.get_text() for text in axes.texts if text.get_text()]
    assert texts == ["0.930", "0.910", "undefined", "0.600", "0.850", "undefined"]
    assert [text.get_position()[0] for text in axes.texts if text.get_text() == "undefined"] == [1.8, 2.2]
    assert [text.get_text() for text in figure.legends[0].get_texts()] == ["clean images", "attacked images"]
    assert axes.get_ylim()[0] == 0


def test_comparison_of_many_candidates_turns_its_labels(draw):
    many = {f"rr_clarc-layer{i}-1e6": ("rr_clarc", f"layer{i}", 0.9, 0.7) for i in range(20)}
    figure = draw(comparison(table(many)))
    boxes = [text.get_window_extent() for text in figure.axes[0].get_xticklabels()]
    assert len(boxes) == 20
    assert figure.axes[0].get_xticklabels()[0].get_text() == "RR-ClArC, layer0, 1e6"
    assert figure.axes[0].get_xticklabels()[0].get_rotation() == 45
    assert not figure.axes[0].texts


def test_comparison_of_another_metric_and_split(draw):
    figure = draw(comparison(table(), BEST, metric="auroc", split="val"))
    assert figure.axes[0].get_ylabel() == "val AUROC"
    with pytest.raises(InputError, match="must be one of: auroc, balanced_accuracy"):
        comparison(table(), BEST, metric="accuracy")


def test_tradeoff_places_every_candidate(draw):
    figure = draw(tradeoff(table(), "rr_clarc-layer2-1e6", allowed_clean_loss=0.02))
    (axes,) = figure.axes
    places = [tuple(part.get_offsets().filled(np.nan)[0]) for part in axes.collections]
    assert places[:3] == [(0.93, 0.60), (0.92, 0.70), (0.91, 0.85)]
    assert places[-1] == (0.91, 0.85)
    assert axes.get_xlabel() == "val balanced accuracy, clean images"
    bounds = [line.get_xdata()[0] for line in axes.get_lines() if line.get_linestyle() == "--"]
    assert bounds == [pytest.approx(0.91)]
    labels = [text.get_text() for text in figure.legends[0].get_texts()]
    assert labels == ["uncorrected", "RRR", "RR-ClArC", "P-ClArC", "layer2", "layer1", "no layer", "selected"]


def test_tradeoff_with_nothing_selected_rings_nothing(draw):
    figure = draw(tradeoff(table()))
    assert len(figure.axes[0].collections) == len(CANDIDATES)
    assert "selected" not in [text.get_text() for text in figure.legends[0].get_texts()]


def test_clean_and_attacked_have_their_colours(draw):
    axes = draw(comparison(table(), BEST)).axes[0]
    colours = {patch.get_facecolor() for patch in axes.patches}
    assert colours == {to_rgba(BLUE), to_rgba(VERMILLION)}


@pytest.mark.parametrize("scale", [1.0, 1e-12])
def test_before_and_after_share_one_scale_a_sample(draw, scale):
    before, after = maps(2, scale), maps(2, scale / 4)
    figure = draw(before_after(images(2), before, after, ["id 1", "id 2"]))
    grid = tiles(figure, 4, 2)
    assert [axes.get_ylabel() for axes in grid[:, 0]] == ["input", "before", "after", "after - before"]
    for i in range(2):
        joint = max(np.abs(before[i]).max(), np.abs(after[i]).max())
        assert np.allclose(shown(grid[1, i]), before[i] / joint)
        assert np.allclose(shown(grid[2, i]), after[i] / joint)
        difference = after[i] - before[i]
        assert np.allclose(shown(grid[3, i]), difference / np.abs(difference).max())


def test_nothing_explained_is_blank(draw):
    none = maps(0, 1)
    assert "No sample was explained" in draw(before_after(images(0), none, none)).texts[0].get_text()
