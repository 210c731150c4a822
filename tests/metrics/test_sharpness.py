import math

import numpy as np
import pytest
import torch

from xai_robustness.metrics.sharpness import (
    SHARPNESS,
    entropy,
    gini,
    high_frequency,
    mask_energy,
    sharpness,
    top1_mass,
    total_variation,
)
from xai_robustness.types import InputError

MAPS = torch.randn(4, 10, 12, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
UNIFORM = torch.ones(1, 10, 10)
ONE = torch.zeros(1, 10, 10)
ONE[0, 4, 5] = 3.0


def naive(m: np.ndarray) -> dict[str, float]:
    scaled = (m - m.min()) / (m.max() - m.min())
    h, w = m.shape
    across = [abs(scaled[i, j + 1] - scaled[i, j]) for i in range(h) for j in range(w - 1)]
    down = [abs(scaled[i + 1, j] - scaled[i, j]) for i in range(h - 1) for j in range(w)]
    p = np.abs(m).ravel() / np.abs(m).sum()
    spread = sum(abs(a - b) for a in p for b in p) / (2 * len(p))  # half the mean difference over the mean, 1/n
    return {
        "total_variation": float(np.mean(across) + np.mean(down)),
        "entropy": float(-(p * np.log(p)).sum() / math.log(len(p))),
        "gini": float(spread),
        "top1_mass": float(np.sort(p)[-max(1, round(0.01 * len(p))) :].sum()),
    }


def test_against_plain_loops() -> None:
    found = sharpness(MAPS)
    for i, m in enumerate(MAPS.numpy()):
        for name, expected in naive(m).items():
            assert found[name][i].item() == pytest.approx(expected, abs=1e-12), name


def test_limits() -> None:
    assert entropy(ONE).item() == 0 and top1_mass(ONE).item() == 1
    assert gini(ONE).item() == pytest.approx(1 - 1 / 100)
    nearly = UNIFORM + 1e-7 * torch.rand(1, 10, 10)
    assert entropy(nearly).item() == pytest.approx(1) and gini(nearly).item() == pytest.approx(0, abs=1e-6)
    board = (torch.arange(10)[:, None] + torch.arange(10)) % 2
    assert total_variation(board[None].float()).item() == pytest.approx(2)
    assert high_frequency(board[None].float()).item() == pytest.approx(1)
    slope = torch.linspace(0, 1, 10).expand(1, 10, 10)
    assert total_variation(slope).item() == pytest.approx(1 / 9)  # with the border wrapped it would be 0.2
    wave = torch.cos(2 * math.pi * torch.arange(10) / 10).expand(1, 10, 10)
    assert high_frequency(wave).item() == pytest.approx(0, abs=1e-9)


@pytest.mark.parametrize("name", list(SHARPNESS))
def test_no_unit_and_no_batch(name: str) -> None:
    measure = SHARPNESS[name]
    torch.testing.assert_close(measure(1e-6 * MAPS), measure(MAPS))
    torch.testing.assert_close(measure(MAPS)[1:2], measure(MAPS[1:2]))


@pytest.mark.parametrize("name", list(SHARPNESS))
def test_undefined(name: str) -> None:
    broken = MAPS.clone()
    broken[0], broken[1, 0, 0] = 2.0, math.inf
    assert SHARPNESS[name](broken).isnan().tolist() == [True, True, False, False]
    with pytest.raises(InputError, match=f"maps parameter of {name}"):
        SHARPNESS[name](MAPS[0])


def test_mask_energy() -> None:
    masks = torch.zeros(4, 10, 12, dtype=torch.bool)
    masks[:3, :5] = True
    maps = MAPS.clone()
    maps[1, 5:] = -1.0
    found = mask_energy(maps, masks)
    positive = maps.clamp(min=0)
    assert found[0].item() == pytest.approx((positive[0, :5].sum() / positive[0].sum()).item())
    assert found[1].item() == 1 and found[3].isnan()
    with pytest.raises(InputError, match="masks parameter"):
        mask_energy(maps, masks[:2])
    with pytest.raises(InputError, match="share parameter"):
        top1_mass(maps, 0)
