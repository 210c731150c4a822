import sys
from collections.abc import Iterator

import pytest
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure


@pytest.fixture
def draw():
    """Render a figure and check that nothing of its texts is cut off."""

    def drawn(figure: Figure) -> Figure:
        canvas = FigureCanvasAgg(figure)
        canvas.draw()
        width, height = canvas.get_width_height()
        for text in filter(lambda text: text.get_text(), _texts(figure)):
            box = text.get_window_extent()
            assert box.x0 >= -1 and box.y0 >= -1 and box.x1 <= width + 1 and box.y1 <= height + 1, text.get_text()
        return figure

    return drawn


def _texts(figure: Figure) -> Iterator:
    for axes in figure.axes:
        if axes.axison:
            yield from (axes.title, axes.xaxis.label, axes.yaxis.label)
            for axis in (axes.xaxis, axes.yaxis):
                low, high = sorted(axis.get_view_interval())
                yield from (tick.label1 for tick in axis.get_major_ticks() if low <= tick.get_loc() <= high)
    for legend in figure.legends:
        yield from legend.get_texts()


@pytest.fixture(autouse=True)
def no_pyplot() -> Iterator[None]:
    """Figures must not go through pyplot, which keeps every figure alive."""
    yield
    pyplot = sys.modules.get("matplotlib.pyplot")
    assert pyplot is None or not pyplot.get_fignums()
