import numpy as np
import zarr

from xai_robustness.corruptions import corrupt
from xai_robustness.robustness.corrupted_sets import corrupted_job, export_job, to_pixels
from xai_robustness.robustness.params import RobustnessParams

PARAMS = RobustnessParams(
    corruptions=["contrast", "speckle_noise"], corrupted_sets={"splits": ["train", "test"], "export": True}
)


def test_the_store_holds_every_version_and_is_resumed(images, tmp_path):
    sets = {f"{split}/clean": images for split in ("train", "val", "test")}
    job = corrupted_job(sets, PARAMS, 0)
    job.write(tmp_path)
    root = zarr.open_group(tmp_path, mode="r")
    assert sorted(root["test"].group_keys()) == sorted(f"{n}_{s}" for n in PARAMS.corruptions for s in range(1, 6))
    assert sorted(root.group_keys()) == ["test", "train"]
    made = corrupt("speckle_noise", images.tensor(slice(None)), images.sample_ids.tolist(), 4, 0)
    assert np.array_equal(root["test/speckle_noise_4/images"][:], to_pixels(made))
    assert np.array_equal(root["train/corrupted/labels"][:], images.labels)
    changed = (root["train/corrupted/images"][:] != images.images).any((1, 2, 3))
    assert 0.4 < changed.mean() < 0.95  # a third stays clean


def test_the_export_has_medmnist_c_layout(images, tmp_path):
    export_job(images, PARAMS, 0).write(tmp_path)
    assert sorted(p.name for p in (tmp_path / "phantom").iterdir()) == ["contrast.npz", "speckle_noise.npz"]
    with np.load(tmp_path / "phantom" / "contrast.npz", allow_pickle=False) as file:
        assert file["test_images"].shape == (120, 28, 28, 3) and file["test_images"].dtype == np.uint8
        assert file["test_labels"].shape == (120, 1)
        spread = file["test_images"].reshape(5, 24, -1).std(axis=(1, 2))
    assert (np.diff(spread) < 0).all()


def test_nothing_is_written_unless_asked(images, tmp_path):
    off = RobustnessParams()
    export_job(images, off, 0).write(tmp_path)
    assert not list(tmp_path.iterdir())
    assert not corrupted_job({"test/clean": images}, off, 0).streams
