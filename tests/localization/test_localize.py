import numpy as np
import pytest
import torch
from pydantic import ValidationError
from skimage.filters import threshold_otsu
from torchvision.transforms.functional import gaussian_blur

from xai_robustness.attribution.lrp import Lrp
from xai_robustness.chunks import open_arrays
from xai_robustness.concepts.cav import Cav
from xai_robustness.datasets.base import DatasetInfo, ImageSet
from xai_robustness.localization.controls import against_area, control_metrics, gradient_heatmaps
from xai_robustness.localization.export import PngJob
from xai_robustness.localization.localize import (
    binarization_job,
    cav_relevance,
    cavs_of,
    combined,
    localization_job,
    localization_metrics,
    localize,
    localize_images,
    read_masks,
)
from xai_robustness.localization.masks import LocalizationParams, binarize, blurred
from xai_robustness.models.taps import tap
from xai_robustness.models.zoo import ModelParams, build
from xai_robustness.types import METRIC_COLUMNS, InputError

LAYER = "layer2"


@pytest.fixture(scope="module")
def model():
    return build(ModelParams(name="resnet18"), 3, (3, 28, 28), [0.5] * 3, [0.25] * 3, seed=0).eval()


@pytest.fixture(scope="module")
def images():
    rng = np.random.default_rng(0)
    info = DatasetInfo("invented", "multi-class", ("a", "b", "c"), "none")
    return ImageSet(
        rng.integers(0, 256, (7, 28, 28, 3), dtype=np.uint8),
        np.arange(7) % 3,
        np.arange(7) + 40,
        info,
        np.ones(7, bool),
    )


def cav(vector):
    vector = np.asarray(vector, np.float32)
    return Cav(vector / np.linalg.norm(vector), 0.0, "signal", LAYER, "max", 0.0, 1.0, 9, 9)


def random_vector(seed):
    return np.random.default_rng(seed).normal(size=128)


def heatmaps_of(model, images, vector):
    with Lrp(model) as lrp:
        return localize(lrp, images.tensor(slice(0, 7)), cav(vector)).numpy()


def test_relevance_starts_as_the_positive_activation_times_the_vector():
    activation = torch.tensor([[[[1.0, -2.0]], [[3.0, 0.5]]]])
    expected = torch.tensor([[[[2.0, 0.0]], [[-3.0, -0.5]]]])
    assert torch.equal(cav_relevance(activation, torch.tensor([2.0, -1.0])), expected)


def test_heatmaps_sum_to_the_relevance_of_the_layer(model, images):
    vector = np.abs(random_vector(0))
    x = images.tensor(slice(0, 7))
    with torch.no_grad(), tap(model, [LAYER]) as found:
        model(x)
    start = cav_relevance(found[LAYER], torch.from_numpy(cav(vector).vector)).flatten(1).sum(1).numpy()
    np.testing.assert_allclose(heatmaps_of(model, images, vector).sum((1, 2)), start, rtol=0.1)


def test_heatmaps_are_linear_in_the_vector(model, images):
    a, b = cav(random_vector(0)).vector, cav(random_vector(1)).vector
    length = np.linalg.norm(a + b)
    both = heatmaps_of(model, images, a + b) * length
    np.testing.assert_allclose(
        both, heatmaps_of(model, images, a) + heatmaps_of(model, images, b), atol=1e-3 * np.abs(both).max()
    )
    np.testing.assert_allclose(heatmaps_of(model, images, -a), -heatmaps_of(model, images, a), rtol=1e-4, atol=1e-6)


