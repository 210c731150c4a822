import numpy as np
import pytest
import torch
from captum.concept import TCAV, Concept
from captum.concept._utils.classifier import Classifier
from tests.models.tiny import image_set, tiny_model
from torch import nn
from torch.nn.functional import normalize
from torch.utils.data import DataLoader

from xai_robustness.concepts.tcav import (
    Derivatives,
    against_chance,
    derivatives,
    is_linear_after,
    judging_layer,
    random_directions,
)
from xai_robustness.metrics.bootstrap import once
from xai_robustness.models.insertions import Projection
from xai_robustness.models.zoo import insert_after, split
from xai_robustness.types import InputError

IMAGES = image_set(12)
TARGETS = np.arange(12) % 2


def vector(k, seed=0):
    return normalize(torch.randn(k, generator=torch.Generator().manual_seed(seed)), dim=0).numpy()


class Given(Classifier):
    """Takes a direction instead of fitting one; captum wants one row a concept."""

    def __init__(self, direction):
        self.direction = torch.from_numpy(direction)

    def train_and_eval(self, dataloader, **kwargs):
        self.dataset = next(iter(dataloader))
        return {"accs": torch.tensor(1.0)}

    def weights(self):
        return torch.stack([self.direction, -self.direction])

    def classes(self):
        return [0, 1]


@pytest.mark.parametrize("layer", ["layer2", "layer3", "flatten"])
def test_quotients_and_magnitude_equal_captums(layer, tmp_path):
    model, x = tiny_model(), IMAGES.tensor(slice(None))
    activation = split(model, layer)[0](x)
    k, positions = activation.shape[1], activation[0, 0].numel()
    direction = vector(k)
    concepts = [Concept(i, name, DataLoader([x[0], x[1]], batch_size=1)) for i, name in enumerate(("a", "b"))]
    flat = np.repeat(direction, positions)
    peer = TCAV(model, layer, classifier=Given(flat), save_path=str(tmp_path))
    for target in (0, 2):
        wanted = peer.interpret(x, experimental_sets=[concepts], target=target)["0-1"][layer]
        found = derivatives(model, layer, direction[None], IMAGES, np.full(12, target), batch_size=5)
        values = found.quantities(once(12))
        assert values["mean_tcav_quotient"][0] == pytest.approx(float(wanted["sign_count"][0]), abs=1e-6)
        mean = found.mean[:, 0].mean() * positions
        assert mean == pytest.approx(float(wanted["magnitude"][0]), rel=1e-4, abs=1e-6)


def test_derivatives_equal_finite_differences_at_every_position():
    model = tiny_model().double()
    prefix, suffix = split(model, "layer2")
    activation = prefix(IMAGES.tensor(slice(0, 4)).double()).detach()
    direction, step = torch.from_numpy(vector(6).astype(float)), 1e-6
    slopes = torch.zeros(4, *activation.shape[2:])
    for i, j in np.ndindex(*activation.shape[2:]):
        up, down = activation.clone(), activation.clone()
        up[:, :, i, j] += step * direction
        down[:, :, i, j] -= step * direction
        slopes[:, i, j] = ((suffix(up) - suffix(down))[:, 1] / (2 * step)).detach()
    found = derivatives(model.float(), "layer2", vector(6)[None], IMAGES.subset(np.arange(4)), np.ones(4, int))
    np.testing.assert_allclose(found.mean[:, 0], slopes.mean((1, 2)), atol=1e-4)
    np.testing.assert_allclose(found.size[:, 0], slopes.abs().mean((1, 2)), atol=1e-4)
    assert found.positive[:, 0].tolist() == (slopes > 1e-6).sum((1, 2)).tolist()
    sensitivity = found.quantities(once(4))["tcav_sensitivity"][0]
    assert sensitivity == pytest.approx(float(slopes.abs().mean()), abs=1e-4)


