"""Training, validation and test: a patient, or a lesion, is in one of them alone; and what leaks in spite of it."""

from collections.abc import Mapping
from typing import Any

import numpy as np
from jaxtyping import UInt8

from xai_robustness.randomness import numpy_rng
from xai_robustness.types import SPLITS

SIDE = 16
CLOSE_BITS = 10
ALIKE = 0.995
"""Near duplicates differ in at most CLOSE_BITS of 256 bits of a difference hash and correlate at least ALIKE."""


def assign_splits(
    strata: np.ndarray,
    groups: np.ndarray | None,
    official: np.ndarray | None,
    val_share: float,
    test_share: float,
    seed: int,
) -> np.ndarray:
    """Choose the split of each sample.

    Samples of one group stay together; where the data set has an official split it stands, and only what it leaves open
    is drawn (validation from an official training split if there is no official validation).

    Args:
        strata: what is balanced over the splits, one value a sample: its class, whether it carries an artifact.
        groups: patient or lesion, str (N,), "" for samples that stand alone.
        official: "train", "val", "test" or "" of each sample.
        val_share: share of validation groups.
        test_share: share of test groups.
        seed: seed of the split.

    Returns:
        str (N,).
    """
    n = len(strata)
    keys = np.arange(n).astype(str) if groups is None else np.where(groups == "", np.arange(n).astype(str), groups)
    result = np.full(n, "", dtype="U5") if official is None else official.astype("U5")
    has = {split: bool((result == split).any()) for split in SPLITS}
    if all(has.values()) and (result != "").all():
        return result
    free = result == ""
    shares = {"val": 0.0 if has["val"] else val_share, "test": 0.0 if has["test"] else test_share}
    if not has["val"] or not has["test"]:
        free = free | (result == "train")
    chosen = _draw(strata[free], keys[free], shares["val"], shares["test"], seed)
    result[free] = chosen
    return result


def _draw(strata: np.ndarray, keys: np.ndarray, val_share: float, test_share: float, seed: int) -> np.ndarray:
    """Split group by group, each counted in the stratum of its first sample; the shares hold over all strata."""
    _, first, group = np.unique(keys, return_index=True, return_inverse=True)
    of_group = np.full(len(first), "train", dtype="U5")
    stratum = strata[first]
    seen = n_test = n_val = 0
    for value in np.unique(stratum):
        members = np.flatnonzero(stratum == value)
        order = numpy_rng(seed, "split", str(value)).permutation(members[np.argsort(first[members])])
        seen += len(order)
        tests, vals = round(test_share * seen) - n_test, round(val_share * seen) - n_val
        of_group[order[:tests]] = "test"
        of_group[order[tests : tests + vals]] = "val"
        n_test, n_val = n_test + tests, n_val + vals
    return of_group[group]


def group_leaks(groups: np.ndarray | None, splits: np.ndarray) -> dict[str, int]:
    """Number of groups that lie in two splits, by pair of splits; empty where groups are not known."""
    if groups is None:
        return {}
    members: dict[str, set[str]] = {split: set(groups[(splits == split) & (groups != "")]) for split in SPLITS}
    return {f"{a}-{b}": len(members[a] & members[b]) for a, b in (("train", "val"), ("train", "test"), ("val", "test"))}


