import numpy as np
import pytest
import torch
from tests.models.tiny import tiny_model
from torch import nn

from xai_robustness.datasets.base import DatasetInfo, ImageSet


@pytest.fixture(scope="session")
def data() -> ImageSet:
    """Grey noise, one channel a little brighter in each class: attacks of 0.1 are enough, noise is not."""
    rng, labels = np.random.default_rng(0), np.arange(45) % 3
    images = rng.integers(80, 160, (45, 12, 12, 3))
    for c in range(3):
        images[labels == c, ..., c] += 30
    return ImageSet(
        images.astype(np.uint8), labels, np.arange(45), DatasetInfo("noise", "multi-class", ("a", "b", "c"), "")
    )


@pytest.fixture(scope="session")
def model(data: ImageSet) -> nn.Sequential:
    """A small classifier that has learnt something, so that an attack has something to break."""
    net = tiny_model().train()
    x, y = data.tensor(slice(0, 45)), torch.from_numpy(data.labels)
    optimizer = torch.optim.Adam(net.parameters(), 1e-2)
    for _ in range(25):
        optimizer.zero_grad()
        nn.functional.cross_entropy(net(x), y).backward()
        optimizer.step()
    return net.eval()


@pytest.fixture(scope="session")
def batch(data: ImageSet, model: nn.Sequential) -> tuple[torch.Tensor, torch.Tensor]:
    """Images that the model gets right."""
    x, y = data.tensor(slice(0, 45)), torch.from_numpy(data.labels)
    right = model(x).argmax(1) == y
    assert right.sum() > 30
    return x[right], y[right]


def accuracy(model: nn.Module, images: torch.Tensor, labels: torch.Tensor) -> int:
    with torch.no_grad():
        return int((model(images).argmax(1) == labels).sum())
