"""Metrics against values of Quantus [Hedstroem2023], made in an environment of its own; the inputs lie beside them."""

import json
import math
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

import xai_robustness.metrics.agreement_pairs  # noqa: F401  registers the others
from xai_robustness.metrics.agreement import AGREEMENTS
from xai_robustness.metrics.faithfulness import play
from xai_robustness.metrics.sharpness import entropy, gini

THEIRS = json.loads((Path(__file__).parents[1] / "fixtures" / "quantus.json").read_text())
MAPS, OTHER = (torch.tensor(THEIRS[key], dtype=torch.float64) for key in ("maps", "other"))


def test_sparseness_is_the_gini_index_and_complexity_the_entropy_before_it_is_a_share() -> None:
    np.testing.assert_allclose(gini(MAPS), THEIRS["gini"], rtol=1e-6)
    np.testing.assert_allclose(entropy(MAPS) * math.log(MAPS[0].numel()), THEIRS["entropy"], rtol=1e-6)


@pytest.mark.parametrize("name", ["spearman", "pearson", "kendall", "l2"])
def test_similarities_are_the_same(name: str) -> None:
    """For l2 Quantus was given the positive parts, each scaled to [0,1]."""
    np.testing.assert_allclose(AGREEMENTS[name](MAPS, OTHER), THEIRS[name], rtol=1e-6)


def test_the_cosine_is_one_minus_their_distance() -> None:
    np.testing.assert_allclose(AGREEMENTS["cosine"](MAPS, OTHER), 1 - np.array(THEIRS["cosine_distance"]), rtol=1e-6)


def test_pixel_flipping_is_the_masking_game_with_patches_of_one_pixel() -> None:
    images, weight = torch.tensor(THEIRS["images"]), torch.tensor(THEIRS["weight"])
    model = nn.Sequential(nn.Flatten(), nn.Linear(weight.shape[1], len(weight), bias=False))
    model[1].weight.data.copy_(weight)
    pixels = MAPS[0].numel()
    ranks = MAPS.flatten(1).argsort(dim=1, descending=True).argsort(dim=1)
    counts = range(0, pixels + 1, THEIRS["features_in_step"] // images.shape[1])
    labels = torch.zeros(len(images), dtype=torch.int64)
    darkest = images.amin(dim=(1, 2, 3), keepdim=True).expand_as(images)  # what Quantus calls black
    game = play(model, images, labels, darkest, ranks, tuple(MAPS.shape[1:]), counts)
    np.testing.assert_allclose(game.probability[:, 1:], THEIRS["pixel_flipping"], rtol=1e-5)