class Fingerprints:
    """Small versions of images from which exact and near duplicates are found; filled batch by batch."""

    def __init__(self) -> None:
        self._parts: list[tuple[np.ndarray, np.ndarray, np.ndarray]] = []

    def add(self, images: UInt8[np.ndarray, "n h w c"]) -> None:
        """Take up images (N,H,W,C)."""
        gray = images.mean(axis=-1, dtype=np.float32)
        small = _shrink(gray, SIDE + 1)
        bits = (small[:, :SIDE, 1:] > small[:, :SIDE, :-1]).reshape(len(images), -1)
        digests = np.array([hash(image.tobytes()) for image in images], np.int64)
        flat = small.reshape(len(images), -1)
        flat = flat - flat.mean(1, keepdims=True)
        flat /= np.maximum(np.linalg.norm(flat, axis=1, keepdims=True), 1e-6)
        self._parts.append((np.packbits(bits, axis=1).view(np.uint64), flat.astype(np.float16), digests))

    def arrays(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Difference hashes uint64 (N,4), normalised thumbnails float16 (N,M), hashes of all pixels int64 (N,)."""
        hashes, thumbs, digests = zip(*self._parts)
        return np.concatenate(hashes), np.concatenate(thumbs), np.concatenate(digests)


def _shrink(gray: np.ndarray, side: int) -> np.ndarray:
    """Mean over a grid of side x side cells."""
    rows = np.linspace(0, gray.shape[1], side + 1).astype(int)
    columns = np.linspace(0, gray.shape[2], side + 1).astype(int)
    if min(gray.shape[1:]) < side:
        rows, columns = (np.minimum(np.arange(side) * s // side, s - 1) for s in gray.shape[1:])
        return gray[:, rows][:, :, columns]
    sums = np.add.reduceat(np.add.reduceat(gray, rows[:-1], axis=1), columns[:-1], axis=2)
    return sums / (np.diff(rows)[:, None] * np.diff(columns))


def duplicates(first: Fingerprints, second: Fingerprints, most: int = 20) -> dict[str, Any]:
    """Samples of `second` that are in `first`, to the pixel or nearly so.

    Returns:
        `identical` and `near` (counts of samples of `second`), and `examples`, pairs of rows (first, second).
    """
    hashes_a, thumbs_a, digests_a = first.arrays()
    hashes_b, thumbs_b, digests_b = second.arrays()
    place = {int(digest): i for i, digest in enumerate(digests_a)}
    exact = np.array([int(digest) in place for digest in digests_b])
    examples = [[place[int(digests_b[i])], int(i)] for i in np.flatnonzero(exact)]
    near = 0
    block = max(1, 4_000_000 // max(len(hashes_a), 1))
    for start in range(0, len(hashes_b), block):
        part = hashes_b[start : start + block]
        distance = np.zeros((len(part), len(hashes_a)), np.uint16)
        for word in range(hashes_a.shape[1]):
            distance += np.bitwise_count(part[:, None, word] ^ hashes_a[None, :, word])
        b, a = np.nonzero(distance <= CLOSE_BITS)
        alike = (thumbs_b[start + b].astype(np.float32) * thumbs_a[a]).sum(1) >= ALIKE
        found = {int(j): int(i) for j, i in zip(start + b[alike], a[alike]) if not exact[j]}
        near += len(found)
        examples += [[i, j] for j, i in found.items()]
    return {"identical": int(exact.sum()), "near": near, "examples": examples[:most]}


def leakage_sentences(report: Mapping[str, Any]) -> list[str]:
    """What a leakage report has to warn of, one sentence each; empty if nothing leaks."""
    sentences = [
        f"{count} patients or lesions lie in both {pair.replace('-', ' and ')}."
        for pair, count in report["groups"].items()
        if count
    ]
    for pair, found in report["images"].items():
        earlier, later = pair.split("-")
        if found["identical"] or found["near"]:
            sentences.append(
                f"{found['identical']} {later} images are also in {earlier}, and {found['near']} nearly so."
            )
    return sentences


def leakage_report(
    images: Mapping[str, Any], groups: Mapping[str, np.ndarray | None], batch: int = 512
) -> dict[str, Any]:
    """What training, validation and test share although they should not.

    Args:
        images: split -> array (N,H,W,C), read batch by batch; signals are compared as they are.
        groups: split -> patient or lesion int64 (N,), -1 where unknown, or None.
        batch: images read at once.

    Returns:
        `n` (samples by split), `groups` (shared groups by pair of splits), `images` (`duplicates` by pair of splits).
    """
    taken: dict[str, Fingerprints] = {}
    for split in SPLITS:
        taken[split] = Fingerprints()
        for start in range(0, images[split].shape[0], batch):
            taken[split].add(np.asarray(images[split][start : start + batch]))
    pairs = (("train", "val"), ("train", "test"), ("val", "test"))
    known = [split for split in SPLITS if groups[split] is not None]
    labels = np.concatenate([np.asarray(groups[split]).astype(str) for split in known]) if known else None
    splits = np.concatenate([np.full(images[split].shape[0], split) for split in known]) if known else np.zeros(0, str)
    return {
        "n": {split: int(images[split].shape[0]) for split in SPLITS},
        "groups": group_leaks(None if labels is None else np.where(labels == "-1", "", labels), splits),
        "images": {f"{a}-{b}": duplicates(taken[a], taken[b]) for a, b in pairs},
    }