def test_the_jobs_write_what_direct_calls_give_and_the_chunk_makes_no_difference(model, images, tmp_path):
    vector, rows = random_vector(0), np.array([5, 0, 3])
    stores = []
    for chunk in (1, 3):
        params = LocalizationParams(batch_size=2, chunk=chunk)
        folder = tmp_path / f"heatmaps{chunk}"
        folder.mkdir()
        localization_job(model, {"train/biased": images}, {"train/biased": rows}, cav(vector), params).write(folder)
        stores.append(open_arrays(folder))
    for store in stores:
        np.testing.assert_array_equal(store["train/biased/sample_ids"][:], [45, 40, 43])
        np.testing.assert_allclose(
            store["train/biased/heatmaps"][:], heatmaps_of(model, images, vector)[rows], rtol=1e-3, atol=1e-6
        )
    (tmp_path / "masks").mkdir()
    binarization_job(stores[0], LocalizationParams(chunk=2)).write(tmp_path / "masks")
    ids, masks = read_masks(open_arrays(tmp_path / "masks"))["train/biased"]
    np.testing.assert_array_equal(ids, [45, 40, 43])
    np.testing.assert_array_equal(
        masks, binarize(np.asarray(stores[0]["train/biased/heatmaps"][:]), LocalizationParams())
    )
    np.testing.assert_allclose(
        localize_images(model, images, cav(vector), LocalizationParams(batch_size=3)),
        heatmaps_of(model, images, vector),
        rtol=1e-3,
        atol=1e-6,
    )


@pytest.mark.parametrize("vector", [None, random_vector(0)], ids=["no cav", "no rows"])
def test_nothing_to_localize_writes_an_empty_store(model, images, tmp_path, vector):
    given = None if vector is None else cav(vector)
    rows = np.arange(3) if vector is None else np.zeros(0, int)
    for name in ("heatmaps", "masks"):
        (tmp_path / name).mkdir()
    localization_job(model, {"train/biased": images}, {"train/biased": rows}, given, LocalizationParams()).write(
        tmp_path / "heatmaps"
    )
    binarization_job(open_arrays(tmp_path / "heatmaps"), LocalizationParams()).write(tmp_path / "masks")
    assert read_masks(open_arrays(tmp_path / "masks")) == {}


def test_the_model_comes_back_as_it_was(model, images):
    model.train()
    x = images.tensor(slice(0, 4))
    before = {key: value.clone() for key, value in model.state_dict().items()}
    localize_images(model, images, cav(random_vector(0)), LocalizationParams())
    assert model.training and all(torch.equal(before[key], value) for key, value in model.state_dict().items())
    model.eval()
    assert torch.isfinite(model(x)).all()


def test_masks_are_otsus_of_the_blurred_positive_part():
    heatmaps = np.random.default_rng(0).normal(size=(3, 224, 224))
    heatmaps[:, 50:90, 60:100] += 4
    masks = binarize(heatmaps, LocalizationParams())
    for heatmap, mask in zip(heatmaps, masks):
        positive = gaussian_blur(torch.from_numpy(np.maximum(heatmap, 0))[None], 7, 8.0)[0].numpy()
        assert (mask != (positive > threshold_otsu(positive))).mean() < 1e-4
        assert mask[50:90, 60:100].mean() > 0.95 > 0.02 > mask[:50].mean()


def test_the_percentile_keeps_its_share():
    heatmaps = np.random.default_rng(0).random((2, 50, 50))
    masks = binarize(heatmaps, LocalizationParams(method="percentile", percentile=92, blur_kernel=0))
    np.testing.assert_allclose(masks.mean((1, 2)), 0.08, atol=1e-3)


@pytest.mark.parametrize("method", ["otsu", "percentile"])
def test_heatmaps_without_positive_relevance_give_empty_masks(method):
    assert not binarize(-np.ones((2, 28, 28)), LocalizationParams(method=method)).any()


def test_the_blur_follows_the_size_down_to_three_pixels():
    heatmaps = np.random.default_rng(0).random((1, 28, 28))
    point = np.zeros((1, 28, 28))
    point[0, 10, 10] = 1
    assert [(blurred(point, kernel, 8.0) > 0).sum() for kernel in (0, 7, 24, 40)] == [1, 9, 9, 25]
    expected = gaussian_blur(torch.from_numpy(heatmaps), 5, 1.0)
    np.testing.assert_allclose(blurred(heatmaps, 40, 8.0), expected.numpy(), atol=1e-9)


