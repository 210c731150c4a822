import pytest
import torch

from xai_robustness.corruptions.conditions import NOISES, disturb
from xai_robustness.randomness import torch_rng
from xai_robustness.types import InputError

IDS = [11, 5, 7]


def some_images(n: int = 3, channels: int = 3, size: int = 20) -> torch.Tensor:
    return torch.rand(n, channels, size, size, generator=torch.Generator().manual_seed(0))


def normal(name: str, sample_id: int, shape: tuple[int, ...]) -> torch.Tensor:
    return torch.randn(shape, generator=torch_rng(3, "noise", name, sample_id))


def test_four_conditions() -> None:
    assert NOISES.names() == ("clean", "gaussian", "salt_pepper", "speckle")


@pytest.mark.parametrize("name", NOISES)
def test_a_sample_depends_on_its_id_and_the_seed_alone(name: str) -> None:
    x = some_images()
    given = x.clone()
    found = disturb(name, x, IDS, seed=3)
    assert torch.equal(x, given)
    assert found.shape == x.shape and found.min() >= 0 and found.max() <= 1
    assert torch.equal(found[1:2], disturb(name, x[1:2], [5], seed=3))
    assert torch.equal(found.flip(0), disturb(name, x.flip(0), IDS[::-1], seed=3))
    assert name == "clean" or not torch.equal(found, disturb(name, x, IDS, seed=4))


def test_clean_is_the_identity() -> None:
    assert torch.equal(disturb("clean", some_images(), IDS, seed=3), some_images())


@pytest.mark.parametrize("name", ["gaussian", "speckle"])
def test_the_published_formula_in_its_own_scale(name: str) -> None:
    x = some_images()
    found = disturb(name, x, IDS, seed=3)
    for i, sample_id in enumerate(IDS):
        published = 2 * x[i] - 1
        noise = 0.15 * normal(name, sample_id, tuple(x.shape[1:]))
        noisy = published + (noise if name == "gaussian" else published * noise)
        torch.testing.assert_close(found[i], (noisy.clamp(-1, 1) + 1) / 2)


def test_mid_grey_gets_no_speckle() -> None:
    grey = torch.full((1, 1, 8, 8), 0.5)
    assert torch.equal(disturb("speckle", grey, [0], seed=0), grey)


def test_salt_and_pepper_in_loops() -> None:
    x = some_images()
    found = disturb("salt_pepper", x, IDS, seed=3)
    count = int(0.05 * 400 / 2)
    for i, sample_id in enumerate(IDS):
        draws = torch.rand((2, count), generator=torch_rng(3, "noise", "salt_pepper", sample_id)).double()
        expected = x[i].clone()
        for value, places in zip((1.0, 0.0), draws):
            for place in places:
                at = int(place * 400)
                expected[:, at // 20, at % 20] = value
        assert torch.equal(found[i], expected)
    assert 0.02 < (found != x).any(1).float().mean() < 0.05


def test_an_unknown_condition() -> None:
    with pytest.raises(InputError, match=r"Unknown noise condition 'gausian'. Did you mean 'gaussian'"):
        disturb("gausian", some_images(), IDS, seed=0)
