"""Electrocardiograms: small pictures of all leads, and heat along the traces."""

from collections.abc import Sequence

import numpy as np
from jaxtyping import Bool, Float, UInt8
from matplotlib.axes import Axes
from matplotlib.collections import LineCollection
from matplotlib.figure import Figure

from xai_robustness.figures.style import blank, frame, new_figure, styled

LEADS = ("I", "II", "III", "aVR", "aVL", "aVF", "V1", "V2", "V3", "V4", "V5", "V6")
SIDE = 120
"""Side of a small picture in pixels."""


def trace_pictures(signals: Float[np.ndarray, "n 1 t c"]) -> UInt8[np.ndarray, "n h w 3"]:
    """Small square pictures of signals: one trace a channel from top to bottom, each scaled to its own range.

    Example:
        >>> trace_pictures(np.zeros((2, 1, 50, 12), np.float32)).shape
        (2, 120, 120, 3)
    """
    pictures = np.full((len(signals), SIDE, SIDE, 3), 255, np.uint8)
    channels = signals.shape[-1]
    height = SIDE // channels
    edges = np.linspace(0, signals.shape[2], SIDE + 1).astype(int)
    for picture, signal in zip(pictures, signals[:, 0]):
        low, high = signal.min(0), signal.max(0)
        place = (high - signal) / np.where(high > low, high - low, 1) * (height - 1)
        for column, (start, stop) in enumerate(zip(edges[:-1], np.maximum(edges[1:], edges[:-1] + 1))):
            part = place[start : stop + 1]
            for c in range(channels):
                top, bottom = int(part[:, c].min()), int(np.ceil(part[:, c].max()))
                picture[c * height + top : c * height + bottom + 1, column] = (40, 40, 40)
    return pictures


@styled
def ecg_before_after(
    signals: Float[np.ndarray, "n t c"],
    before: Float[np.ndarray, "n t c"],
    after: Float[np.ndarray, "n t c"],
    masks: Bool[np.ndarray, "n t"] | None = None,
    titles: Sequence[str] = (),
    rate: int = 100,
) -> Figure:
    """Every lead of each signal with heat along its trace, before the correction (left) and after it (right).

    Args:
        signals: in mV.
        before: signed attribution of every sample of every lead, uncorrected model.
        after: the same, corrected model; both are divided by one scale a signal, the 99.5th percentile of magnitudes.
        masks: true time of the artifact, shaded.
        titles: of each signal.
        rate: samples a second.
    """
    if not len(signals):
        return blank("No signal was explained.")
    figure = new_figure(11, 4.2 * len(signals))
    panels = np.atleast_2d(figure.subplots(len(signals), 2, sharex=True))
    time = np.arange(signals.shape[1]) / rate
    for i, row in enumerate(panels):
        scale = float(np.percentile(np.abs(np.stack([before[i], after[i]])), 99.5)) or 1.0
        for panel, heat, name in zip(row, (before[i], after[i]), ("before", "after")):
            _leads(panel, time, signals[i], heat / scale)
            if masks is not None:
                _shade(panel, time, masks[i])
            panel.set_title(" - ".join([*titles[i : i + 1], name]))
    for panel in panels[-1]:
        panel.set_xlabel("time (s)")
    return figure


def _leads(panel: Axes, time: np.ndarray, signal: np.ndarray, heat: np.ndarray) -> None:
    step = float(np.percentile(np.ptp(signal, axis=0), 75)) or 1.0
    for c in range(signal.shape[1]):
        y = signal[:, c] - np.median(signal[:, c]) - c * step
        points = np.stack([time, y], 1)
        line = LineCollection(list(np.stack([points[:-1], points[1:]], 1)), cmap="coolwarm", linewidths=0.9)
        line.set_array(heat[:-1, c])
        line.set_clim(-1, 1)
        panel.add_collection(line)
    panel.set_xlim(time[0], time[-1])
    panel.set_ylim(-(signal.shape[1]) * step, 1.5 * step)
    frame(panel)
    names = LEADS if signal.shape[1] == len(LEADS) else [str(c) for c in range(signal.shape[1])]
    panel.set_yticks([-c * step for c in range(signal.shape[1])], names)
    panel.set_xticks(np.arange(0, time[-1] + 1, 2))


def _shade(panel: Axes, time: np.ndarray, mask: np.ndarray) -> None:
    edges = np.flatnonzero(np.diff(np.concatenate([[0], mask.astype(int), [0]])))
    for start, stop in zip(edges[::2], edges[1::2]):
        panel.axvspan(time[start], time[min(stop, len(time) - 1)], color="#f0e442", alpha=0.25, lw=0)