def test_turning_the_direction_mirrors_the_quotients_and_keeps_the_sensitivity():
    model, direction = tiny_model(), vector(6)
    found = derivatives(model, "layer2", np.stack([direction, -direction]), IMAGES, TARGETS)
    there, back = (found.quantities(once(12), d) for d in (0, 1))
    for name in ("tcav_quotient", "mean_tcav_quotient"):
        assert there[name] == pytest.approx(1 - back[name])
    for name in ("tcav_sensitivity", "tcav_alignment"):
        assert there[name] == pytest.approx(back[name])


def test_the_model_is_given_back_and_batches_do_not_matter():
    model = tiny_model()
    model.train()
    before = {key: value.clone() for key, value in model.state_dict().items()}
    a, b = (derivatives(model, "layer1", vector(8)[None], IMAGES, TARGETS, batch_size=size) for size in (5, 12))
    np.testing.assert_allclose(a.mean, b.mean, atol=1e-6)
    assert model.training and all(torch.equal(before[k], v) for k, v in model.state_dict().items())
    assert all(weight.grad is None for weight in model.parameters())


def test_a_projection_makes_the_mean_derivative_along_its_direction_zero():
    model, direction = tiny_model(), vector(6)
    plain = derivatives(model, "layer2", direction[None], IMAGES, TARGETS)
    moved = insert_after(model, "layer2", Projection(torch.from_numpy(direction), 0.3), "projection")
    found = derivatives(moved, "layer2", direction[None], IMAGES, TARGETS)
    assert np.abs(plain.mean).max() > 1e-3
    np.testing.assert_allclose(found.mean, 0, atol=1e-6)
    assert np.isnan(found.quantities(once(12))["mean_tcav_quotient"][0])


def test_the_judging_layer_lies_behind_a_projection_and_before_something_bent():
    model, preferred = tiny_model(), ("layer1", "layer2", "layer3", "layer4")
    assert is_linear_after(model, "layer4") and not is_linear_after(model, "layer3")
    assert judging_layer(model, preferred) == "layer3"
    for layer, expected in (("layer2", "layer3"), ("layer3", "layer4.0"), ("layer4", "avgpool")):
        k = split(model, layer)[0](IMAGES.tensor(slice(0, 1))).shape[1]
        moved = insert_after(model, layer, Projection(torch.from_numpy(vector(k)), 0.3), "projection")
        assert judging_layer(moved, preferred, "projection") == expected
    with pytest.raises(InputError, match="stage behind it"):
        judging_layer(model, preferred, "fc")


def test_an_aligned_direction_is_far_from_chance_and_a_random_one_is_not():
    torch.manual_seed(0)
    model = nn.Sequential()
    model.add_module("relu", nn.ReLU())
    model.add_module("flatten", nn.Flatten())
    model.add_module("tanh", nn.Tanh())
    model.add_module("fc", nn.Linear(3 * 144, 2))
    images = image_set(40)
    with torch.no_grad():
        model.fc.weight.normal_(0, 0.05)
        model.fc.weight[1, :144] += 0.2
    noise = random_directions(60, 3, 1)
    found = derivatives(model, "relu", np.concatenate([np.eye(3)[:1], noise]), images, np.ones(40, int))
    sure = against_chance(found)
    assert sure.distance > 0.4 and sure.p_value < 0.2
    same = Derivatives(
        *(v[:, 1:] if v.ndim == 2 else v for v in (found.positive, found.nonzero, found.mean, found.size, found.length))
    )
    chance = against_chance(same)
    assert chance.p_value > 0.02 and 0 <= chance.random_distance <= chance.random_high <= 0.5


def test_random_directions_are_unit_and_repeatable():
    drawn = random_directions(5, 7, 3)
    np.testing.assert_allclose(np.linalg.norm(drawn, axis=1), 1)
    assert np.array_equal(drawn, random_directions(5, 7, 3)) and not np.array_equal(drawn, random_directions(5, 7, 4))


def test_directions_of_the_wrong_length_and_unknown_layers_are_refused():
    with pytest.raises(InputError, match="6 channels for layer 'layer2'"):
        derivatives(tiny_model(), "layer2", vector(5)[None], IMAGES, TARGETS)
    with pytest.raises(InputError, match="Unknown layer"):
        derivatives(tiny_model(), "layer9", vector(5)[None], IMAGES, TARGETS)
