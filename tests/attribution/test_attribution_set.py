import numpy as np
import pytest
import torch
import zarr
from pydantic import ValidationError
from tests.models.tiny import image_set, tiny_model

from xai_robustness.attribution import ATTRIBUTORS
from xai_robustness.attribution.attribution_set import (
    AttributionSet,
    attribution_job,
    families,
    gallery_columns,
    probe_sizes,
    sizes_of,
)
from xai_robustness.attribution.probe import PreflightParams
from xai_robustness.attribution.set_export import ExportJob
from xai_robustness.attribution.set_params import AttributionSetParams, MethodSpec, chosen
from xai_robustness.attribution.set_rows import Explained, mean_image
from xai_robustness.chunks import open_arrays
from xai_robustness.corruptions.conditions import disturb
from xai_robustness.figures.gallery import gallery
from xai_robustness.spread import SpreadJob, WorkersParams, devices_for
from xai_robustness.types import InputError

IG = {"method": "integrated_gradients", "options": {"n_steps": 5}}
METHODS = ["saliency", "input_x_gradient", IG, "grad_cam"]
KEYS = ("saliency", "input_x_gradient", "integrated_gradients_n_steps_5", "grad_cam")
NOISY = "test/clean/gaussian"


def job(seed: int = 2, sizes: int = 3, **changes):
    params = AttributionSetParams(**{"methods": METHODS, "noises": ["gaussian"], "chunk": 4, **changes})
    images = chosen({"test/clean": image_set(8)}, params, seed)
    parts = [tiny_model(seed=1 + i) for i in range(len(params.decorrelated))]
    keys = [spec.key for spec in [*params.methods, *params.decorrelated]]
    mean = mean_image(image_set(8, seed=1))
    names = {"class_names": ["a", "b", "c"]}
    return attribution_job(tiny_model(), parts, images, mean, params, dict.fromkeys(keys, sizes), seed, "cpu", names)


def contents(folder) -> dict[str, np.ndarray]:
    return {
        name: np.asarray(array[:])
        for name, array in zarr.open_group(folder, mode="r").members(max_depth=None)
        if isinstance(array, zarr.Array)
    }


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    folder = tmp_path_factory.mktemp("made") / "set.zarr"
    job(noises=["clean", "gaussian"]).write(folder)
    return folder


def test_the_set_holds_what_each_method_gives_one_by_one(made) -> None:
    found = AttributionSet(open_arrays(made))
    assert found.groups == ("test/clean/clean", NOISY)
    assert found.methods(NOISY) == KEYS
    images, model = image_set(8), tiny_model()
    noisy = disturb("gaussian", images.tensor(slice(0, 8)), images.sample_ids.tolist(), 2)
    with torch.no_grad():
        logits = model(noisy)
    assert np.array_equal(found.read(NOISY, "images"), noisy.numpy())
    assert np.array_equal(found.read(NOISY, "labels"), images.labels)
    assert np.array_equal(found.read(NOISY, "sample_ids"), images.sample_ids)
    np.testing.assert_allclose(found.read(NOISY, "logits"), logits.numpy(), atol=1e-5)
    assert np.array_equal(found.read(NOISY, "targets"), logits.argmax(1).numpy())
    for key, spec in zip(KEYS, METHODS):
        name, options = (spec, {}) if isinstance(spec, str) else (spec["method"], spec["options"])
        expected = ATTRIBUTORS.create(name, model, **options)(noisy, logits.argmax(1))
        np.testing.assert_allclose(found.attributions(NOISY, key), expected.numpy(), rtol=1e-3, atol=1e-5)
        assert found.attributions(NOISY, key).dtype == np.float32


def test_mean_images_overall_and_by_class(made) -> None:
    found = AttributionSet(open_arrays(made))
    noisy, labels = found.read(NOISY, "images"), found.read(NOISY, "labels")
    expected = [noisy.mean(0), *[noisy[labels == k].mean(0) for k in range(3)]]
    np.testing.assert_allclose(found.read(NOISY, "mean_images"), np.stack(expected), rtol=1e-5)