def test_metrics_are_means_with_intervals_over_the_samples_where_they_are_defined():
    truth = np.zeros((3, 8, 8), bool)
    truth[0, :2], truth[1, :4], truth[2] = True, True, True
    heatmaps = np.ones((3, 8, 8))
    table = localization_metrics("test/attacked", heatmaps, truth, truth, seed=0, n_boot=20).set_index("metric")
    assert list(table.reset_index().columns) == list(METRIC_COLUMNS)
    assert table.loc["test/attacked/artifact_relevance", "value"] == pytest.approx((0.25 + 0.5) / 2)
    assert table.loc["test/attacked/iou", "value"] == 1 and set(table["n"]) == {2}
    everything = localization_metrics("test/attacked", heatmaps[2:], truth[2:], truth[2:], seed=0)
    assert everything["value"].isna().all() and (everything["n"] == 0).all()
    with pytest.raises(InputError, match="must have one shape"):
        localization_metrics("test/attacked", heatmaps, truth[:2], truth, seed=0)


def test_parameters_are_checked():
    for bad in ({"method": "otsuu"}, {"percentile": 100}, {"blur_kernel": -1}, {"blurr": 3}):
        with pytest.raises(ValidationError):
            LocalizationParams(**bad)


def test_regions_drop_weak_specks_of_otsus_mask():
    heatmap = np.zeros((1, 28, 28))
    heatmap[0, 4:12, 4:12], heatmap[0, 20:22, 20:22] = 1.0, 1.0
    otsu = binarize(heatmap, LocalizationParams(blur_kernel=0))
    regions = binarize(heatmap, LocalizationParams(blur_kernel=0, method="otsu_regions"))
    assert otsu[0, 20, 20] and not regions[0, 20, 20] and regions[0, 4:12, 4:12].all()
    every = binarize(heatmap, LocalizationParams(blur_kernel=0, method="otsu_regions", min_region=0.0))
    np.testing.assert_array_equal(every, otsu)
    assert not binarize(np.zeros((2, 8, 8)), LocalizationParams(method="otsu_regions")).any()


def test_heatmaps_of_several_layers_are_averaged_at_one_scale(model, images):
    a, b = torch.tensor([[[2.0, -4.0]]]), torch.tensor([[[0.1, 0.2]]])
    assert combined([a]) is a
    torch.testing.assert_close(combined([a, b]), torch.tensor([[[0.5, 0.0]]]))
    other = Cav(np.eye(1, 256, dtype=np.float32)[0], 0.0, "signal", "layer3", "max", 0.0, 1.0, 9, 9)
    one, two = cav(random_vector(0)), other
    parts = [torch.from_numpy(localize_images(model, images, c, LocalizationParams())) for c in (one, two)]
    found = localize_images(model, images, [one, two], LocalizationParams())
    np.testing.assert_allclose(found, combined(parts), atol=1e-5)


def test_a_layer_behind_the_pooling_is_refused_before_anything_is_computed(model, images):
    behind = Cav(np.eye(1, 512, dtype=np.float32)[0], 0.0, "signal", "flatten", "max", 0.0, 1.0, 9, 9)
    with pytest.raises(InputError, match=r"before the model's pooling. Got 'flatten' .* \(512,\) instead"):
        localization_job(model, {"train/biased": images}, {"train/biased": np.arange(7)}, behind, LocalizationParams())


def test_another_method_explains_the_bias_score(model, images):
    from xai_robustness.localization.bias_score import with_bias_score
    from xai_robustness.models.taps import pool
    from xai_robustness.models.zoo import split

    one = cav(random_vector(0))
    x = images.tensor(slice(0, 3)).requires_grad_()
    score = torch.from_numpy(one.vector) @ pool(split(model, LAYER)[0](x), "max").T
    torch.testing.assert_close(with_bias_score(model, one)(x)[:, 0], score)
    (gradient,) = torch.autograd.grad(score.sum(), x)
    params = LocalizationParams(attribution="input_x_gradient", batch_size=2)
    found = localize_images(model, images, one, params)[:3]
    np.testing.assert_allclose(found, (gradient * x).sum(1).detach(), atol=1e-5)
    with pytest.raises(ValueError, match="input_x_gradient"):
        LocalizationParams(attribution="nonsense")


