import numpy as np
import pytest
import torch
from tests.datasets.trees import picture

from xai_robustness.attribution.lrp import Lrp
from xai_robustness.datasets.base import ImageSet
from xai_robustness.datasets.load import DataParams, load_dataset
from xai_robustness.models.checkpoint import load_model
from xai_robustness.models.training import TrainingJob, TrainingParams
from xai_robustness.models.zoo import ModelParams, build, inspected_layers, split
from xai_robustness.types import InputError

SOURCE = """
from torch import nn

def small(channels, n_classes):
    return nn.Sequential(
        nn.Conv2d(channels, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU(), nn.MaxPool2d(2),
        nn.Conv2d(8, 12, 3, padding=1), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(12, n_classes),
    )

def wrong(channels, n_classes):
    return nn.Linear(3, 3).forward
"""


@pytest.fixture
def nets(tmp_path, monkeypatch):
    (tmp_path / "own_nets.py").write_text(SOURCE)
    monkeypatch.syspath_prepend(str(tmp_path))
    return ModelParams(name="own_nets:small", mean=[0.5, 0.4, 0.3], std=[0.2, 0.2, 0.2])


def test_layers_are_found_and_relevance_is_conserved(nets):
    model = build(nets, 4, (3, 16, 16), nets.mean, nets.std, seed=0).eval()
    assert inspected_layers(model) == ("3", "5")
    x = torch.rand(2, 3, 16, 16)
    with torch.no_grad():
        torch.testing.assert_close(split(model, "3")[1](split(model, "3")[0](x)), model(x))
    with Lrp(model) as lrp:
        found = lrp.run(x, torch.tensor([0, 3]), ("3", "5"))
    kept = found.relevances["3"].flatten(1).sum(1) + found.absorbed["3"]
    torch.testing.assert_close(kept, found.logits[[0, 1], [0, 3]], rtol=1e-3, atol=1e-4)


def test_own_images_and_own_weights_are_used_as_they_are(nets, tmp_path):
    for i in range(24):
        picture(tmp_path / "images" / "ab"[i % 2] / f"{i}.png", i)
    data = DataParams(name="folder", folder=str(tmp_path / "images"), size=16, val_share=0.25, test_share=0.25)
    raw = load_dataset(data, 0, tmp_path, cache=tmp_path / "cache")
    sets = {
        s: ImageSet(np.asarray(p.images[:]), p.labels, p.sample_ids, p.info, extras=p.extras) for s, p in raw.items()
    }
    trained = build(nets, 2, (3, 16, 16), nets.mean, nets.std, seed=3).eval()
    torch.save(trained.state_dict(), tmp_path / "weights.pth")
    params = TrainingParams(checkpoint=str(tmp_path / "weights.pth"))
    TrainingJob(nets, sets["train"], sets["val"], params, 0, "cpu").write(tmp_path / "model")
    x = sets["test"].tensor(slice(0, 4))
    with torch.no_grad():
        torch.testing.assert_close(load_model(tmp_path / "model")(x), trained(x))


def test_what_cannot_be_used_is_one_sentence(nets):
    with pytest.raises(InputError, match="must be importable, package.module:function. Got 'nowhere:net'"):
        build(ModelParams(name="nowhere:net"), 2, (3, 16, 16), [0.5] * 3, [0.5] * 3, 0)
    with pytest.raises(InputError, match="must return a nn.Sequential"):
        build(ModelParams(name="own_nets:wrong"), 2, (3, 16, 16), [0.5] * 3, [0.5] * 3, 0)
