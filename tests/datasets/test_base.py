import numpy as np
import pytest
import zarr

from xai_robustness.datasets.base import DatasetInfo, ImageSet

INFO = DatasetInfo("invented", "multi-class", ("round", "lobed"), "CC0")


@pytest.mark.parametrize("on_disk", [False, True])
def test_pictures_come_in_the_order_of_their_ids_and_as_often(on_disk, tmp_path):
    pixels = np.random.default_rng(0).integers(0, 255, (12, 4, 4, 1)).astype(np.uint8)
    ids = np.random.default_rng(1).permutation(12) + 100
    stored = zarr.create_array(str(tmp_path / "images"), data=pixels, chunks=(5, 4, 4, 1)) if on_disk else pixels
    images = ImageSet(stored, np.arange(12) % 2, ids, INFO)
    wanted = ids[[7, 0, 7, 11]]
    np.testing.assert_array_equal(images.pictures_of(wanted), pixels[[7, 0, 7, 11]])
    assert images.pictures_of(wanted[:0]).shape == (0, 4, 4, 1)
    with pytest.raises(ValueError, match=r"12 known ones. Got \[3\]"):
        images.pictures_of(np.array([105, 3]))
