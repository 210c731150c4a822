"""Methods for transformers, on a small torchvision ViT."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from tests.models.tiny import images, tiny_model
from tests.reference.cam import enlarge
from torch import nn
from torchvision.models import VisionTransformer

from xai_robustness.attribution import ATTRIBUTORS
from xai_robustness.attribution.attention import caught
from xai_robustness.attribution.libra import balanced
from xai_robustness.types import InputError

TARGETS = torch.tensor([0, 1])
LAYERS, HEADS, WIDTH, TOKENS = 2, 2, 8, 10


def vit(biases: bool = True) -> nn.Module:
    """12 x 12 pixels, 3 x 3 patches and a class token, in float64."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = VisionTransformer(12, 4, LAYERS, HEADS, WIDTH, 16, num_classes=3).double()
        for name, weight in model.named_parameters():
            if biases or weight.ndim > 1 or ("ln" in name and name.endswith("weight")):
                weight.data.add_(0.3 * torch.randn_like(weight))
            else:
                weight.data.zero_()
    return model.eval()


def attentions(model: nn.Module, x: torch.Tensor, target: int) -> tuple[list[np.ndarray], list[np.ndarray]]:
    """Probabilities (heads, T, T) of each block and their gradients, the blocks written out by hand, for one image."""
    tokens = model._process_input(x[None])
    tokens = torch.cat([model.class_token, tokens], 1) + model.encoder.pos_embedding
    kept = []
    for block in model.encoder.layers:
        normal = block.ln_1(tokens)
        attention = block.self_attention
        q, k, v = F.linear(normal, attention.in_proj_weight, attention.in_proj_bias)[0].split(WIDTH, -1)
        heads = []
        for h in range(HEADS):
            part = slice(h * WIDTH // HEADS, (h + 1) * WIDTH // HEADS)
            p = torch.softmax(q[:, part] @ k[:, part].T / (WIDTH // HEADS) ** 0.5, -1)
            p.retain_grad() if p.requires_grad else p.requires_grad_()
            kept.append(p)
            heads.append(p @ v[:, part])
        tokens = tokens + attention.out_proj(torch.cat(heads, -1))[None]
        tokens = tokens + block.mlp(block.ln_2(tokens))
    logits = model.heads(model.encoder.ln(tokens)[:, 0])
    torch.testing.assert_close(logits, model(x[None]))
    logits[0, target].backward()
    stacked = [kept[i * HEADS : (i + 1) * HEADS] for i in range(LAYERS)]
    return (
        [np.stack([p.detach().numpy() for p in block]) for block in stacked],
        [np.stack([p.grad.numpy() for p in block]) for block in stacked],
    )


@pytest.mark.parametrize("name", ["attention_rollout", "gradient_rollout"])
def test_rollout_equals_a_naive_computation(name: str) -> None:
    model, x = vit(), images(2).double()
    found = ATTRIBUTORS.create(name, model)(x, TARGETS)
    for i in range(2):
        probabilities, gradients = attentions(model, x[i], int(TARGETS[i]))
        rolled = np.eye(TOKENS)
        for p, g in zip(probabilities, gradients):
            passed = p.mean(0) if name == "attention_rollout" else np.maximum(p * g, 0).mean(0)
            block = np.eye(TOKENS) + passed
            rolled = (block / block.sum(1, keepdims=True)) @ rolled
        torch.testing.assert_close(found[i, 0], enlarge(rolled[0, 1:].reshape(3, 3), x.shape[2:]))
    model.zero_grad()


def test_catching_changes_no_logit_and_is_undone() -> None:
    model, x = vit(), images(2).double()
    expected, original, calls = model(x), F.scaled_dot_product_attention, []
    with caught(model, lambda p: calls.append(p) or p):
        torch.testing.assert_close(model(x), expected)
    assert len(calls) == LAYERS and F.scaled_dot_product_attention is original
    torch.testing.assert_close(calls[0].sum(-1), torch.ones(2, HEADS, TOKENS, dtype=torch.float64))
    with pytest.raises(RuntimeError, match="on purpose"), caught(model, lambda p: p):
        raise RuntimeError("on purpose")
    assert F.scaled_dot_product_attention is original and torch.backends.mha.get_fastpath_enabled()


def test_softmax_modules_are_caught_too() -> None:
    scores, calls = torch.rand(2, 1, 4, 4), []
    model = nn.Sequential(nn.Softmax(-1))
    with caught(model, lambda p: calls.append(p) or p):
        model(scores)
    assert len(calls) == 1


def test_models_without_attention_are_refused() -> None:
    with pytest.raises(InputError, match="must be a transformer"):
        ATTRIBUTORS.create("attention_rollout", tiny_model())(images(2), TARGETS)


def test_a_balanced_model_is_linear_where_nothing_is_added() -> None:
    """Without biases, the activations times their gradients sum to the logit, which is what balancing is for."""
    model, x = vit(biases=False), images(2).double()
    with torch.enable_grad():
        tokens = (model._process_input(x)).detach().requires_grad_()
        rest = nn.Sequential(model.encoder.layers, model.encoder.ln)
        with balanced(model):
            logits = model.heads(rest(tokens)[:, 0]).gather(1, TARGETS[:, None])
        (gradient,) = torch.autograd.grad(logits.sum(), tokens)
        torch.testing.assert_close((tokens * gradient).sum((1, 2)), logits[:, 0])
        plain = model.heads(rest(tokens)[:, 0]).gather(1, TARGETS[:, None])
        torch.testing.assert_close(plain, logits)  # the forward pass stays
        (gradient,) = torch.autograd.grad(plain.sum(), tokens)
    assert not torch.allclose((tokens * gradient).sum((1, 2)), plain[:, 0], rtol=0.05)


def test_libra_grad_is_grad_cam_plus_plus_of_the_balanced_model() -> None:
    model, x = vit(), images(2).double()
    layer = "encoder.layers.encoder_layer_1.ln_1"
    plain = ATTRIBUTORS.create("grad_cam_plus_plus", model, layer)(x, TARGETS)
    found = ATTRIBUTORS.create("libra_grad", model, layer)(x, TARGETS)
    assert not torch.allclose(found, plain)
    with balanced(model):
        expected = ATTRIBUTORS.create("grad_cam_plus_plus", model, layer)(x, TARGETS)
    torch.testing.assert_close(found, expected)


def test_unknown_layers_of_models_that_are_no_sequence() -> None:
    with pytest.raises(InputError, match=r"Unknown layer 'blocks'. Choose from: .*encoder.layers.encoder_layer_1.ln_1"):
        ATTRIBUTORS.create("grad_cam", vit(), "blocks")


def test_libra_grad_of_a_piecewise_linear_model_is_grad_cam_plus_plus() -> None:
    model, x = tiny_model(), images(2)
    plain = ATTRIBUTORS.create("grad_cam_plus_plus", model)(x, TARGETS)
    torch.testing.assert_close(ATTRIBUTORS.create("libra_grad", model)(x, TARGETS), plain)


@pytest.mark.parametrize(
    ("function", "module"), [("gelu", nn.GELU()), ("silu", nn.SiLU()), ("hardswish", nn.Hardswish())]
)
def test_gates_keep_the_value_and_pass_their_gate(function: str, module: nn.Module) -> None:
    x = torch.tensor([-2.0, -0.5, 0.0, 0.5, 2.0], dtype=torch.float64, requires_grad=True)
    original = getattr(F, function)
    with balanced(nn.Identity()):
        out = module(x)
    torch.testing.assert_close(out, original(x))
    (gradient,) = torch.autograd.grad(out.sum(), x)
    torch.testing.assert_close(gradient * x, out)
    assert gradient[2] == 0.5 and getattr(F, function) is original
