import numpy as np
import torch

from xai_robustness.randomness import numpy_rng, seed_for, torch_rng


def test_streams_are_stable_and_apart():
    assert seed_for(0, "a", 1) == 3975144308853378137
    draws = {tuple(numpy_rng(s, *n).integers(0, 2**31, 4)) for s in (0, 1) for n in (("a",), ("b",), ("a", 1))}
    assert len(draws) == 6


def test_same_name_same_numbers():
    assert torch.equal(torch.rand(5, generator=torch_rng(3, "x")), torch.rand(5, generator=torch_rng(3, "x")))
    np.testing.assert_array_equal(numpy_rng(3, "x").random(5), numpy_rng(3, "x").random(5))
