from collections import OrderedDict
from dataclasses import replace

import numpy as np
import pytest
import torch
from tests.mitigation.toys import SIZE, image_set
from torch import nn

from xai_robustness.concepts.cav import Cav, Cavs
from xai_robustness.mitigation.base import MaskTable, Material
from xai_robustness.models.checkpoint import build_from, describe
from xai_robustness.models.zoo import MODELS, ModelParams


def _tiny(channels, n_classes, stem):
    return OrderedDict(
        conv=nn.Conv2d(channels, 6, 3, stride=2, padding=1),
        bn=nn.BatchNorm2d(6),
        relu=nn.ReLU(),
        block=nn.Sequential(nn.Conv2d(6, 8, 3, stride=2, padding=1), nn.BatchNorm2d(8), nn.ReLU(), nn.Dropout(0.5)),
        avgpool=nn.AdaptiveAvgPool2d(1),
        flatten=nn.Flatten(),
        fc=nn.Linear(8, n_classes),
    )


@pytest.fixture(autouse=True)
def tiny_architecture(monkeypatch):
    monkeypatch.setitem(MODELS._entries, "tiny", _tiny)


@pytest.fixture
def description():
    return describe(ModelParams(name="tiny"), 3, (3, SIZE, SIZE), [0.5] * 3, [0.25] * 3)


@pytest.fixture
def model(description):
    model = build_from(description, seed=1)
    rng = torch.Generator().manual_seed(0)
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.running_mean.normal_(0, 0.1, generator=rng)
            module.running_var.uniform_(0.5, 1.5, generator=rng)
    return model.eval()


@pytest.fixture
def train():
    return image_set(48, 0)


@pytest.fixture
def val():
    return image_set(24, 1, first_id=100)


@pytest.fixture
def cavs(model):
    rng = np.random.default_rng(5)
    items = []
    for layer, k in (("relu", 6), ("block", 8)):
        for kind in ("signal", "svm"):
            vector = rng.normal(size=k)
            vector = (vector / np.linalg.norm(vector)).astype(np.float32)
            items.append(Cav(vector, 0.1, kind, layer, "max", 0.3, 0.9, 20, 10))
    return Cavs(tuple(items))


@pytest.fixture
def masks(train):
    return MaskTable(train.sample_ids[train.has_artifact], train.masks[train.has_artifact])


@pytest.fixture
def labelled(material):
    return replace(material, artifact=material.train.has_artifact)


@pytest.fixture
def material(model, train, val, cavs, masks):
    return Material(model, train, val, cavs, masks, seed=3)
