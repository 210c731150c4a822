import pytest
import torch
from torch import nn

from xai_robustness.attribution.lrp import Lrp
from xai_robustness.mitigation.dfr import last_linear
from xai_robustness.models.heads import HIDDEN
from xai_robustness.models.zoo import ModelParams, build
from xai_robustness.types import InputError

KINDS = {
    "dropout": [nn.Linear, nn.ReLU, nn.BatchNorm1d, nn.Dropout, nn.Linear],
    "double_dropout": [nn.Dropout, nn.Linear, nn.BatchNorm1d, nn.ReLU, nn.Dropout, nn.Linear],
}


def made(name="resnet18", seed=0, **options):
    return build(ModelParams(name=name, **options), 3, (3, 28, 28), [0.5] * 3, [0.2] * 3, seed)


@pytest.mark.parametrize("head", KINDS)
@pytest.mark.parametrize(
    ("name", "place"), [("resnet18", "fc"), ("vgg11", "classifier.6"), ("densenet121", "classifier")]
)
def test_the_head_stands_in_the_place_of_the_last_linear_layer(head, name, place):
    model, plain = made(name, head=head, dropout=0.4), made(name)
    layers = list(model.get_submodule(place))
    assert [type(layer) for layer in layers] == KINDS[head]
    assert [layer.p for layer in layers if isinstance(layer, nn.Dropout)] == (
        [0.4] if head == "dropout" else [0.2, 0.4]
    )
    assert layers[-1].out_features == 3
    assert next(layer for layer in layers if isinstance(layer, nn.Linear)).out_features == HIDDEN
    rest = {key for key in plain.state_dict() if not key.startswith(place)}
    assert rest == {key for key in model.state_dict() if not key.startswith(place)}


def test_weights_have_the_spread_of_he_by_the_number_of_outputs():
    hidden = made(head="dropout").get_submodule("fc.hidden")
    assert float(hidden.weight.detach().std()) == pytest.approx((2 / HIDDEN) ** 0.5, rel=0.02)
    assert not hidden.bias.any()


def test_the_same_seed_gives_the_same_head_and_dropout_0_drops_nothing():
    first, again = made(head="dropout", dropout=0.0), made(head="dropout", dropout=0.0)
    x = torch.rand(4, 3, 28, 28)
    assert torch.equal(first.train()(x), again.train()(x))


@pytest.mark.parametrize("head", KINDS)
def test_relevance_is_conserved_and_the_last_layer_is_found(head):
    model = made(head=head).eval()
    with torch.no_grad():
        model.get_submodule("fc.norm").running_mean.uniform_(0, 0.5)
    x, targets = torch.rand(4, 3, 28, 28), torch.tensor([0, 1, 2, 0])
    with Lrp(model) as lrp:
        found = lrp.run(x, targets, ("layer4",))
    logits = found.logits.gather(1, targets[:, None])[:, 0]
    whole = found.relevances["layer4"].flatten(1).sum(1) + found.absorbed["layer4"]
    torch.testing.assert_close(whole, logits, rtol=1e-3, atol=1e-4)
    assert last_linear(model)[1] == "fc.output"


def test_bad_heads_are_refused():
    with pytest.raises(ValueError, match="head"):
        ModelParams(head="hidden")
    with pytest.raises(ValueError, match="dropout"):
        ModelParams(dropout=1.0)
    with pytest.raises(InputError, match="without one"):
        made("tests.models.test_heads:without_linear", head="dropout")


def without_linear(n_channels, n_classes):
    return nn.Sequential(nn.Conv2d(n_channels, n_classes, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten())
