"""The page in a real browser: select with a box, tick, save; the table is the reviewer's."""

import json
import shutil
import threading

import numpy as np
import pandas as pd
import pytest
from tests.review.test_data import invented

pytest.importorskip("dash", reason="the review page needs Dash")
browsers = pytest.importorskip("playwright.sync_api", reason="playwright drives the browser")
CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")


@pytest.fixture
def page(tmp_path):
    if CHROMIUM is None:
        pytest.skip("no Chromium on this machine: apt-get install chromium")
    from werkzeug.serving import make_server

    from xai_robustness.review.page import make_app

    data = invented(tmp_path)
    server = make_server("127.0.0.1", 0, make_app(data).server, threaded=True)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    with browsers.sync_playwright() as play:
        browser = play.chromium.launch(
            executable_path=CHROMIUM, args=["--no-sandbox", "--disable-gpu"], timeout=120_000
        )
        tab = browser.new_page(viewport={"width": 1200, "height": 1600})
        tab.set_default_timeout(180_000)
        tab.goto(f"http://127.0.0.1:{server.server_port}")
        yield tab, data
        browser.close()
    server.shutdown()


def drag_over(tab, graph):
    """A box over the whole plot."""
    area = tab.locator(f"#{graph} .nsewdrag").first
    area.wait_for()
    tab.wait_for_timeout(500)
    box = area.bounding_box()
    tab.mouse.move(box["x"] + 3, box["y"] + 3)
    tab.mouse.down()
    tab.mouse.move(box["x"] + box["width"] / 2, box["y"] + box["height"] / 2, steps=4)
    tab.mouse.move(box["x"] + box["width"] - 3, box["y"] + box["height"] - 3, steps=4)
    tab.mouse.up()


def test_points_without_a_place_are_not_drawn():
    """Silent neurons have no place among the others."""
    from xai_robustness.review.page import scatter

    table = pd.DataFrame({"id": ["a/0", "a/1"], "x": [0.5, np.nan], "y": [1.0, np.nan], "group": "neurons"})
    assert json.loads(scatter(table).to_json())["data"][0]["x"] == [0.5, None]


def test_select_tick_save_in_the_browser(page):
    tab, data = page
    tab.locator("#samples .scatterlayer .point").first.wait_for()
    assert str(data.labels.parent) in tab.locator("#kept").inner_text()
    drag_over(tab, "samples")
    ticks = tab.locator("#ticks input[type=checkbox]")
    ticks.nth(19).wait_for()  # the view holds the 20 samples of one class
    assert ticks.count() == 20 and tab.locator("#ticks img").count() == 40  # images and heatmaps
    ticks.nth(0).check()
    ticks.nth(2).check()
    tab.locator("#save").click()
    tab.get_by_text("2 with, 18 without").wait_for()
    said = pd.read_csv(data.labels)
    assert said["artifact"].sum() == 2 and len(said) == 20
    assert set(said["sample_id"]) == set(data.views["round, layer4"]["sample_id"])
    tab.get_by_text("Neurons", exact=True).click()
    first = tab.locator("#neuron-ticks input[type=checkbox]").first
    first.wait_for()
    first.check()
    tab.locator("#save-neurons").click()
    tab.get_by_text("1 neurons").wait_for()
    assert pd.read_csv(data.marked)["neuron"].tolist() == [1]  # rank 1 comes first
    assert np.array_equal(pd.read_csv(data.marked)["model"], ["f1a9"])
