import numpy as np
import pytest
import torch
from torch import nn

from xai_robustness.datasets.base import DatasetInfo, ImageSet
from xai_robustness.models.zoo import ModelParams, build
from xai_robustness.robustness.corruption import SEVERITIES, RobustnessParams, agreement_metrics, corruption_metrics
from xai_robustness.types import InputError

INFO = DatasetInfo("phantom", "multi-class", ("a", "b", "c"), "none")


@pytest.fixture(scope="module")
def images() -> ImageSet:
    rng = np.random.default_rng(0)
    pixels = np.kron(rng.integers(0, 256, (24, 7, 7, 3)), np.ones((1, 4, 4, 1))).astype(np.uint8)
    return ImageSet(pixels, np.arange(24) % 3, np.arange(100, 124), INFO)


@pytest.fixture(scope="module")
def model() -> nn.Sequential:
    return build(ModelParams(name="resnet18"), 3, (3, 28, 28), [0.5] * 3, [0.5] * 3, 0).eval()


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
    table = corruption_metrics({"vanilla": counted}, images, params, 0, "cpu", "vanilla")
    assert counted.seen == len(images) * (1 + 2 * len(SEVERITIES))
    assert set(table.severity) == {0, *SEVERITIES}
    assert (table.difference.dropna() == 0).all()


def test_the_batch_size_changes_nothing(images, model):
    tables = [
        corruption_metrics(
            {"vanilla": model},
            images,
            RobustnessParams(corruptions=["gaussian_noise"], batch_size=b),
            0,
            "cpu",
            "vanilla",
        )
        for b in (5, 24)
    ]
    np.testing.assert_allclose(tables[0].value, tables[1].value, atol=1e-6)


def test_agreement_of_a_model_with_itself_falls_with_severity_and_keeps_its_names(images, model):
    params = RobustnessParams(corruptions=["gaussian_noise"], methods=["saliency", "grad_cam"], n_explained=12)
    table = agreement_metrics({"vanilla": model}, images, params, 0, "cpu", "layer3")
    assert {"test/gaussian_noise_5/ssim", "test/gaussian_noise_1/prediction_kept"} <= set(table.metric)
    assert (table.n <= 12).all()
    ssim = table[(table.method == "saliency") & table.metric.str.endswith("/ssim")].set_index("severity").value
    assert ssim[1] > ssim[5]


@pytest.mark.parametrize("field", ["corruptions", "methods"])
def test_unknown_names_list_the_choices(field):
    with pytest.raises((InputError, ValueError), match="Unknown"):
        RobustnessParams(**{field: ["nothing"]})
