import captum.attr
import pytest
import torch
import torchvision
from tests.attribution.test_gradients import TARGETS, Functional, close
from tests.models.tiny import disturb, images, tiny_model
from torch import nn

from xai_robustness.attribution import ATTRIBUTORS
from xai_robustness.attribution.baselines import BaselineSet
from xai_robustness.attribution.many import count_passes
from xai_robustness.types import InputError

MEAN = images(1, seed=7)[0] * 0.4
pytestmark = pytest.mark.filterwarnings("ignore:Setting forward, backward hooks")


def residual_model() -> nn.Sequential:
    """The residual net; captum loses relevance where one nonlinear module directly follows another."""
    model = tiny_model()
    model.maxpool = nn.AvgPool2d(2)
    return model


def curved_model() -> nn.Sequential:
    """A net with the elementwise functions that captum knows, and pooling."""
    torch.manual_seed(0)
    layers: list[nn.Module] = [nn.Conv2d(3, 6, 3), nn.Sigmoid(), nn.Conv2d(6, 6, 3), nn.MaxPool2d(2)]
    for curve in (nn.ELU(), nn.Tanh(), nn.LeakyReLU(), nn.Softplus()):
        layers += [nn.Conv2d(6, 6, 1), curve]
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(6, 3)).eval()


@pytest.mark.parametrize("build", [residual_model, curved_model])
@pytest.mark.parametrize("baseline", ["zero", "mean", "blur"])
def test_equals_captum(build, baseline: str) -> None:
    model, x = build().double(), images(5).double()
    ours = ATTRIBUTORS.create("deeplift", model, baseline=baseline, mean_image=MEAN, batch_size=3)
    references = ours.baseline.of(x).expand_as(x)
    close(ours(x, TARGETS), captum.attr.DeepLift(model).attribute(x, references, target=TARGETS))


def test_the_set_equals_captum_with_every_baseline_as_often_as_it_weighs() -> None:
    model, x = residual_model().double(), images(5).double()
    found = ATTRIBUTORS.create("deeplift_shap", model, n_noise=2, mean_image=MEAN)(x, TARGETS)
    references, weights = BaselineSet("test", mean_image=MEAN).weighted(x, 2)
    torch.testing.assert_close(weights, torch.tensor([2, 1, 1, 2]).double() / 6)
    pool = references[[0, 0, 1, 2, 3, 3]]
    close(found, captum.attr.DeepLiftShap(model).attribute(x, pool, target=TARGETS))
    own = ATTRIBUTORS.create("deeplift_shap", model, baselines=pool, batch_size=2)(x, TARGETS)
    close(own, found)


def test_without_a_mean_image_grey_and_noise_share_the_weight() -> None:
    references, weights = BaselineSet("test").weighted(images(5), 3)
    assert len(references) == 4 and references[0].eq(0.5).all()
    torch.testing.assert_close(weights, torch.tensor([1 / 2, 1 / 6, 1 / 6, 1 / 6]))


def test_forward_passes() -> None:
    model, x = tiny_model(), images(5)
    with count_passes(model) as passes:
        ATTRIBUTORS.create("deeplift_shap", model, mean_image=MEAN)(x, TARGETS)
    assert passes.samples == 1 + (1 + 4 + 1) + 5  # checking a target, baselines, images


def test_equals_the_gradient_where_all_is_linear() -> None:
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.AvgPool2d(2), nn.Flatten(), nn.Linear(100, 3)).eval()
    x = images(5)
    found = ATTRIBUTORS.create("deeplift", model)(x, TARGETS)
    torch.testing.assert_close(found, ATTRIBUTORS.create("input_x_gradient", model)(x, TARGETS))
    assert ATTRIBUTORS.create("deeplift", model, baseline=x[0])(x[:1], TARGETS[:1]).eq(0).all()


@pytest.mark.parametrize("middle", [[nn.MaxPool2d(3, 2, 1)], [nn.ReLU(), nn.MaxPool2d(2)], [nn.ReLU(), nn.Sigmoid()]])
def test_sums_up_where_captum_loses_some(middle: list[nn.Module]) -> None:
    """captum 0.9: overlapping windows overwrite each other; a rule right behind another one is not heard of."""
    torch.manual_seed(0)
    layers = [nn.Conv2d(3, 4, 3, padding=1), *middle, nn.Flatten(), nn.LazyLinear(3)]
    model, x, reference = nn.Sequential(*layers).double().eval(), images(5).double(), images(1, seed=9).double()
    with torch.no_grad():
        gain = (model(x) - model(reference)).gather(1, TARGETS[:, None])[:, 0]
    found = ATTRIBUTORS.create("deeplift", model, baseline=reference)(x, TARGETS)
    torch.testing.assert_close(found.flatten(1).sum(1), gain)
    peer = captum.attr.DeepLift(model).attribute(x, reference.expand_as(x), target=TARGETS).detach()
    assert ((peer.flatten(1).sum(1) - gain).abs() > 0.01 * gain.abs()).any()


@pytest.mark.parametrize("name", ["resnet18", "densenet121", "squeezenet1_1"])
def test_torchvision_models_sum_up_as_they_are(name: str) -> None:
    """ReLU in place, used twice, and as a function: nothing has to be rewritten."""
    torch.manual_seed(0)
    model = getattr(torchvision.models, name)(num_classes=3).double()
    disturb(model)
    x = images(1, size=40).double()
    model.eval()
    found = ATTRIBUTORS.create("deeplift", model, baseline="grey")(x, TARGETS[:1])
    with torch.no_grad():
        gain = (model(x) - model(torch.full_like(x, 0.5))).gather(1, TARGETS[:1, None])[:, 0]
    torch.testing.assert_close(found.flatten(1).sum(1), gain)


def test_signals_and_gelu_sum_up() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv1d(2, 4, 5), nn.GELU(), nn.MaxPool1d(3, 2), nn.Flatten(), nn.Linear(36, 3))
    model, x = model.double().eval(), torch.rand(5, 2, 24, generator=torch.Generator().manual_seed(0)).double()
    found = ATTRIBUTORS.create("deeplift", model)(x, TARGETS)
    with torch.no_grad():
        gain = (model(x) - model(torch.zeros_like(x))).gather(1, TARGETS[:, None])[:, 0]
    torch.testing.assert_close(found.flatten(1).sum(1), gain)


class Gated(nn.Module):
    """A product of two branches, for which there is no rule."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.left, self.right, self.last = nn.Conv2d(3, 4, 3), nn.Conv2d(3, 4, 3), nn.Linear(4, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.last((self.left(x) * torch.sigmoid(self.right(x))).mean((2, 3)))


def test_models_without_rules_are_refused() -> None:
    with pytest.raises(InputError, match=r"model parameter of DeepLift must be made of .* use integrated_gradients"):
        ATTRIBUTORS.create("deeplift", Gated())(images(5), TARGETS)


class Branching(Functional):
    """Operations that depend on the input."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = super().forward(x)
        return torch.tanh(y) if float(x.sum()) > 0 else y


def test_models_that_branch_are_refused() -> None:
    with pytest.raises(InputError, match="must do the same operations for every input"):
        ATTRIBUTORS.create("deeplift", Branching(nn.ReLU()))(images(5), TARGETS)


def test_bad_options() -> None:
    with pytest.raises(InputError, match="n_noise parameter of DeepLiftShap must be at least 1. Got 0"):
        ATTRIBUTORS.create("deeplift_shap", tiny_model(), n_noise=0)