@pytest.mark.parametrize("stop_after", [1, 8])
def test_an_interrupted_set_goes_on_by_method_and_chunk(made, tmp_path, monkeypatch, stop_after) -> None:
    calls = []
    original = Explained.__call__

    def counted(self, start, stop):
        calls.append((self.noise, self.specs[0].key, start))
        if len(calls) == stop_after + 1:
            raise KeyboardInterrupt
        return original(self, start, stop)

    monkeypatch.setattr(Explained, "__call__", counted)
    folder = tmp_path / "set.zarr"
    both = ["clean", "gaussian"]
    with pytest.raises(KeyboardInterrupt):
        job(noises=both).write(folder)
    before = calls[:-1]
    calls[:] = [None] * 100
    job(noises=both).write(folder)
    after = calls[100:]
    assert not set(before) & set(after)
    assert len(before) + len(after) == 2 * 3 * 2  # noises, families of methods, chunks
    expected, found = contents(made), contents(folder)
    assert expected.keys() == found.keys()
    assert all(np.array_equal(expected[name], found[name]) for name in expected)


def test_methods_with_a_shared_gradient_are_one_family() -> None:
    specs = AttributionSetParams(methods=METHODS).methods
    assert [[spec.method for spec in family] for family in families(specs)] == [
        ["saliency", "input_x_gradient"],
        ["integrated_gradients"],
        ["grad_cam"],
    ]


def test_float16_keeps_small_and_large_attributions(tmp_path, made) -> None:
    half = job(dtype="float16")
    for stream in half.streams.values():
        if isinstance(stream.compute, Explained):
            stream.compute.model.fc.weight.data.mul_(1e-9)
            stream.compute.model.fc.bias.data.mul_(1e-9)
            break  # the model is shared
    half.write(tmp_path / "half.zarr")
    small, full = (AttributionSet(open_arrays(folder)) for folder in (tmp_path / "half.zarr", made))
    assert small.read(NOISY, "attributions/saliency").dtype == np.float16
    for key in KEYS:
        expected = full.attributions(NOISY, key)
        peak = np.abs(expected).max()
        np.testing.assert_allclose(small.attributions(NOISY, key) * 1e9, expected, atol=2e-3 * peak)


def test_autocast_changes_little_and_not_what_needs_full_precision(tmp_path) -> None:
    exact = ["lrp", {"method": "occlusion", "options": {"patch_size": 4}}]
    half = ["saliency", IG, "smooth_grad", "grad_cam_plus_plus", "guided_backprop"]
    for autocast in ("none", "bfloat16"):
        made = job(methods=[*exact, *half], autocast=autocast)
        made.write(tmp_path / autocast)
    assert all(
        "forward" not in vars(s.compute.model) for s in made.streams.values() if isinstance(s.compute, Explained)
    )
    full, low = (contents(tmp_path / autocast) for autocast in ("none", "bfloat16"))
    assert full.keys() == low.keys()
    for key in full:
        if not key.startswith(f"{NOISY}/attributions") or key.split("/")[-1].startswith(("lrp", "occlusion")):
            assert np.array_equal(full[key], low[key]), key
            continue
        a, b = (values[key].reshape(8, -1) for values in (full, low))
        lengths = np.linalg.norm(a, axis=1) * np.linalg.norm(b, axis=1)
        assert not np.array_equal(a, b) and ((a * b).sum(1) >= 0.97 * lengths).all(), key


def test_decorrelated_methods_explain_their_own_model(tmp_path) -> None:
    job(decorrelated=["saliency", "grad_cam"]).write(tmp_path / "set.zarr")
    found = AttributionSet(open_arrays(tmp_path / "set.zarr"))
    group = f"{NOISY}_decorrelated"
    noisy = torch.from_numpy(found.read(NOISY, "images"))
    for i, key in enumerate(("saliency", "grad_cam")):
        model = tiny_model(seed=1 + i)
        with torch.no_grad():
            targets = model(noisy).argmax(1)
        assert np.array_equal(found.read(group, f"targets/{key}"), targets.numpy())
        expected = ATTRIBUTORS.create(key, model)(noisy, targets).numpy()
        np.testing.assert_allclose(found.attributions(group, key), expected, rtol=1e-3, atol=1e-5)
    shown = gallery_columns(found, n=2)
    assert list(shown["attributions"])[-2:] == ["saliency, own model", "grad_cam, own model"]
    assert len(gallery(**shown).axes) == 7 * 2 + 1


def test_the_target_can_be_the_label_and_samples_can_be_drawn(tmp_path) -> None:
    job(target="label", n_samples=5, methods=["saliency"]).write(tmp_path / "set.zarr")
    found = AttributionSet(open_arrays(tmp_path / "set.zarr"))
    ids, labels = (found.read(NOISY, name) for name in ("sample_ids", "labels"))
    assert len(ids) == 5 and len(set(ids)) == 5
    assert np.array_equal(found.read(NOISY, "targets"), labels)
    noisy = torch.from_numpy(found.read(NOISY, "images"))
    expected = ATTRIBUTORS.create("saliency", tiny_model())(noisy, torch.from_numpy(labels))
    np.testing.assert_allclose(found.attributions(NOISY, "saliency"), expected.numpy(), rtol=1e-3, atol=1e-5)


