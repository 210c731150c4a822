import numpy as np
import pytest
import torch
from scipy.stats import spearmanr

from xai_robustness.metrics.lesions import colour_agreement, colour_variation
from xai_robustness.types import InputError


def random(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.rand(*shape, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("channels", [1, 3])
def test_variation_is_the_deviation_of_the_colours_in_the_window(channels):
    images = random(2, channels, 9, 8)
    found = colour_variation(images, 5).numpy()
    for n in range(2):
        for i in range(9):
            for j in range(8):
                part = images[n, :, max(0, i - 2) : i + 3, max(0, j - 2) : j + 3].double().numpy()
                assert found[n, i, j] == pytest.approx(np.sqrt(part.var(axis=(1, 2)).sum()), abs=1e-9)
    assert colour_variation(torch.full((1, 3, 6, 6), 0.7)).abs().max() < 1e-7


def test_agreement_is_spearmans_within_the_lesion():
    images, maps = random(4, 3, 12, 12), random(4, 12, 12, seed=1) - 0.5
    maps[1] = maps[1].mul(8).round()  # ties
    masks = random(4, 12, 12, seed=2) < 0.4
    variation = colour_variation(images).numpy()
    expected = [spearmanr(maps[i][masks[i]].abs(), variation[i][masks[i]]).statistic for i in range(4)]
    np.testing.assert_allclose(colour_agreement(maps, images, masks), expected, atol=1e-12)


def test_relevance_that_is_the_variation_agrees_fully_whatever_its_sign_and_unit():
    images, masks = random(2, 3, 12, 12), torch.ones(2, 12, 12, dtype=torch.bool)
    maps = colour_variation(images)
    assert colour_agreement(-1e-9 * maps, images, masks).tolist() == pytest.approx([1, 1])
    assert colour_agreement(1 - maps, images, masks).tolist() == pytest.approx([-1, -1])


def test_lesions_without_an_answer_have_none():
    images, maps = random(3, 1, 6, 6), random(3, 6, 6, seed=1)
    masks = torch.zeros(3, 6, 6, dtype=torch.bool)
    masks[0, 0, :2] = True
    masks[1:] = True
    maps[1], maps[2, 0, 0] = 0.3, torch.nan
    assert colour_agreement(maps, images, masks).isnan().all()


def test_bad_input():
    with pytest.raises(InputError, match="odd and at least 3. Got 4"):
        colour_variation(random(1, 3, 6, 6), 4)
    with pytest.raises(InputError, match="masks parameter of colour_agreement"):
        colour_agreement(random(1, 6, 6), random(1, 3, 6, 6), torch.ones(1, 5, 6, dtype=torch.bool))
