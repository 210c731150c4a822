from tests.figures.tools import images, shown, tiles

from xai_robustness.figures import data


def test_contact_sheet_has_a_tile_a_class_and_condition(draw):
    given = {"normal": {"clean": images(4), "attacked": images(3)}, "malignant": {"clean": images(4)}}
    figure = draw(data.contact_sheet(given))
    grid = tiles(figure, 2, 2)
    assert [axes.get_title() for axes in grid[0]] == ["clean", "attacked"]
    assert [axes.get_ylabel() for axes in grid[:, 0]] == ["normal", "malignant"]
    strip = shown(grid[0, 1])
    assert strip.shape == (12, 4 * 13 - 1, 3)
    assert (strip[:, 13:25] == given["normal"]["attacked"][1]).all()
    assert (strip[:, 39:] == 255).all()
    assert not grid[1, 1].images
    draw(data.contact_sheet({"gray": {"clean": images(2, channels=1)}}))


def test_contact_sheet_without_images_is_blank(draw):
    assert "No image" in draw(data.contact_sheet({"a": {"clean": images(0)}})).texts[0].get_text()
