import numpy as np
import torch
import zarr
from tests.models.tiny import image_set

from xai_robustness.models.inputs import channel_statistics, flip, flip_draws, in_memory


def test_channel_statistics_are_numpys() -> None:
    images = image_set(37, channels=3)
    pixels = images.images.reshape(-1, 3) / 255
    mean, std = channel_statistics(images, batch=10)
    np.testing.assert_allclose(mean, pixels.mean(0), atol=1e-6)
    np.testing.assert_allclose(std, pixels.std(0), atol=1e-6)


def test_a_constant_channel_is_not_divided_by_zero() -> None:
    images = image_set(6)
    images.images[..., 1] = 7
    assert channel_statistics(images)[1][1] == 1.0


def test_flips_follow_the_draws() -> None:
    x = torch.arange(4 * 6.0).reshape(4, 1, 2, 3)
    draws = torch.tensor([[False, False], [True, False], [False, True], [True, True]])
    flipped = flip(x.clone(), draws)
    assert torch.equal(flipped[0], x[0])
    assert torch.equal(flipped[1], x[1].flip(2))
    assert torch.equal(flipped[2], x[2].flip(1))
    assert torch.equal(flipped[3], x[3].flip(1, 2))


def test_flips_have_their_rate_and_differ_by_epoch() -> None:
    draws = flip_draws(4000, seed=0, epoch=1)
    assert torch.all((draws.float().mean(0) - 0.25).abs() < 0.03)
    assert torch.equal(draws, flip_draws(4000, 0, 1))
    assert not torch.equal(draws, flip_draws(4000, 0, 2))


def test_small_sets_are_read_once(tmp_path) -> None:
    images = image_set(9)
    stored = zarr.create_array(tmp_path / "a", data=images.images)
    lazy = type(images)(stored, images.labels, images.sample_ids, images.info, images.has_artifact)
    assert isinstance(in_memory(lazy).images, np.ndarray)
    assert torch.equal(in_memory(lazy).tensor(np.array([3, 1])), images.tensor(np.array([3, 1])))
    assert in_memory(lazy, limit=10) is lazy
