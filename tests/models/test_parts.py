import numpy as np
import pytest
import torch
from tests.models.tiny import image_set

from xai_robustness.models.checkpoint import load_model
from xai_robustness.models.parts import PartsJob, PartsParams, disjoint_parts
from xai_robustness.models.training import TrainingParams
from xai_robustness.models.zoo import ModelParams
from xai_robustness.types import InputError


@pytest.mark.parametrize("n", [1, 2, 5])
def test_parts_are_disjoint_whole_and_balanced(n: int) -> None:
    labels = np.array([0] * 23 + [1] * 50 + [2] * 7)[np.random.default_rng(0).permutation(80)]
    parts = disjoint_parts(labels, n, seed=3)
    assert len(parts) == n
    assert np.array_equal(np.sort(np.concatenate(parts)), np.arange(80))
    for value in range(3):
        counts = [(labels[rows] == value).sum() for rows in parts]
        assert max(counts) - min(counts) <= 1
    assert all(np.array_equal(a, b) for a, b in zip(parts, disjoint_parts(labels, n, seed=3)))
    assert n == 1 or not np.array_equal(parts[0], disjoint_parts(labels, n, seed=4)[0])


def test_multi_label_and_no_parts() -> None:
    assert disjoint_parts(np.zeros((10, 3)), 0, seed=0) == []
    parts = disjoint_parts(np.zeros((10, 3)), 3, seed=0)
    assert np.array_equal(np.sort(np.concatenate(parts)), np.arange(10))


def test_too_many_parts() -> None:
    with pytest.raises(InputError, match=r"at most 2, the number of training samples of class 1\. Got 3"):
        disjoint_parts(np.array([0, 0, 0, 0, 1, 1]), 3, seed=0)


@pytest.mark.slow
def test_each_part_trains_a_model_of_its_own(tmp_path) -> None:
    model, training = ModelParams(name="resnet18"), TrainingParams(epochs=1, batch_size=8)
    train, val = image_set(24, size=28), image_set(9, size=28, seed=1)
    job = PartsJob(model, train, val, training, PartsParams(n=2), seed=0, device="cpu")
    job.write(tmp_path)
    first, second = (load_model(tmp_path / f"part_{i}") for i in range(2))
    assert not torch.equal(first.fc.weight, second.fc.weight)
    before = (tmp_path / "part_0" / "model.safetensors").read_bytes()
    job.write(tmp_path)
    assert (tmp_path / "part_0" / "model.safetensors").read_bytes() == before
