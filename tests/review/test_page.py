"""The page in a real browser: select with a box, tick, save; the table is the reviewer's."""

import json
import re
import shutil
import threading
from collections import Counter
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
from tests.review.test_data import invented

from xai_robustness.concepts.answers import read_table
from xai_robustness.concepts.neuron_views import marked_neurons
from xai_robustness.concepts.review import ReviewParams, review_suspects

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


def box(tab, where, sample):
    """The boxes to tick of one sample."""
    return tab.locator(f"{where} .sample").filter(has_text=re.compile(rf"^{sample}\b")).locator("input[type=checkbox]")


def wait_for_ticks(tab, counts):
    """Until as many boxes of each sample are ticked in the view of neurons, and no others."""
    ticked = tab.locator("#shown-neurons .sample:has(input:checked)")
    for _ in range(600):
        found = Counter(int(text) for text in ticked.all_inner_texts())
        if found == counts:
            return
        tab.wait_for_timeout(100)
    raise AssertionError(found)


def drag_over(tab, graph, share=1.0):
    """A box over the left part of the plot, or all of it."""
    area = tab.locator(f"#{graph} .nsewdrag").first
    area.wait_for()
    tab.wait_for_timeout(500)
    place = area.bounding_box()
    left, top, right, bottom = place["x"], place["y"], place["x"] + share * place["width"], place["y"] + place["height"]
    tab.mouse.move(left + 3, top + 3)
    tab.mouse.down()
    tab.mouse.move((left + right) / 2, (top + bottom) / 2, steps=4)
    tab.mouse.move(right - 3, bottom - 3, steps=4)
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
    ticks = tab.locator("#shown-samples input[type=checkbox]")
    ticks.nth(19).wait_for()  # the view holds the 20 samples of one class
    assert ticks.count() == 20 and tab.locator("#shown-samples img").count() == 40  # images and heatmaps
    for sample in (100, 104):
        box(tab, "#shown-samples", sample).check()
    tab.locator("#save-samples").click()
    tab.get_by_text("2 with, 18 without").wait_for()
    said = pd.read_csv(data.labels)
    assert said["artifact"].sum() == 2 and len(said) == 20
    assert set(said["sample_id"]) == set(data.views["round, layer4"]["sample_id"])


def test_tick_neurons_and_their_reference_samples_in_the_browser_and_the_next_run_uses_both(page):
    tab, data = page
    data.save_answers([100, 102, 104], [100])
    drag_over(tab, "samples")
    box(tab, "#shown-samples", 102).wait_for()
    tab.get_by_text("Neurons", exact=True).click()
    tab.get_by_text("4 neurons in the layer").wait_for()
    drag_over(tab, "neurons", share=0.5)
    tab.get_by_text("2 neurons selected").wait_for()  # 1, of rank 1, and 0
    samples = tab.locator("#shown-neurons .sample")
    assert samples.count() == 8 and samples.locator("img").count() == 16  # each with a heatmap through its neuron
    assert tab.locator("#shown-neurons .made img").count() == 4  # two images were made for each neuron
    wait_for_ticks(tab, {100: 2})  # of the other view, saved before

    box(tab, "#shown-neurons", 101).first.check()
    wait_for_ticks(tab, {100: 2, 101: 4})  # of both neurons, by relevance and by activation
    box(tab, "#shown-neurons", 102).first.check()
    box(tab, "#shown-neurons", 100).last.uncheck()
    wait_for_ticks(tab, {101: 4, 102: 2})
    tab.locator("#save-references").click()
    tab.get_by_text("2 with, 2 without").wait_for()
    assert data.answers() == {100: False, 101: True, 102: True, 104: False}
    with tab.expect_response(lambda answer: "update-component" in answer.url):  # the page remembers the tick
        tab.locator("#shown-neurons .neuron input").first.check()
    tab.wait_for_timeout(500)
    tab.evaluate("document.querySelector('#neurons .js-plotly-plot').emit('plotly_deselect')")
    tab.get_by_text("4 neurons in the layer").wait_for()  # shown anew, and the tick is not lost
    assert tab.locator("#shown-neurons .neuron input:checked").count() == 1
    tab.locator("#save-neurons").click()
    tab.get_by_text("1 neurons.").wait_for()
    tab.get_by_text("Samples", exact=True).click()
    assert box(tab, "#shown-samples", 102).is_checked() and not box(tab, "#shown-samples", 100).is_checked()

    table = pd.DataFrame({"sample_id": np.arange(100, 140), "split": "train", "class": np.arange(40) % 2})
    none = pd.DataFrame(columns=["place", "kind", "name", "class", "sample_id"])
    reviewed = review_suspects(none, none, table, None, ReviewParams(reviewer="csv", csv=str(data.labels)), seed=0)
    assert reviewed.loc[reviewed["artifact"], "sample_id"].tolist() == [101, 102]
    latents = SimpleNamespace(model="f1a9", layers=("layer4",), activations=lambda *_: np.zeros((1, 4)))
    marked = marked_neurons(read_table(data.marked), latents)
    assert marked.to_dict("records") == [{"model": "f1a9", "layer": "layer4", "neuron": 1}]


def test_references_that_nobody_ticked_are_not_called_clean(page):
    tab, data = page
    tab.get_by_text("Neurons", exact=True).click()
    box(tab, "#shown-neurons", 101).first.wait_for()
    tab.locator("#save-references").click()
    tab.get_by_text("nothing was saved").wait_for()
    assert not data.labels.exists()
    assert tab.locator("#shown-neurons .sample img").count() == 4 * 4 + 2 * 4  # two neurons have no heatmaps
