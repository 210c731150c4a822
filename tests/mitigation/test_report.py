import base64
import re
from html.parser import HTMLParser

import numpy as np
import pandas as pd

from xai_robustness.mitigation.report import report_html

PNG = b"\x89PNG\r\n\x1a\n123"
SELECTION = {"best": "a<b", "best_by_method": {"vanilla": "vanilla_finetuned", "rr_clarc": "a<b"}}
CRITERIA = [
    {"name": "gap_recovered", "value": 0.9, "relation": ">=", "threshold": 0.8, "passed": True},
    {"name": "clean_loss", "value": None, "relation": "<=", "threshold": 0.03, "passed": False},
]
VERDICT = {
    "status": "proven",
    "sentence": "It is <removed>.",
    "criteria": CRITERIA,
    "artifact": {"kind": "ruler", "attacked_classes": [0]},
    "seed": 7,
    "fingerprints": {"classifier": "abc"},
}


def table():
    names = ("vanilla", "vanilla_finetuned", "a<b")
    rows = [
        {"candidate": c, "metric": f"test/{m}", "value": v, "ci_low": v - 0.1, "ci_high": v + 0.1, "n": 5}
        for c, v in zip(names, (0.5, 0.6, 0.875))
        for m in ("clean/balanced_accuracy", "attacked/balanced_accuracy")
    ]
    rows.append({"candidate": "a<b", "metric": "test/attacked/gap_recovered", "value": np.nan, "ci_low": np.nan})
    return pd.DataFrame(rows)


class Checker(HTMLParser):
    def __init__(self):
        super().__init__()
        self.open, self.links, self.tags = [], [], []

    def handle_starttag(self, tag, attributes):
        self.tags.append(tag)
        self.links += [value for name, value in attributes if name in ("src", "href")]
        if tag not in ("meta", "br", "img"):
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag


def test_the_page_is_whole_escaped_and_needs_no_other_file():
    page = report_html("toy", VERDICT, SELECTION, [table(), table().iloc[:0]], {"A figure": PNG})
    checker = Checker()
    checker.feed(page)
    assert checker.open == [] and "script" not in checker.tags and checker.tags.count("img") == 1
    assert all(link.startswith("data:image/png;base64,") for link in checker.links)
    assert base64.b64decode(checker.links[0].partition(",")[2]) == PNG
    assert "It is &lt;removed&gt;." in page and "a&lt;b" in page and "<removed>" not in page
    assert "0.875<br>[0.775, 0.975]" in page and "nan" not in page
    assert len(re.findall("<tr class=chosen>", page)) == 1 and "&ge; 0.800" in page and "Seed 7" in page


def test_a_study_without_a_selection_has_a_page_too():
    verdict = {"status": "no candidate", "sentence": "Nothing was corrected.", "criteria": []}
    page = report_html("toy", verdict, {"best": None, "best_by_method": {}}, [table()], {})
    assert "Nothing was corrected." in page and "nothing had to be proven" in page and "class=chosen" not in page
