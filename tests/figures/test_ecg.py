import numpy as np

from xai_robustness.figures.ecg import ecg_before_after, trace_pictures
from xai_robustness.figures.style import pixels


def test_a_trace_is_drawn_where_the_signal_is():
    signals = np.zeros((1, 1, 1200, 12), np.float32)
    signals[0, 0, 600:, 3] = 1
    picture = trace_pictures(signals)[0]
    dark = picture[30:40, :, 0] < 100  # the fourth of twelve bands of ten pixels
    assert dark[:, 10].argmax() > dark[:, 100].argmax()
    assert (picture[0:10, :, 0] < 100).sum() == 120
    np.testing.assert_array_equal(pixels(signals)[0], picture)


def test_heat_lies_on_the_traces_and_the_mask_is_shaded():
    rng = np.random.default_rng(0)
    signals, mask = rng.normal(0, 1, (2, 100, 12)), np.zeros((2, 100), bool)
    mask[:, :20] = True
    before = rng.normal(0, 1, (2, 100, 12))
    figure = ecg_before_after(signals, before, before * 0.5, mask, ["a", "b"])
    assert len(figure.axes) == 4 and figure.axes[0].get_title() == "a - before"
    lines = figure.axes[0].collections
    assert len(lines) == 12 and len(figure.axes[0].patches) == 1
    scale = np.percentile(np.abs(np.stack([before[0], before[0] * 0.5])), 99.5)
    np.testing.assert_allclose(lines[2].get_array(), before[0, :-1, 2] / scale)
    assert not ecg_before_after(signals[:0], before[:0], before[:0]).axes
