import numpy as np
import pytest

from xai_robustness.artifacts import ARTIFACTS, Artifact, Insertion
from xai_robustness.randomness import numpy_rng
from xai_robustness.types import InputError

SIZES = (28, 64, 128, 224)


def picture(size, channels, level=120):
    noise = np.random.default_rng(0).integers(-20, 20, (size, size, channels))
    return (level + noise).astype(np.uint8)


def insert(name, image, stream=0, **options):
    return ARTIFACTS[name](**options)(image, numpy_rng(0, stream))


def test_the_six_artifacts_are_registered():
    assert ARTIFACTS.names() == ("band_aid", "brightness", "constant_box", "dark_corner", "ruler", "timestamp")


@pytest.mark.parametrize("name", ARTIFACTS)
@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("size", SIZES)
def test_changes_lie_inside_the_mask_and_are_seen(name, channels, size):
    image = picture(size, channels)
    kept = image.copy()
    for stream in range(5):
        changed, mask = insert(name, image, stream)
        np.testing.assert_array_equal(image, kept)
        assert changed.dtype == np.uint8 and changed.shape == image.shape
        difference = np.abs(changed.astype(int) - image).max(axis=2)
        assert not difference[~mask].any()
        assert difference[mask].max() > 30


@pytest.mark.parametrize("name", ARTIFACTS)
@pytest.mark.parametrize("size", SIZES)
def test_the_mask_is_tight(name, size):
    """No border row or column of a localizable mask is idle, and most images keep their middle."""
    _, mask = insert(name, picture(size, 3))
    if not ARTIFACTS[name].localizable:
        assert mask.all()
        return
    assert mask.mean() < 0.3
    third = size // 3
    assert mask[third:-third, third:-third].mean() < 0.2
    if name == "dark_corner":
        return
    changed, mask = insert(name, picture(size, 3))
    difference = (changed != picture(size, 3)).any(axis=2)
    for axis in (0, 1):
        where = np.flatnonzero(mask.any(axis=axis))
        moved = np.flatnonzero(difference.any(axis=axis))
        assert (where[0], where[-1]) == (moved[0], moved[-1])


@pytest.mark.parametrize("name", ARTIFACTS)
def test_strength_zero_is_the_identity_and_more_strength_changes_more(name):
    image = picture(64, 3)
    change = [np.abs(insert(name, image, strength=s).image.astype(int) - image).sum() for s in (0.0, 0.3, 1.0)]
    assert change[0] == 0 < change[1] < change[2]


@pytest.mark.parametrize("name", ARTIFACTS)
def test_the_same_stream_draws_the_same(name):
    image = picture(64, 3)
    first, again = insert(name, image, 3), insert(name, image, 3)
    np.testing.assert_array_equal(first.image, again.image)
    np.testing.assert_array_equal(first.mask, again.mask)


@pytest.mark.parametrize("name", ["band_aid", "dark_corner", "ruler", "timestamp"])
def test_placement_varies_over_samples(name):
    image = picture(64, 3)
    assert len({insert(name, image, stream).mask.tobytes() for stream in range(20)}) > 5


@pytest.mark.parametrize("name", ["band_aid", "constant_box", "dark_corner", "ruler", "timestamp"])
def test_a_larger_size_covers_more(name):
    image = picture(128, 3)
    small, large = (insert(name, image, size=s).mask.sum() for s in (1.0, 1.3))
    assert small < large


@pytest.mark.parametrize("name", ["band_aid", "constant_box", "dark_corner", "ruler"])
def test_the_extent_follows_the_image(name):
    shares = [np.mean([insert(name, picture(size, 3), s).mask.mean() for s in range(20)]) for size in (64, 224)]
    np.testing.assert_allclose(shares[0], shares[1], rtol=0.25)


def test_brightness_is_the_stated_blend():
    image = picture(28, 1)
    expected = np.round(0.7 * image + 0.3 * 255).astype(np.uint8)
    np.testing.assert_array_equal(insert("brightness", image).image, expected)


def test_ruler_has_at_least_four_ticks_at_equal_distances():
    changed, mask = insert("ruler", picture(28, 1))
    rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
    region = changed[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1, 0] > 220
    ticks = np.flatnonzero(region.any(axis=int(region.shape[0] > region.shape[1]) and 1))
    assert len(ticks) >= 4
    assert len(set(np.diff(ticks))) == 1


def test_ink_stands_out_on_scans_and_photographs():
    rng, region = np.random.default_rng(0), np.ones((28, 28), bool)
    assert Artifact.ink(picture(28, 1, 60), region, rng) > 200
    assert Artifact.ink(picture(28, 1, 230), region, rng) < 50
    assert Artifact.ink(picture(28, 3, 180), region, rng) < 50
    assert Artifact.ink(picture(28, 3, 30), region, rng) > 200


class Careless(Artifact):
    def __init__(self, fault):
        super().__init__()
        self.fault = fault

    def insert(self, image, rng):
        mask = np.zeros(image.shape[:2], bool)
        mask[0, 0] = True
        image[0, 0] = 0
        if self.fault == "outside":
            image[5, 5] += 1
        if self.fault == "empty":
            mask[0, 0] = False
        if self.fault == "dtype":
            image = image.astype(np.float32)
        if self.fault == "mask":
            mask = mask.astype(np.uint8)
        return Insertion(image, mask)


def test_base_class_accepts_a_careful_artifact():
    assert Careless("none")(picture(28, 3), np.random.default_rng(0)).mask.sum() == 1


@pytest.mark.parametrize(
    ("fault", "sentence"),
    [
        ("outside", "no pixel outside"),
        ("empty", "not empty"),
        ("dtype", "keep shape and dtype"),
        ("mask", "boolean mask"),
    ],
)
def test_base_class_refuses_a_careless_artifact(fault, sentence):
    with pytest.raises(ValueError, match=sentence):
        Careless(fault)(picture(28, 3), np.random.default_rng(0))


@pytest.mark.parametrize(
    "image",
    [
        np.zeros((28, 28, 3)),
        np.zeros((28, 28), np.uint8),
        np.zeros((28, 28, 4), np.uint8),
        np.zeros((8, 8, 3), np.uint8),
    ],
)
def test_other_images_are_refused(image):
    with pytest.raises(InputError, match="must be uint8"):
        insert("ruler", image)


@pytest.mark.parametrize("border", ["top", "right", "bottom", "left"])
def test_a_ruler_lies_along_the_border_that_is_asked_for(border):
    near = {"top": (0, 0), "bottom": (0, -1), "left": (1, 0), "right": (1, -1)}[border]
    for stream in range(5):
        _, mask = insert("ruler", picture(28, 1), stream, border=border)
        axis, end = near
        halves = np.array_split(mask, 2, axis=axis)
        assert halves[end].any() and not halves[-1 - end].any()


def test_an_artifact_without_a_border_refuses_one():
    with pytest.raises(InputError, match="border parameter of DarkCorner"):
        ARTIFACTS["dark_corner"](border="top")
