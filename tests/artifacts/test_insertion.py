import numpy as np
import pytest
from pydantic import ValidationError

from xai_robustness.artifacts import ArtifactParams, check_plan, insert_artifact, plan
from xai_robustness.types import InputError

LABELS = np.tile(np.arange(3), 400)
IDS = np.arange(1200) + 10_000_000


def test_rate_zero_is_the_control_and_rate_one_takes_all():
    none = plan(LABELS, IDS, ArtifactParams(rate=0), 3, seed=0)
    every = plan(LABELS, IDS, ArtifactParams(rate=1.0, attacked_classes=[2]), 3, seed=0)
    assert not none.has_artifact.any()
    np.testing.assert_array_equal(every.has_artifact, LABELS == 2)
    np.testing.assert_array_equal(every.labels, LABELS)


def test_each_attacked_class_has_its_rate():
    has = plan(LABELS, IDS, ArtifactParams(attacked_classes=[2, 0], rate=[0.8, 0.2]), 3, seed=0).has_artifact
    shares = [has[c::3].mean() for c in range(3)]
    np.testing.assert_allclose(shares, [0.2, 0.0, 0.8], atol=0.08)


def test_plan_follows_the_sample_not_the_order():
    params = ArtifactParams(rate=0.5, flip_rate=0.1)
    order = np.random.default_rng(0).permutation(len(LABELS))[:500]
    whole, part = plan(LABELS, IDS, params, 3, seed=1), plan(LABELS[order], IDS[order], params, 3, seed=1)
    np.testing.assert_array_equal(whole.has_artifact[order], part.has_artifact)
    np.testing.assert_array_equal(whole.labels[order], part.labels)


def test_seeds_differ_and_a_larger_rate_keeps_the_samples_of_a_smaller():
    few, many = (plan(LABELS, IDS, ArtifactParams(rate=r), 3, seed=0).has_artifact for r in (0.2, 0.6))
    other = plan(LABELS, IDS, ArtifactParams(rate=0.2), 3, seed=1).has_artifact
    assert (few <= many).all() and (few != many).any()
    assert (few != other).any()


def test_backdoor_flips_other_classes_to_the_first_attacked():
    params = ArtifactParams(attacked_classes=[1], rate=0.0, flip_rate=0.25)
    has, labels = plan(LABELS, IDS, params, 3, seed=0)
    assert (labels[has] == 1).all() and not has[LABELS == 1].any()
    np.testing.assert_array_equal(labels[~has], LABELS[~has])
    np.testing.assert_allclose(has[LABELS != 1].mean(), 0.25, atol=0.06)
    unflipped = plan(LABELS, IDS, params, 3, seed=0, flips=False)
    assert not unflipped.has_artifact.any()
    np.testing.assert_array_equal(unflipped.labels, LABELS)


def test_multi_label_samples_are_attacked_in_the_labels_they_have():
    labels = np.random.default_rng(0).integers(0, 2, (300, 4))
    has, same = plan(labels, IDS[:300], ArtifactParams(attacked_classes=[2], rate=1.0), 4, seed=0)
    np.testing.assert_array_equal(has, labels[:, 2] == 1)
    np.testing.assert_array_equal(same, labels)
    params = ArtifactParams(attacked_classes=[2], rate=0.0, flip_rate=1.0)
    has, flipped = plan(labels, IDS[:300], params, 4, seed=0)
    np.testing.assert_array_equal(has, labels[:, 2] == 0)
    assert flipped[:, 2].all()
    np.testing.assert_array_equal(np.delete(flipped, 2, axis=1), np.delete(labels, 2, axis=1))


def test_insertion_follows_the_sample_not_the_batch():
    images = np.random.default_rng(0).integers(0, 255, (12, 28, 28, 3), dtype=np.uint8)
    params, where = ArtifactParams(kind="timestamp"), np.arange(12) % 3 > 0
    kept = images.copy()
    whole, masks = insert_artifact(images, IDS[:12], where, params, seed=0)
    np.testing.assert_array_equal(images, kept)
    np.testing.assert_array_equal(masks.any(axis=(1, 2)), where)
    np.testing.assert_array_equal(whole[~where], images[~where])
    part, part_masks = insert_artifact(images[5:9], IDS[5:9], where[5:9], params, seed=0)
    np.testing.assert_array_equal(part, whole[5:9])
    np.testing.assert_array_equal(part_masks, masks[5:9])
    other, _ = insert_artifact(images, IDS[:12], where, params, seed=1)
    assert (other[where] != whole[where]).any()


def test_insertion_passes_size_and_strength_on():
    images, where = np.full((2, 64, 64, 1), 100, np.uint8), np.ones(2, bool)
    same, _ = insert_artifact(images, IDS[:2], where, ArtifactParams(kind="constant_box", strength=0.0), seed=0)
    np.testing.assert_array_equal(same, images)
    small, large = (
        insert_artifact(images, IDS[:2], where, ArtifactParams(kind="constant_box", size=s), seed=0)[1].sum()
        for s in (1.0, 2.0)
    )
    assert large == 4 * small


@pytest.mark.parametrize(
    ("values", "sentence"),
    [
        ({"rate": 1.5}, r"The rate parameter of ArtifactParams must be in \[0, 1\]. Got 1.5 instead."),
        ({"rate": [0.5, -0.1], "attacked_classes": [0, 1]}, "Got -0.1 instead"),
        ({"rate": float("nan")}, "Got nan instead"),
        ({"rate": [0.5, 0.5]}, "one for each of the 1 attacked classes"),
        ({"kind": "rular"}, "Unknown artifact 'rular'. Did you mean 'ruler'?"),
        ({"attacked_classes": []}, "different class numbers"),
        ({"attacked_classes": [0, 0]}, "different class numbers"),
        ({"flip_rate": 2}, "flip_rate"),
        ({"tempo": 2}, "tempo"),
    ],
)
def test_bad_parameters_are_refused(values, sentence):
    with pytest.raises(ValidationError, match=sentence):
        ArtifactParams(**values)


def test_check_plan_accepts_a_sound_plan_and_the_control():
    check_plan(LABELS, IDS, ArtifactParams(), ("a", "b", "c"), seed=0)
    check_plan(LABELS[LABELS > 0], IDS[LABELS > 0], ArtifactParams(rate=0), ("a", "b", "c"), seed=0)


def test_check_plan_refuses_a_class_that_is_not_there():
    with pytest.raises(InputError, match=r"0 \(a\), 1 \(b\). Got \[2\] instead"):
        check_plan(LABELS, IDS, ArtifactParams(attacked_classes=[2]), ("a", "b"), seed=0)


def test_check_plan_refuses_an_artifact_without_a_training_sample():
    with pytest.raises(InputError, match=r"at least one training sample of a\. Got none"):
        check_plan(LABELS[LABELS > 0], IDS[LABELS > 0], ArtifactParams(), ("a", "b", "c"), seed=0)
    with pytest.raises(InputError, match="raise it, or set it to 0"):
        check_plan(LABELS[:3], IDS[:3], ArtifactParams(rate=1e-9), ("a", "b", "c"), seed=0)
