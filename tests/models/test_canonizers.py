import pytest
import torch
from tests.models.tiny import disturb, images, tiny_model
from torch import nn
from zennit.canonizers import SequentialMergeBatchNorm

from xai_robustness.models.canonizers import MergeBatchNorm, batch_norm_pairs, canonizers, is_merged
from xai_robustness.models.zoo import ModelParams, build


def test_merging_keeps_the_function_and_is_undone_to_the_bit() -> None:
    model = tiny_model()
    x = images()
    state = {key: value.clone() for key, value in model.state_dict().items()}
    parameters = {name: id(value) for name, value in model.named_parameters()}
    expected = model(x)
    instances = MergeBatchNorm().apply(model)
    assert len(instances) == sum(isinstance(m, nn.BatchNorm2d) for m in model.modules())
    assert all(is_merged(m) for m in model.modules() if isinstance(m, nn.BatchNorm2d))
    torch.testing.assert_close(model(x), expected)
    for instance in instances:
        instance.remove()
    assert list(model.state_dict()) == list(state)
    assert all(torch.equal(value, state[key]) for key, value in model.state_dict().items())
    assert {name: id(value) for name, value in model.named_parameters()} == parameters
    assert not any(is_merged(m) for m in model.modules())


def test_weights_equal_zennits() -> None:
    ours, theirs = tiny_model(), tiny_model()
    for module in theirs.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.eps = 1e-5
    MergeBatchNorm().apply(ours)
    SequentialMergeBatchNorm().apply(theirs)
    torch.testing.assert_close(ours.conv1.weight, theirs.conv1.weight)
    torch.testing.assert_close(ours.layer2[0].downsample[0].bias, theirs.layer2[0].downsample[0].bias)


@pytest.mark.parametrize(("name", "merged", "left"), [("resnet18", 20, 0), ("vgg11_bn", 8, 0), ("densenet121", 59, 62)])
def test_pairs_by_architecture(name: str, merged: int, left: int) -> None:
    model = build(ModelParams(name=name), 3, (3, 32, 32), [0.5] * 3, [0.2] * 3, 0).eval()
    disturb(model)
    x = images(1, 32)
    with torch.no_grad():
        expected = model(x)
    pairs = batch_norm_pairs(model)
    assert len(pairs) == merged
    assert sum(isinstance(m, nn.BatchNorm2d) for m in model.modules()) == merged + left
    for canonizer in canonizers(model):
        canonizer.apply(model)
    with torch.no_grad():
        torch.testing.assert_close(model(x), expected, rtol=1e-4, atol=1e-4)


def test_models_without_batch_norm_need_no_canonizer() -> None:
    model = build(ModelParams(name="vgg11"), 3, (3, 32, 32), [0.5] * 3, [0.2] * 3, 0)
    assert canonizers(model) == []
