import numpy as np
import pytest
import torch

from xai_robustness.attribution.lrp import Lrp
from xai_robustness.datasets.base import DatasetInfo, ImageSet
from xai_robustness.models.inputs import channel_statistics
from xai_robustness.models.xresnet import ECG_MODELS, ConcatPool
from xai_robustness.models.zoo import ModelParams, build, inspected_layers, split


def model_of(name, n_classes=23, length=1000):
    model = build(ModelParams(name=name), n_classes, (12, 1, length), [0.0] * 12, [1.0] * 12, seed=0)
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():  # trained batch norms, the last of a block included
        for module in model.modules():
            if isinstance(module, torch.nn.BatchNorm2d):
                module.weight.uniform_(0.5, 1.5, generator=generator)
                module.running_mean.normal_(0, 0.1, generator=generator)
                module.running_var.uniform_(0.5, 2, generator=generator)
    return model.eval()


def test_xresnet1d50_has_the_published_size_and_shapes():
    model = model_of("xresnet1d50")
    assert abs(sum(p.numel() for p in model.parameters()) / 1e6 - 0.91) < 0.02
    x = torch.randn(1, 12, 1, 1000)
    with torch.no_grad():
        shapes = [tuple(split(model, layer)[0](x).shape[1:]) for layer in (*inspected_layers(model), "pool")]
    assert shapes == [(256, 1, 250), (256, 1, 125), (256, 1, 63), (256, 1, 32), (512, 1, 1)]


@pytest.mark.parametrize("name", ECG_MODELS)
def test_relevance_is_conserved_at_every_inspected_layer(name):
    model, x = model_of(name, n_classes=5, length=200), torch.randn(3, 12, 1, 200)
    with Lrp(model) as lrp:
        found = lrp.run(x, torch.tensor([0, 1, 4]), inspected_layers(model))
    wanted = found.logits.gather(1, torch.tensor([[0], [1], [4]]))[:, 0]
    for layer in inspected_layers(model):
        kept = found.relevances[layer].flatten(1).sum(1) + found.absorbed[layer]
        torch.testing.assert_close(kept, wanted, rtol=0.02, atol=0.02)


def test_at_the_start_a_block_is_its_shortcut():
    torch.manual_seed(0)
    block = ECG_MODELS["xresnet1d_small"](12, 5, None)["layer1"][0].eval()
    x = torch.rand(2, 32, 1, 40)
    torch.testing.assert_close(block(x), x)


def test_concat_pool_is_maximum_and_mean():
    x = torch.randn(2, 3, 1, 7)
    expected = torch.cat([x.amax((2, 3)), x.mean((2, 3))], 1)
    torch.testing.assert_close(ConcatPool()(x).flatten(1), expected)


def test_signals_are_standardised_in_their_own_unit_and_batched_as_they_are():
    signals = np.random.default_rng(0).normal(2, 3, (40, 1, 50, 12)).astype(np.float32)
    info = DatasetInfo("ecg", "multi-label", ("a", "b"), "")
    images = ImageSet(signals, np.zeros((40, 2), np.int64), np.arange(40), info)
    mean, std = channel_statistics(images, batch=16)
    np.testing.assert_allclose(mean, signals.mean((0, 1, 2)), atol=1e-4)
    np.testing.assert_allclose(std, signals.std((0, 1, 2)), atol=1e-4)
    batch = images.tensor(np.array([3, 1]))
    np.testing.assert_array_equal(batch.numpy(), signals[[3, 1]].transpose(0, 3, 1, 2))