def test_the_vectors_of_the_named_layers_are_used():
    from xai_robustness.concepts.cav import Cavs

    chosen = cav(random_vector(0))
    cavs = Cavs((chosen,))
    assert cavs_of(cavs, None, LocalizationParams()) == [] and cavs_of(cavs, chosen, LocalizationParams()) == [chosen]
    assert cavs_of(cavs, chosen, LocalizationParams(layers=(LAYER,))) == [chosen]
    with pytest.raises(InputError, match="layer 'layer9'"):
        cavs_of(cavs, chosen, LocalizationParams(layers=("layer9",)))


def test_times_the_area_is_a_ratio_of_means_and_one_for_a_map_without_content():
    truth = np.zeros((4, 8, 8), bool)
    truth[:2, :2, :2] = truth[2:, :4, :4] = True
    perfect = against_area("t", truth.astype(float), truth, truth, 0, 50).set_index("metric")
    share = truth.mean()
    assert perfect.loc["t/iou_times_area", "value"] == pytest.approx(1 / share)
    assert perfect.loc["t/artifact_relevance_times_area", "value"] == pytest.approx(1 / share)
    assert perfect.loc["t/iou_times_area", "ci_low"] < 1 / share < perfect.loc["t/iou_times_area", "ci_high"]
    flat = against_area("t", np.ones(truth.shape), np.ones(truth.shape, bool), truth, 0, 50).set_index("metric")
    assert flat["value"].to_numpy() == pytest.approx(1.0) and (flat["n"] == 4).all()
    whole = against_area("t", np.ones(truth.shape), np.ones(truth.shape, bool), np.ones(truth.shape, bool), 0, 50)
    assert whole["value"].isna().all() and (whole["n"] == 0).all()


def test_controls_have_known_values(model, images):
    truth = np.zeros((7, 28, 28), bool)
    truth[:, :7, :] = True
    gradients = gradient_heatmaps(model, images, "cpu", batch_size=3)
    x = images.tensor(slice(None)).requires_grad_()
    model(x).gather(1, torch.from_numpy(images.labels)[:, None]).sum().backward()
    np.testing.assert_allclose(gradients, x.grad.abs().sum(1), rtol=1e-4, atol=1e-6)
    params = LocalizationParams()
    table = control_metrics("test/attacked", truth, truth, gradients, params, 0, n_boot=20).set_index("metric").value
    assert table["test/attacked/artifact_relevance_area"] == table["test/attacked/iou_area"] == 0.25
    assert table["test/attacked/iou_random_pairing"] == 1.0  # the artifact lies in one place
    share = gradients[:, :7].sum((1, 2)) / gradients.sum((1, 2))
    assert table["test/attacked/artifact_relevance_gradient"] == pytest.approx(share.mean(), rel=1e-5)
    own = np.zeros((7, 28, 28), bool)
    own[np.arange(7), np.arange(7)] = True
    table = control_metrics("t", own, own, gradients, params, 0, n_boot=20).set_index("metric").value
    assert table["t/iou_random_pairing"] == 0.0  # no sample is paired with itself


def test_png_files_hold_heatmaps_and_masks(model, images, tmp_path):
    from PIL import Image

    localization_job(
        model, {"train/biased": images}, {"train/biased": np.array([1, 4])}, cav(random_vector(0)), LocalizationParams()
    ).write(tmp_path / "heatmaps")
    heatmaps = open_arrays(tmp_path / "heatmaps")
    binarization_job(heatmaps, LocalizationParams()).write(tmp_path / "masks")
    masks = open_arrays(tmp_path / "masks")
    PngJob(heatmaps, masks).write(tmp_path / "png")
    ids, wanted = read_masks(masks)["train/biased"]
    for sample, mask, heatmap in zip(ids, wanted, heatmaps["train/biased/heatmaps"][:]):
        found = np.asarray(Image.open(tmp_path / "png" / "train" / "biased" / "masks" / f"{sample}.png"))
        np.testing.assert_array_equal(found, mask * np.uint8(255))
        picture = np.asarray(Image.open(tmp_path / "png" / "train" / "biased" / "heatmaps" / f"{sample}.png"))
        positive = np.maximum(heatmap, 0)
        np.testing.assert_allclose(picture, positive / positive.max() * 255, atol=0.51)
    PngJob(heatmaps, masks, export=False).write(tmp_path / "none")
    assert not (tmp_path / "none").exists() or not list((tmp_path / "none").rglob("*.png"))
