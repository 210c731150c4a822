import numpy as np
import pytest
import torch
from tests.mitigation.toys import same, state

from xai_robustness.mitigation.cache import ActivationCache
from xai_robustness.mitigation.clarc import RrClarc
from xai_robustness.mitigation.params import RrClarcParams
from xai_robustness.models.inputs import flip
from xai_robustness.models.zoo import split


@pytest.fixture
def cache(model, tmp_path):
    return ActivationCache(model, ["block", "relu"], tmp_path, batch_size=7)


@pytest.mark.parametrize("layer", ["relu", "block"])
def test_kept_activations_are_those_of_the_prefix(cache, model, train, layer):
    before = state(model)
    found = cache.find("train", train, layer)
    rows = np.array([5, 40, 2])
    with torch.no_grad():
        wanted = split(model, layer)[0](train.tensor(slice(None)))
    torch.testing.assert_close(found.take(rows), wanted[rows], rtol=0, atol=1e-6)
    assert len(found) == 48 and same(before, state(model)) and not model.training


def test_each_row_comes_in_the_view_of_its_flips(cache, model, train):
    found = cache.find("train", train, "block", flips=True)
    flips = torch.tensor([[False, False], [True, False], [False, True], [True, True]])
    rows = np.array([3, 9, 1, 7])
    with torch.no_grad():
        wanted = split(model, "block")[0](flip(train.tensor(rows), flips))
    torch.testing.assert_close(found.take(rows, flips), wanted, rtol=0, atol=1e-6)


def test_one_pass_serves_all_layers_and_candidates(cache, model, train, monkeypatch):
    passes = []
    model.conv.register_forward_hook(lambda *_: passes.append(1))
    for _ in range(3):
        for layer in ("relu", "block"):
            cache.find("train", train, layer)
    assert len(passes) == 1 + int(np.ceil(48 / 7))  # one image tells the shapes


def test_layers_beyond_the_limit_are_left_to_the_caller(model, train, tmp_path):
    block = 48 * 8 * 16 * 4
    small = ActivationCache(model, ["relu", "block"], tmp_path, limit=block)
    assert small.find("train", train, "relu") is None and small.find("train", train, "block") is not None
    assert ActivationCache(model, ["relu"], tmp_path, limit=10).find("train", train, "relu") is None


@pytest.mark.parametrize("augment", [False, True])
def test_fine_tuning_on_kept_activations_is_fine_tuning_from_pixels(cache, material, augment):
    from dataclasses import replace

    method = RrClarc(RrClarcParams(layers=("relu",), lambdas=(1.0, 50.0), epochs=2, batch_size=16, augment=augment))
    plain = list(method.correct(method.candidates(()), material))
    kept = list(method.correct(method.candidates(()), replace(material, cache=cache)))
    for a, b in zip(plain, kept):
        assert a.candidate == b.candidate
        for key, value in state(a.model).items():
            torch.testing.assert_close(value, state(b.model)[key], rtol=0, atol=1e-5)
    other = RrClarc(RrClarcParams(layers=("relu",), lambdas=(50.0,), epochs=2, batch_size=16, augment=not augment))
    (flipped,) = other.correct(other.candidates(()), material)
    assert not same(state(flipped.model), state(plain[1].model))
