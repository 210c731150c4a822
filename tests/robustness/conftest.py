import numpy as np
import pytest
from torch import nn

from xai_robustness.datasets.base import DatasetInfo, ImageSet
from xai_robustness.models.zoo import ModelParams, build

INFO = DatasetInfo("phantom", "multi-class", ("a", "b", "c"), "none")


@pytest.fixture(scope="module")
def images() -> ImageSet:
    rng = np.random.default_rng(0)
    pixels = np.kron(rng.integers(0, 256, (24, 7, 7, 3)), np.ones((1, 4, 4, 1))).astype(np.uint8)
    return ImageSet(pixels, np.arange(24) % 3, np.arange(100, 124), INFO)


@pytest.fixture(scope="module")
def model() -> nn.Sequential:
    return build(ModelParams(name="resnet18"), 3, (3, 28, 28), [0.5] * 3, [0.5] * 3, 0).eval()
