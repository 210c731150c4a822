import numpy as np
import pytest

from xai_robustness.artifacts.cut_out import CUT_OUTS, Donors


def skin(rng, side=96):
    base = np.array([200.0, 150, 130]) + rng.normal(0, 12, 3)
    return np.clip(base + rng.normal(0, 6, (side, side, 3)), 0, 255).astype(np.uint8)


def with_plaster(rng):
    image, mask = skin(rng), np.zeros((96, 96), bool)
    top = int(rng.integers(0, 60))
    mask[top : top + 30, :24] = True
    image[mask] = np.clip(np.array([40, 140, 220]) + rng.normal(0, 6, (mask.sum(), 3)), 0, 255)
    return image, mask


def with_line(rng, angle):
    image, mask = skin(rng), np.zeros((96, 96), bool)
    steps = np.linspace(-20, 20, 200)
    rows, columns = 60 + steps * np.sin(angle), 50 + steps * np.cos(angle)
    mask[np.round(rows).astype(int), np.round(columns).astype(int)] = True
    image[mask] = 90
    image[10:20, 10:20] = 60  # a dark spot is no line
    return image, mask


def test_colours_that_only_carriers_have_are_found():
    rng = np.random.default_rng(0)
    cut_out = CUT_OUTS.create("colour")
    cut_out.fit((with_plaster(rng)[0] for _ in range(20)), (skin(rng) for _ in range(40)))
    for _ in range(5):
        image, mask = with_plaster(rng)
        found = cut_out.cover(image) > 0.5
        assert (found & mask).sum() / (found | mask).sum() > 0.8
    assert not cut_out.cover(skin(rng)).any()


@pytest.mark.parametrize("angle", [0.0, 0.6, 1.5, 2.6])
def test_the_straightest_dark_line_is_found_at_any_angle(angle):
    image, mask = with_line(np.random.default_rng(1), angle)
    found = CUT_OUTS.create("line").cover(image) > 0
    assert (found & mask).sum() / mask.sum() > 0.9 and found.mean() < 0.06


def test_without_a_line_nothing_is_found():
    flat = np.full((96, 96, 3), 150, np.uint8)
    assert not CUT_OUTS.create("line").cover(flat).any()


@pytest.mark.parametrize("kind", CUT_OUTS.names())
def test_pasting_changes_nothing_outside_of_the_mask_and_follows_the_stream(kind):
    rng = np.random.default_rng(2)
    carriers = [with_plaster(rng)[0] if kind == "colour" else with_line(rng, 0.4)[0] for _ in range(6)]
    cut_out = CUT_OUTS.create(kind)
    cut_out.fit(carriers, [skin(rng) for _ in range(10)])
    donors, target = Donors(cut_out, np.stack(carriers)), skin(rng)
    assert len(donors) == 6
    first, mask = donors.paste(target, np.random.default_rng(5))
    again, _ = donors.paste(target, np.random.default_rng(5))
    np.testing.assert_array_equal(first, again)
    changed = (first != target).any(-1)
    assert changed.any() and not (changed & ~mask).any()


def test_a_pasted_line_darkens_and_keeps_the_skin_below():
    rng = np.random.default_rng(3)
    image, _ = with_line(rng, 0.4)
    cut_out, target = CUT_OUTS.create("line"), np.full((96, 96, 3), [120, 200, 90], np.uint8)
    pasted = cut_out.paste(target, image, cut_out.cover(image))
    assert (pasted <= target).all() and np.median(pasted[(pasted != target).any(-1)], 0)[1] > 150


def test_donors_in_which_nothing_is_found_are_dropped():
    flat = np.full((3, 96, 96, 3), 150, np.uint8)
    donors = Donors(CUT_OUTS.create("line"), flat)
    assert len(donors) == 0 and donors.n_dropped == 3
