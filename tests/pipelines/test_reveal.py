import numpy as np

from xai_robustness.concepts.image_properties import ASSOCIATION_COLUMNS
from xai_robustness.datasets.base import DatasetInfo, ImageSet
from xai_robustness.pipelines.reveal.nodes import compare_properties


def test_signals_have_no_image_properties():
    info = DatasetInfo("made", ("one", "other"), "binary-class", 2)
    leads = np.random.default_rng(0).normal(size=(20, 1, 50, 2)).astype(np.float32)
    table = compare_properties({"train/biased": ImageSet(leads, np.arange(20) % 2, np.arange(20), info)})
    assert table.empty and list(table.columns) == list(ASSOCIATION_COLUMNS)
    pictures = (np.random.default_rng(0).random((20, 8, 8, 2)) * 255).astype(np.uint8)
    assert len(compare_properties({"train/biased": ImageSet(pictures, np.arange(20) % 2, np.arange(20), info)}))