def test_two_dask_workers_make_the_same_set(made, tmp_path) -> None:
    SpreadJob(job(), WorkersParams(n=2), "cpu").write(tmp_path / "set.zarr")
    expected, found = contents(made), contents(tmp_path / "set.zarr")
    assert found.keys() == {name for name in expected if name.startswith(NOISY)}
    for name in found:
        np.testing.assert_allclose(found[name], expected[name], rtol=1e-4, atol=1e-6)
    assert not (tmp_path / "set.zarr" / ".finished").exists()


def test_devices() -> None:
    assert devices_for("cpu") == ("cpu",)
    assert devices_for("cuda:1") == ("cuda:1",)


def test_out_of_memory_while_a_set_is_made_changes_nothing(made, tmp_path, monkeypatch) -> None:
    from xai_robustness.attribution import set_rows

    original = set_rows.attribute_many

    def scarce(methods, images, targets, batch_size):
        if len(images) > 2:
            raise torch.OutOfMemoryError("CUDA out of memory.")
        return original(methods, images, targets, batch_size)

    monkeypatch.setattr(set_rows, "attribute_many", scarce)
    job().write(tmp_path / "set.zarr")
    expected, found = contents(made), contents(tmp_path / "set.zarr")
    for name in found:
        np.testing.assert_allclose(found[name], expected[name], rtol=1e-3, atol=1e-5)


def test_probe_of_all_methods() -> None:
    params = AttributionSetParams(methods=METHODS)
    preflight = PreflightParams(batch_size=3)
    report = probe_sizes(tiny_model(), image_set(5), torch.zeros(3, 12, 12), params, preflight, "cpu")
    assert sizes_of(report) == dict.fromkeys(KEYS, 3)
    assert all(measured["verified_bytes"] >= 0 for measured in report["methods"].values())


@pytest.mark.parametrize("dtype", ["float32", "float16"])
def test_export(tmp_path, dtype) -> None:
    folder, out = tmp_path / "set.zarr", tmp_path / "out"
    job(dtype=dtype, methods=["saliency"], noises=["gaussian"]).write(folder)
    root = open_arrays(folder)
    ExportJob(root, AttributionSet(root).groups, ["zarr_zip", "pt"]).write(out)
    expected = {key.removeprefix(f"{NOISY}/"): value for key, value in contents(folder).items()}
    zipped = zarr.open_group(zarr.storage.ZipStore(out / "test-clean-gaussian.zarr.zip", mode="r"), mode="r")
    assert zipped.attrs["methods"] == root.attrs["methods"]
    for key, value in expected.items():
        assert np.array_equal(np.asarray(zipped[key][:]), value)
        tensor = torch.load(out / "test-clean-gaussian" / f"{key}.pt", weights_only=True)
        assert np.array_equal(tensor.numpy(), value)
    assert not list(out.rglob("*.part"))


def test_bad_parameters() -> None:
    with pytest.raises(ValidationError, match=r"Unknown attribution method 'saliancy'. Did you mean 'saliency'"):
        AttributionSetParams(methods=["saliancy"])
    with pytest.raises(ValidationError, match="Unknown noise condition 'fog'"):
        AttributionSetParams(noises=["fog"])
    with pytest.raises(ValidationError, match="'saliency' twice"):
        AttributionSetParams(methods=["saliency", "saliency"])
    with pytest.raises(InputError, match="Unknown option 'steps' .*n_steps"):
        spec = {"method": "integrated_gradients", "options": {"steps": 5}}
        AttributionSetParams(methods=[spec]).check(tiny_model(), (3, 12, 12))
    with pytest.raises(InputError, match=r"Unknown image set 'test/cleen'.*Choose from: test/clean"):
        chosen({"test/clean": image_set(4)}, AttributionSetParams(sets=["test/cleen"]), 0)
    with pytest.raises(InputError, match="must be 'predicted' for multi-label"):
        chosen({"test/clean": image_set(6, task="multi-label")}, AttributionSetParams(target="label"), 0)


def test_a_key_names_method_and_options() -> None:
    spec = MethodSpec(method="integrated_gradients", options={"n_steps": 50, "batch_size": 2})
    assert spec.key == "integrated_gradients_batch_size_2_n_steps_50"
