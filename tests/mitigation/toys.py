"""A small image set and helpers of the mitigation tests."""

import numpy as np
import torch

from xai_robustness.datasets.base import DatasetInfo, ImageSet

SIZE = 16


def image_set(n, seed, task="multi-class", first_id=0):
    """Classes differ in one colour channel; half of class 0 carries a white square in a corner."""
    rng = np.random.default_rng(seed)
    labels = np.arange(n) % 3
    images = rng.integers(0, 120, (n, SIZE, SIZE, 3), dtype=np.uint8)
    for i, label in enumerate(labels):
        images[i, 6:12, 6:12, label] += 60
    has = (labels == 0) & (rng.random(n) < 0.5)
    masks = np.zeros((n, SIZE, SIZE), bool)
    masks[has, :4, :4] = True
    images[has, :4, :4] = 255
    if task == "multi-label":
        labels = (labels[:, None] == np.arange(3)).astype(np.int64)
    info = DatasetInfo("toy", task, ("a", "b", "c"), "none")
    return ImageSet(images, labels.astype(np.int64), np.arange(first_id, first_id + n), info, has, masks)


def state(model):
    return {key: value.clone() for key, value in model.state_dict().items()}


def same(a, b):
    return a.keys() == b.keys() and all(torch.equal(a[key], b[key]) for key in a)
