import logging

import numpy as np
import pytest
from tests.datasets.trees import ecg, ptbxl, write_record

from xai_robustness.artifacts.ecg import SIGNAL_ARTIFACTS
from xai_robustness.artifacts.insertion import ArtifactParams, insert_artifact
from xai_robustness.datasets.decode import BadFileError
from xai_robustness.datasets.load import DataParams, load_dataset
from xai_robustness.datasets.ptbxl import LEADS, find_r_peaks, read_record
from xai_robustness.types import InputError


def load(root, **changes):
    return load_dataset(DataParams(**{"name": "ptbxl"} | changes), 0, root, cache=root / "cache")


def test_signals_labels_and_folds(tmp_path):
    ptbxl(tmp_path)
    splits = load(tmp_path)
    train = splits["train"]
    assert train.images.shape[1:] == (1, 1000, 12) and train.info.class_names == ("NORM", "MI", "STTC", "CD", "HYP")
    expected = [[1, 0, 0, 0, 0], [0, 1, 0, 0, 0], [0, 0, 1, 0, 1], [0, 0, 0, 0, 0]]
    for part in splits.values():
        for name, label, signal in zip(part.names, part.labels, part.images[:100]):
            i = int(name) - 1
            assert label.tolist() == expected[i % 4]
            np.testing.assert_allclose(signal[0], ecg(seed=i)[0], atol=0.002)
    assert [sorted((int(n) - 1) % 5 for n in splits[s].names) for s in ("val", "test")] == [[3] * 4, [4] * 4]
    assert load(tmp_path, target="subclass")["train"].info.class_names == ("CLBBB", "IMI", "LVH", "NORM", "STTC")
    assert load(tmp_path, classes=["MI", "NORM"])["train"].labels.shape[1] == 2


def test_r_peaks_are_those_that_were_drawn():
    for seed in range(5):
        for rate in (100, 500):
            values, peaks = ecg(rate, seed)
            found = find_r_peaks(values, rate)
            assert len(found) == len(peaks)
            assert np.abs(found - peaks).max() <= 0.04 * rate


def test_listed_r_peaks_are_taken_as_they_are(tmp_path):
    folder = ptbxl(tmp_path)
    path = folder / "ptbxl_database.csv"
    lines = path.read_text().splitlines()
    lines = [f"{lines[0]},r_peaks"] + [f"{line},[ 10  20 30]" for line in lines[1:]]
    path.write_text("\n".join(lines) + "\n")
    peaks = load(tmp_path)["train"].extras["r_peaks"]
    assert (peaks[:, :3] == [10, 20, 30]).all() and (peaks[:, 3:] == -1).all()


def test_a_missing_lead_is_named_and_skipped_only_on_request(tmp_path, caplog):
    folder = ptbxl(tmp_path)
    write_record(folder / "records100/00000/00001_lr", ecg()[0], LEADS[:6] + LEADS[7:])
    with pytest.raises(InputError, match=r"Got 1 of 20 that are not instead: 00001_lr.hea \(it lacks lead V1\)"):
        load(tmp_path)
    with caplog.at_level(logging.WARNING):
        splits = load(tmp_path, skip_bad=True)
    assert sum(len(part.labels) for part in splits.values()) == 19


def test_records_of_another_length_or_with_gaps_are_bad(tmp_path):
    values = ecg()[0]
    write_record(tmp_path / "short", values[:500])
    with pytest.raises(BadFileError, match="500 samples, not 1000"):
        read_record(tmp_path / "short.hea", 1000)
    values[3, 4] = np.nan
    write_record(tmp_path / "gap", values)
    with pytest.raises(BadFileError, match="not finite"):
        read_record(tmp_path / "gap.hea", 1000)


def test_leads_are_put_in_order(tmp_path):
    values = ecg()[0]
    write_record(tmp_path / "turned", values[:, ::-1], LEADS[::-1])
    np.testing.assert_allclose(read_record(tmp_path / "turned.hea", 1000)[0], values, atol=0.002)


def test_defective_lead_is_twice_the_largest_value_in_its_first_samples():
    values, peaks = ecg()
    values = values.astype(np.float32)
    changed, mask = SIGNAL_ARTIFACTS.create("defective_lead", [1], 100, 3.0)(values, peaks, np.random.default_rng(0))
    np.testing.assert_allclose(changed[:100, 1], 2 * values[:100, 1].max())
    np.testing.assert_array_equal(np.delete(changed, 1, 1), np.delete(values, 1, 1))
    np.testing.assert_array_equal(changed[100:], values[100:])
    assert mask[:100].all() and not mask[100:].any()


def test_amplified_beat_is_three_times_at_its_peak_and_as_before_at_its_ends():
    values, peaks = ecg()
    values = values.astype(np.float32)
    changed, mask = SIGNAL_ARTIFACTS.create("amplified_beat", [], 100, 3.0)(values, peaks, np.random.default_rng(0))
    gain = changed / values
    inside = np.flatnonzero(mask)
    peak = [p for p in peaks if inside[0] < p < inside[-1]]
    assert len(peak) == 1
    np.testing.assert_allclose(gain[peak[0]], 3, rtol=1e-4)
    np.testing.assert_allclose(gain[[inside[0], inside[-1]]], 1, rtol=1e-4)
    few, _ = SIGNAL_ARTIFACTS.create("amplified_beat", [2], 100, 2.0)(values, peaks[:1], np.random.default_rng(0))
    assert (few != values).any(0).tolist() == [c == 2 for c in range(12)]


def test_signal_artifacts_refuse_leads_that_are_not_there_and_images():
    values, peaks = ecg()
    with pytest.raises(InputError, match="Got \\[12\\] and 100"):
        SIGNAL_ARTIFACTS.create("defective_lead", [12], 100, 3.0)(values, peaks, np.random.default_rng(0))
    images = np.zeros((1, 16, 16, 3), np.uint8)
    with pytest.raises(InputError, match="must be one of images for these data"):
        insert_artifact(images, np.array([1]), np.array([True]), ArtifactParams(kind="defective_lead"), 0)


def test_inserted_signals_carry_masks_in_time():
    values, peaks = ecg()
    signals = np.repeat(values[None, None].astype(np.float32), 3, 0)
    listed = np.full((3, 64), -1)
    listed[:, : len(peaks)] = peaks
    where = np.array([True, False, True])
    for kind in SIGNAL_ARTIFACTS:
        changed, masks = insert_artifact(signals, np.arange(3), where, ArtifactParams(kind=kind), 0, listed)
        assert masks.shape == (3, 1, 1000) and masks.any((1, 2)).tolist() == where.tolist()
        assert not ((changed != signals).any(-1) & ~masks).any()
