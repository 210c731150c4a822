import pytest

from xai_robustness.registry import Registry
from xai_robustness.types import InputError


def test_unknown_name_lists_the_choices():
    registry = Registry("artifact")
    registry.register("ruler")(dict)
    with pytest.raises(InputError, match="Unknown artifact 'rular'. Did you mean 'ruler'\\? Choose from: ruler."):
        registry["rular"]


def test_a_name_is_given_once():
    registry = Registry("artifact")
    registry.register("ruler")(dict)
    with pytest.raises(ValueError, match="registered twice"):
        registry.register("ruler")(list)


def test_unknown_option_lists_the_choices():
    registry = Registry("artifact")

    @registry.register("ruler")
    def ruler(size, colour="black", ticks=3):
        return size, colour, ticks

    assert registry.create("ruler", 2, ticks=5) == (2, "black", 5)
    with pytest.raises(InputError, match="Unknown option 'tick' of artifact 'ruler'. Choose from: colour, ticks."):
        registry.create("ruler", 2, tick=5)
