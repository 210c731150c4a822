import ast
from pathlib import Path

import matplotlib
import numpy as np
import pytest
import torch
from matplotlib.figure import Figure

from xai_robustness import figures
from xai_robustness.figures import style
from xai_robustness.types import InputError

MODULES = sorted(Path(figures.__file__).parent.glob("*.py"))


@pytest.mark.parametrize("path", MODULES, ids=lambda path: path.stem)
def test_no_module_uses_pyplot_or_saves(path):
    tree = ast.parse(path.read_text())
    names = {node.module for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)}
    names |= {alias.name for node in ast.walk(tree) if isinstance(node, ast.Import) for alias in node.names}
    assert not any(name and "pyplot" in name for name in names)
    assert not any(isinstance(node, ast.Attribute) and node.attr == "savefig" for node in ast.walk(tree))


def test_the_style_is_used_and_given_back():
    before = dict(matplotlib.rcParams)

    @style.styled
    def make() -> Figure:
        assert matplotlib.rcParams["axes.spines.top"] is False
        return style.new_figure(2, 2)

    with matplotlib.rc_context({"font.size": 4}):
        assert make().get_size_inches().tolist() == [2, 2]
    assert dict(matplotlib.rcParams) == before


def test_pixels_takes_both_layouts_of_images():
    stored = np.arange(2 * 4 * 5 * 3, dtype=np.uint8).reshape(2, 4, 5, 3)
    tensor = torch.from_numpy(stored).permute(0, 3, 1, 2) / 255
    assert (style.pixels(stored) == stored).all()
    assert np.allclose(style.pixels(tensor) * 255, stored)
    gray = style.pixels(stored[..., :1])
    assert gray.shape == (2, 4, 5, 3)
    assert (gray[..., 2] == stored[..., 0]).all()


@pytest.mark.parametrize("shape", [(4, 5, 3), (2, 4, 5, 2)])
def test_pixels_refuses_other_shapes(shape):
    with pytest.raises(InputError, match="Images of a figure must be"):
        style.pixels(np.zeros(shape, np.uint8))


def test_peak_is_joint_and_ignores_what_is_not_finite():
    a, b = np.zeros((3, 2, 2)), np.zeros((3, 2, 2))
    a[0, 0, 0], b[0, 1, 1], a[1, 0, 0], a[1, 0, 1] = 1e-12, -3e-12, np.nan, 2
    assert style.peak(a, b).tolist() == [3e-12, 2, 0]


def test_colours_and_markers_go_round():
    names = [f"n{i}" for i in range(12)]
    assert len(set(style.colours_of(names[:7]).values())) == 7
    assert len(set(style.markers_of(names[:10]).values())) == 10
    pairs = zip(style.colours_of(names).values(), style.markers_of(names).values())
    assert len(set(pairs)) == 12


def test_blank_says_why():
    assert style.blank("Nothing.").texts[0].get_text() == "Nothing."
