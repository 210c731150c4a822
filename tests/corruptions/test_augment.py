import numpy as np
import pytest
import torch
from tests.corruptions.test_corruptions import natural

from xai_robustness.corruptions.augment import IDENTITY, CorruptionAugmentation, between
from xai_robustness.corruptions.tables import MEDMNIST_C, constants
from xai_robustness.types import InputError


def test_each_choice_is_equally_likely_and_the_identity_is_one_of_them():
    augment = CorruptionAugmentation(["contrast", "pixelate", "bubble"])
    drawn = [augment.choice(i, 0) for i in range(800)]
    assert {c: pytest.approx(200, abs=50) == drawn.count(c) for c in set(drawn)} == dict.fromkeys(
        ["contrast", "pixelate", "bubble", IDENTITY], True
    )
    assert IDENTITY not in {CorruptionAugmentation(["contrast"], identity=False).choice(i, 0) for i in range(50)}


def test_a_sample_follows_its_id_epoch_and_seed_not_its_batch():
    images, augment = natural(8, 3, 24, 24), CorruptionAugmentation(table="pathmnist")
    before = images.clone()
    together = augment(images, range(8), seed=1, epoch=2)
    assert torch.equal(images, before) and together.min() >= 0 and together.max() <= 1
    assert torch.equal(together[3:5], augment(images[3:5], [3, 4], seed=1, epoch=2))
    assert not torch.equal(together, augment(images, range(8), seed=1, epoch=3))
    same = [i for i in range(8) if augment.choice(i, 1, 2) == IDENTITY]
    assert all(torch.equal(together[i], images[i]) == (i in same) for i in range(8))


@pytest.mark.parametrize("table", ["dermamnist", "chestmnist", "pathmnist"])
def test_constants_lie_between_the_ends(table):
    rng = np.random.default_rng(0)
    for name in MEDMNIST_C[table]:
        five = constants(table, name)
        for _ in range(20):
            drawn = between(five, rng)
            if name == "zoom_blur":
                assert drawn[0] == 1 and five[0][-1] - 0.02 <= drawn[-1] <= five[-1][-1]
                continue
            ends = [np.atleast_1d(five[i]) for i in (0, -1)]
            assert (np.atleast_1d(drawn) >= np.minimum(*ends)).all()
            assert (np.atleast_1d(drawn) <= np.maximum(*ends)).all()
            assert name != "gaussian_blur" or drawn % 2 == 1


def test_an_empty_selection_is_refused():
    with pytest.raises(InputError, match="at least one"):
        CorruptionAugmentation([])
