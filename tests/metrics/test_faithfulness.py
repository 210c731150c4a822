import numpy as np
import pytest
import torch
from torch import Tensor

from xai_robustness.metrics.faithfulness import area, deletion_insertion, patch_jaccard, play, robustness
from xai_robustness.metrics.patches import (
    COUNTS,
    FILLS,
    counts_of,
    fills,
    grid_of,
    masked,
    patch_scores,
    places,
    ranks_of,
)
from xai_robustness.types import InputError

IMAGES = torch.rand(6, 3, 32, 28, generator=torch.Generator().manual_seed(0))
GRID = (4, 7)
RANKS = ranks_of(torch.rand(6, 28, generator=torch.Generator().manual_seed(1)))


def predict(images: Tensor) -> Tensor:
    """Two classes by the mean of the upper half against the lower half."""
    upper, lower = images[:, :, :16].mean((1, 2, 3)), images[:, :, 16:].mean((1, 2, 3))
    return torch.stack([upper, lower], dim=1) * 40


def test_patches_hold_the_published_shares_at_every_size():
    assert [grid_of(p, (224, 224)) for p in (8, 14, 16)] == [(28, 28), (16, 16), (14, 14)]
    assert [grid_of(p, (28, 28)) for p in (8, 14, 16)] == [(28, 28), (16, 16), (14, 14)]
    assert counts_of(14, (28, 28)) == COUNTS and len(COUNTS) == 17
    assert counts_of(14, (8, 8)) == tuple(round(k * 64 / 256) for k in COUNTS)
    sizes = torch.bincount(places((16, 16), (28, 28)).flatten())
    assert len(sizes) == 256 and sizes.min() == 1 and sizes.max() == 4


def test_scores_and_ranks_agree_with_a_loop():
    scores = patch_scores(IMAGES - 0.5, GRID)
    for n in range(6):
        for row in range(4):
            for column in range(7):
                patch = (IMAGES[n, :, row * 8 : row * 8 + 8, column * 4 : column * 4 + 4] - 0.5).abs().mean()
                assert scores[n, row * 7 + column].item() == pytest.approx(patch.item(), rel=1e-5)
    order = np.argsort(-scores.numpy(), axis=1)
    assert all(ranks_of(scores)[n, order[n, 0]] == 0 for n in range(6))


def test_no_patch_masked_is_the_image_and_all_masked_is_the_fill():
    fill = torch.rand_like(IMAGES)
    assert torch.equal(masked(IMAGES, fill, RANKS, 0, GRID, True), IMAGES)
    assert torch.equal(masked(IMAGES, fill, RANKS, 28, GRID, False), fill)
    half = masked(IMAGES, fill, RANKS, 14, GRID, True)
    other = masked(IMAGES, fill, RANKS, 14, GRID, False)
    assert torch.allclose(half + other, IMAGES + fill)


def test_fills_differ_and_stay_in_range():
    means = torch.stack([torch.full((3, 32, 28), 0.2), torch.full((3, 32, 28), torch.nan)])
    predicted = torch.tensor([0, 1, 0, 1, 0, 1])
    made = {kind: fills(kind, IMAGES, predicted, torch.full((3, 32, 28), 0.7), means) for kind in FILLS}
    assert made["class_mean"][0].unique().item() == pytest.approx(0.2)
    assert made["class_mean"][1].unique().item() == pytest.approx(0.7)
    assert all(m.shape == IMAGES.shape and m.min() >= 0 and m.max() <= 1 for m in made.values())
    assert made["blur"].std() < 0.2 * IMAGES.std()
    assert (made["blur"].mean((1, 2, 3)) - IMAGES.mean((1, 2, 3))).abs().max() < 0.02
    assert not torch.allclose(made["global_mean"], made["class_mean"])


def test_the_game_agrees_with_masking_one_image_at_a_time():
    counts = (0, 1, 5, 14, 28)
    labels, fill = torch.tensor([0, 1, 0, 1, 0, 1]), torch.full_like(IMAGES, 0.5)
    for top in (True, False):
        game = play(predict, IMAGES, labels, fill, RANKS, GRID, counts, top)
        for n in range(6):
            clean = predict(IMAGES[n : n + 1])[0].argmax()
            for i, k in enumerate(counts):
                image = IMAGES[n].clone()
                order = RANKS[n].argsort()
                for patch in (order[:k] if top else order[28 - k :]).tolist():
                    row, column = divmod(patch, 7)
                    image[:, row * 8 : row * 8 + 8, column * 4 : column * 4 + 4] = 0.5
                answer = predict(image[None])[0]
                assert game.correct[n, i] == (answer.argmax() == labels[n])
                assert game.consistent[n, i] == (answer.argmax() == clean)
                assert game.probability[n, i] == pytest.approx(answer.softmax(0)[clean].item(), abs=1e-6)
    assert game.consistent[:, 0].all()


def test_each_number_of_patches_costs_one_forward_and_the_clean_one_none_where_it_is_known():
    seen = []

    def counted(images: Tensor) -> Tensor:
        seen.append(len(images))
        return predict(images)

    labels = torch.zeros(6, dtype=torch.int64)
    play(counted, IMAGES, labels, IMAGES, RANKS, GRID, COUNTS[:6], True, predict(IMAGES))
    assert seen == [6] * 5


def test_deletion_and_insertion_meet_at_the_ends_and_prefer_the_right_ranking():
    fill = torch.full_like(IMAGES, 0.5)
    classes = predict(IMAGES).argmax(1)
    upper = (torch.arange(28) < 14).float()
    evidence = torch.where(classes[:, None] == 0, upper, 1 - upper)
    evidence = evidence * (patch_scores(IMAGES, GRID).float() - 0.5)
    good, bad = (deletion_insertion(predict, IMAGES, fill, ranks_of(s), GRID, 4) for s in (evidence, -evidence))
    whole = predict(IMAGES).softmax(1).amax(1).double().numpy()
    for deletion, insertion in (good, bad):
        assert np.allclose(deletion[:, 0], whole) and np.allclose(insertion[:, -1], whole)
        assert np.allclose(deletion[:, -1], insertion[:, 0])
    assert area(good[0], range(5)).mean() < area(bad[0], range(5)).mean()
    assert area(good[1], range(5)).mean() > area(bad[1], range(5)).mean()


def test_areas_robustness_and_jaccard():
    assert area(np.ones((2, 3)), [0, 1, 9]).tolist() == [1, 1]
    assert robustness(np.array([0.9, 0.5]), np.array([0.8, 0.7])) == pytest.approx([0.1, 0.2])
    assert patch_jaccard(RANKS, RANKS, 5).tolist() == [1] * 6
    assert patch_jaccard(RANKS, 27 - RANKS, 5).tolist() == [0] * 6
    assert patch_jaccard(RANKS, RANKS[:, :], 0).tolist() == [1] * 6


def test_bad_input_is_refused():
    labels = torch.zeros(6, dtype=torch.int64)
    with pytest.raises(InputError, match=r"must rise within 0\.\.28"):
        play(predict, IMAGES, labels, IMAGES, RANKS, GRID, (0, 29))
    with pytest.raises(InputError, match="ranks parameter"):
        play(predict, IMAGES, labels, IMAGES, RANKS[:, :9], GRID, (0, 1))
    with pytest.raises(InputError, match="from 1 to 224"):
        grid_of(0, (28, 28))
    with pytest.raises(InputError, match="one of class_mean, global_mean, blur"):
        fills("mean", IMAGES, labels, IMAGES[0], IMAGES)  # type: ignore[arg-type]
