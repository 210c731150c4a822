import numpy as np
import pytest
import torch
from tests.models.tiny import images, tiny_model
from tests.reference import contextual as naive
from torch import nn

from xai_robustness.mitigation.base import METHODS, MaskTable
from xai_robustness.mitigation.cdep import RegionPenalty
from xai_robustness.mitigation.contextual import decompose
from xai_robustness.mitigation.objectives import Step
from xai_robustness.mitigation.params import CdepParams
from xai_robustness.models.insertions import Projection
from xai_robustness.models.zoo import ModelParams, build, insert_after
from xai_robustness.types import InputError


def masks(n=4, size=12, seed=0):
    return torch.rand(n, size, size, generator=torch.Generator().manual_seed(seed)) < 0.3


@pytest.mark.parametrize("name", ["tiny", "vgg11_bn", "densenet121"])
def test_the_two_parts_sum_to_the_logits(name):
    if name == "tiny":
        model, x = tiny_model(), images()
    else:
        model, x = build(ModelParams(name=name), 3, (3, 32, 32), [0.5] * 3, [0.25] * 3, 0).eval(), images(2, 32)
    with torch.no_grad():
        region, rest = decompose(model, x, masks(len(x), x.shape[-1]))
        torch.testing.assert_close(region + rest, model(x), atol=1e-4, rtol=1e-4)
        assert region.abs().max() > 1e-3


def test_an_empty_region_contributes_nothing_and_a_whole_one_everything():
    model, x = tiny_model(seed=1), images()
    with torch.no_grad():
        region, rest = decompose(model, x, torch.zeros(4, 12, 12, dtype=torch.bool))
        assert region.abs().max() == 0
        torch.testing.assert_close(rest, model(x))
        region, rest = decompose(model, x, torch.ones(4, 12, 12, dtype=torch.bool))
        assert rest.abs().max() < 1e-5


def test_decomposition_equals_the_naive_one():
    torch.manual_seed(0)
    net = nn.Sequential(nn.Conv2d(2, 3, 2), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten(), nn.Linear(12, 2)).double().eval()
    x, mask = torch.randn(1, 2, 5, 5).double(), masks(1, 5)
    found = torch.stack(decompose(net, x, mask))[:, 0].detach().numpy()
    weight, bias, head, constant = (p.detach().numpy() for p in net.parameters())
    region = (x * mask[:, None])[0].numpy()
    pair = naive.convolution(region, x[0].numpy() - region, weight, bias)
    pair = naive.max_pool(*naive.relu(*pair), 2)
    np.testing.assert_allclose(found, naive.linear(pair[0].ravel(), pair[1].ravel(), head, constant), atol=1e-12)


def test_a_module_without_a_rule_is_refused():
    model = insert_after(tiny_model(), "layer2", Projection(torch.eye(1, 6)[0], 0.0), "projection")
    with pytest.raises(InputError, match="Got Projection"):
        decompose(model, images(), masks())


def test_the_penalty_is_the_share_of_the_region_over_masked_samples():
    model, x = tiny_model(), images()
    table = MaskTable(np.array([11, 13]), masks(2).numpy())
    step = Step(x, torch.tensor([0, 1, 2, 0]), np.array([10, 11, 12, 13]))
    logits, found = RegionPenalty(table)(model, step)
    region, rest = decompose(model, x[[1, 3]], masks(2))
    wanted = (region.exp() / (region.exp() + rest.exp())).mean(1).sum() / 4
    assert float(found) == pytest.approx(float(wanted), rel=1e-5) and torch.equal(logits, model(x))
    assert float(RegionPenalty(MaskTable.empty())(model, step)[1]) == 0


def test_cdep_takes_the_logits_off_the_region(material):
    method = METHODS["cdep"](CdepParams(enabled=True, lambdas=(0.0, 30.0), epochs=4, lr=0.01, batch_size=16))
    plain, guided = method.correct(method.candidates(()), material)
    step = Step(material.train.tensor(slice(None)), torch.from_numpy(material.train.labels), material.train.sample_ids)
    values = [float(RegionPenalty(material.masks)(c.model, step)[1].detach()) for c in (plain, guided)]
    assert values[1] < 0.8 * values[0]
