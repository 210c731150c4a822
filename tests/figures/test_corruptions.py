import numpy as np

from xai_robustness.figures.corruptions import severity_sheet


def test_a_row_a_corruption_and_a_column_a_severity(draw):
    images = np.zeros((6, 8, 8, 3), np.uint8)
    figure = draw(severity_sheet({"gaussian_noise": images, "bubble": images}))
    assert len(figure.axes) == 12
    assert [axes.get_title() for axes in figure.axes[:6]] == ["clean", "1", "2", "3", "4", "5"]
    assert figure.axes[6].get_ylabel() == "bubble"


def test_many_corruptions_stand_in_two_blocks_and_none_is_blank(draw):
    images = np.zeros((6, 8, 8, 1), np.uint8)
    figure = draw(severity_sheet({f"c{i}": images for i in range(9)}))
    assert len(figure.axes) == 5 * 12
    assert sum(axes.axison for axes in figure.axes) == 9 * 6
    assert "No corruption" in draw(severity_sheet({})).texts[0].get_text()
