from collections import Counter

import numpy as np
import pytest
import torch
from torch import nn

from xai_robustness.attribution.base import Attributor
from xai_robustness.attribution.many import count_passes
from xai_robustness.robustness.corruption import agreement_metrics, corruption_logits, corruption_metrics
from xai_robustness.robustness.params import SEVERITIES, RobustnessParams
from xai_robustness.types import InputError


class Counted(nn.Module):
    """Counts the images that pass."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model, self.seen = model, 0

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.seen += len(x)
        return self.model(x)


def test_every_version_of_every_image_is_predicted_once(images, model):
    counted = Counted(model)
    params = RobustnessParams(corruptions=["contrast", "gaussian_noise"])
    logits = corruption_logits({"vanilla": counted}, images, params, 0, "cpu")
    table = corruption_metrics(logits, images.labels, "multi-class", "vanilla")
    assert counted.seen == len(images) * (1 + 2 * len(SEVERITIES))
    assert set(table.severity) == {0, *SEVERITIES}
    assert (table.difference.dropna() == 0).all()


def test_the_batch_size_changes_nothing(images, model):
    found = [
        corruption_logits(
            {"vanilla": model}, images, RobustnessParams(corruptions=["gaussian_noise"], batch_size=b), 0, "cpu"
        )
        for b in (5, 24)
    ]
    for condition, by_model in found[0].items():
        np.testing.assert_allclose(by_model["vanilla"], found[1][condition]["vanilla"], atol=1e-5)


def test_agreement_of_a_model_with_itself_falls_with_severity_and_keeps_its_names(images, model):
    params = RobustnessParams(corruptions=["gaussian_noise"], methods=["saliency", "grad_cam"], n_explained=12)
    table, samples = agreement_metrics({"vanilla": model}, images, params, 0, "cpu", "layer3")
    assert {"test/gaussian_noise_5/ssim", "test/gaussian_noise_1/prediction_kept"} <= set(table.metric)
    assert (table.n <= 12).all()
    ssim = table[(table.method == "saliency") & table.metric.str.endswith("/ssim")].set_index("severity").value
    assert ssim[1] > ssim[5]
    assert list(samples) == ["model", "sample_id", "spearman", "ssim", "topk_intersection"] and len(samples) == 12


def test_every_version_of_every_image_is_explained_once_for_each_method(images, model):
    counted = Counted(model)
    params = RobustnessParams(
        corruptions=["contrast", "gaussian_noise"], methods=["saliency", "input_x_gradient"], n_explained=10
    )
    agreement_metrics({"vanilla": counted}, images, params, 0, "cpu", "layer3")
    versions = 1 + 2 * len(SEVERITIES)
    checks = versions - 1  # attribute_many passes one image to check the targets, which the clean version has not
    assert counted.seen == 10 * versions + checks  # both methods share one pass


def test_ten_methods_explain_every_version_once_and_share_their_passes(images, model, monkeypatch):
    seen, original = Counter(), Attributor.explain

    def explain(self, shared):
        seen[type(self).__name__] += len(shared.images)
        return original(self, shared)

    monkeypatch.setattr(Attributor, "explain", explain)
    alone = ("guided_backprop", "deconvolution", "integrated_gradients", "deeplift")
    shared = ("saliency", "input_x_gradient", "grad_cam", "grad_cam_plus_plus", "xgrad_cam", "layer_cam")
    params = RobustnessParams(corruptions=["contrast"], methods=[*shared, *alone], n_explained=4, ig_steps=2)
    agreement_metrics({"vanilla": model}, images, params, 0, "cpu", "layer3")
    versions = 1 + len(SEVERITIES)
    assert len(seen) == 10 and set(seen.values()) == {4 * versions}
    with count_passes(model) as passes:
        params = RobustnessParams(corruptions=["contrast"], methods=list(shared), n_explained=4)
        agreement_metrics({"vanilla": model}, images, params, 0, "cpu", "layer4")
    checks = versions - 1  # attribute_many passes one image to check the targets, which the clean version has not
    assert passes.samples == 4 * versions * 2 + checks  # one pass for two gradients, one for four maps


def test_agreement_does_not_depend_on_the_batch_and_tells_kept_from_changed(images, model):
    tables = []
    for batch in (3, 24):
        params = RobustnessParams(
            corruptions=["gaussian_noise"], methods=["saliency"], n_explained=12, batch_size=batch
        )
        tables.append(agreement_metrics({"vanilla": model}, images, params, 0, "cpu", "layer3")[0])
    np.testing.assert_allclose(tables[0].value, tables[1].value, atol=1e-4)
    rows = tables[0][tables[0].severity == 5].set_index("metric")
    kept, changed = rows.n["test/gaussian_noise_5/ssim_kept"], rows.n["test/gaussian_noise_5/ssim_changed"]
    assert kept + changed == rows.n["test/gaussian_noise_5/ssim"]
    assert rows.value["test/gaussian_noise_5/prediction_kept"] * 12 == pytest.approx(kept)


@pytest.mark.parametrize("field", ["corruptions", "methods"])
def test_unknown_names_list_the_choices(field):
    with pytest.raises((InputError, ValueError), match="Unknown"):
        RobustnessParams(**{field: ["nothing"]})


def test_a_corruption_outside_its_table_and_an_empty_selection_are_refused():
    assert len(RobustnessParams(table="breastmnist", corruptions=["all"]).chosen) == 7
    for bad in ({"table": "phantom"}, {"table": "octmnist", "corruptions": ["bubble"]}, {"methods": []}):
        with pytest.raises((InputError, ValueError), match="must be"):
            RobustnessParams(**bad)


def test_no_corruption_leaves_the_clean_images_and_nothing_to_compare(images, model):
    params = RobustnessParams(corruptions=[], methods=["saliency"], n_explained=4)
    assert list(corruption_logits({"vanilla": model}, images, params, 0, "cpu")) == [("clean", 0)]
    table, samples = agreement_metrics({"vanilla": model}, images, params, 0, "cpu", "layer3")
    assert table.empty and samples.empty and "sample_id" in samples
