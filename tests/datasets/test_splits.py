import numpy as np
import pytest

from xai_robustness.datasets.splits import (
    Fingerprints,
    assign_splits,
    duplicates,
    group_leaks,
    leakage_report,
    leakage_sentences,
)


def test_groups_stay_together_strata_are_balanced_and_the_seed_decides():
    rng = np.random.default_rng(0)
    groups = np.repeat(np.arange(500), 2).astype(str)
    strata = np.repeat(rng.choice(["a", "b"], 500, p=[0.9, 0.1]), 2)
    splits = assign_splits(strata, groups, None, 0.2, 0.1, seed=0)
    assert group_leaks(groups, splits) == {"train-val": 0, "train-test": 0, "val-test": 0}
    for stratum in "ab":
        shares = [(splits[strata == stratum] == split).mean() for split in ("train", "val", "test")]
        np.testing.assert_allclose(shares, [0.7, 0.2, 0.1], atol=0.02)
    np.testing.assert_array_equal(splits, assign_splits(strata, groups, None, 0.2, 0.1, seed=0))
    assert (splits != assign_splits(strata, groups, None, 0.2, 0.1, seed=1)).any()


def test_samples_without_a_group_stand_alone():
    groups = np.array([""] * 100)
    splits = assign_splits(np.zeros(100, int), groups, None, 0.2, 0.2, seed=0)
    assert {s: int((splits == s).sum()) for s in ("train", "val", "test")} == {"train": 60, "val": 20, "test": 20}


def test_an_official_split_stands_and_validation_is_drawn_from_training_alone():
    official = np.array(["train"] * 80 + ["test"] * 20)
    splits = assign_splits(np.zeros(100, int), None, official, 0.25, 0.3, seed=0)
    assert (splits[80:] == "test").all() and (splits[:80] == "val").sum() == 20
    assert set(splits[:80]) == {"train", "val"}
    whole = np.array(["train", "val", "test"])
    np.testing.assert_array_equal(assign_splits(np.zeros(3, int), None, whole, 0.1, 0.1, 0), whole)


def test_groups_in_two_splits_are_counted():
    groups, splits = np.array(["p", "p", "q", "q", ""]), np.array(["train", "test", "train", "val", "test"])
    assert group_leaks(groups, splits) == {"train-val": 1, "train-test": 1, "val-test": 0}


@pytest.mark.parametrize("side", [28, 112])
def test_identical_and_near_duplicates_are_found_and_others_are_not(side):
    rng = np.random.default_rng(0)
    from scipy import ndimage

    def smooth(n):
        return (
            ndimage.gaussian_filter(rng.random((n, side, side, 3)), (0, side / 14, side / 14, 0)) * 900 % 256
        ).astype(np.uint8)

    train, test = smooth(40), smooth(30)
    test[3] = train[7]
    noisy = train[9].astype(int) + rng.integers(-3, 4, train[9].shape)
    test[5] = np.clip(noisy, 0, 255)
    first, second = Fingerprints(), Fingerprints()
    first.add(train[:25])
    first.add(train[25:])
    second.add(test)
    found = duplicates(first, second)
    assert found == {"identical": 1, "near": 1, "examples": [[7, 3], [9, 5]]}


def test_the_report_reads_in_batches_and_counts_by_pair():
    rng = np.random.default_rng(1)
    images = {s: rng.integers(0, 256, (30, 28, 28, 3), dtype=np.uint8) for s in ("train", "val", "test")}
    images["test"][4] = images["train"][2]
    groups = {"train": np.arange(30), "val": np.arange(29, 59), "test": np.full(30, -1)}
    report = leakage_report(images, groups, batch=7)
    assert report["n"] == {"train": 30, "val": 30, "test": 30}
    assert report["groups"] == {"train-val": 1, "train-test": 0, "val-test": 0}
    assert report["images"]["train-test"] == {"identical": 1, "near": 0, "examples": [[2, 4]]}
    assert report["images"]["train-val"]["identical"] == 0
    assert leakage_report(images, dict.fromkeys(groups))["groups"] == {}


def test_sentences_name_counts_and_silence_means_no_leak():
    report = {"groups": {"train-test": 2}, "images": {"train-test": {"identical": 1, "near": 3}}}
    assert leakage_sentences(report) == [
        "2 patients or lesions lie in both train and test.",
        "1 test images are also in train, and 3 nearly so.",
    ]
    assert leakage_sentences({"groups": {"a-b": 0}, "images": {"a-b": {"identical": 0, "near": 0}}}) == []
