import numpy as np
import pytest
import torch
from tests.models.tiny import tiny_model
from torch import nn

from xai_robustness.attacks.budget import make_budget
from xai_robustness.attacks.explanation import ExplanationAttack, ExplanationSearch, Objective, corner_target
from xai_robustness.attacks.maps import MAPS, make_map, post_process
from xai_robustness.attacks.stability import Stability, attack_explanations, stability_table, wilcoxon_below
from xai_robustness.attacks.streams import Streams
from xai_robustness.attacks.surrogate import Gate, smooth
from xai_robustness.attribution import ATTRIBUTORS
from xai_robustness.attribution.heatmap import to_heatmap
from xai_robustness.datasets.base import ImageSet
from xai_robustness.types import InputError

Batch = tuple[torch.Tensor, torch.Tensor]
SETTINGS: dict[str, dict] = {
    "smooth_grad": {"n_samples": 2},
    "smooth_grad_squared": {"n_samples": 2},
    "integrated_gradients": {"n_steps": 8},
}


def maps(model: nn.Module, name: str, x: torch.Tensor, y: torch.Tensor, graph: bool = False) -> torch.Tensor:
    prepared = make_map(name, **SETTINGS.get(name, {})).prepare(model, x, Streams(0, "t", range(len(x))))
    return prepared(model, x, y, graph)


AS_ATTRIBUTION = [
    "saliency",
    "input_x_gradient",
    "integrated_gradients",
    "grad_cam",
    "grad_cam_plus_plus",
    "xgrad_cam",
    "layer_cam",
    "finer_cam",
]


@pytest.mark.parametrize("name", AS_ATTRIBUTION)
def test_maps_are_those_of_attribution(name: str, model: nn.Sequential, batch: Batch) -> None:
    x, y = batch[0][:5], batch[1][:5]
    explain = ATTRIBUTORS.create(name, model, **SETTINGS.get(name, {}))
    torch.testing.assert_close(maps(model, name, x, y).detach(), to_heatmap(explain(x, y)), rtol=1e-4, atol=1e-5)


def test_smooth_grad_squared_in_plain_words(model: nn.Sequential, batch: Batch) -> None:
    x, y = batch[0][:3], batch[1][:3]
    generator_free = Streams(0, "t", range(3)).normal(x[:, None].expand(-1, 2, -1, -1, -1))
    for i in range(3):
        total = torch.zeros(12, 12)
        for s in range(2):
            noisy = (x[i] + 0.15 * (x[i].max() - x[i].min()) * generator_free[i, s])[None].requires_grad_()
            model(noisy)[0, y[i]].backward()
            total += noisy.grad[0].square().sum(0) / 2
        torch.testing.assert_close(maps(model, "smooth_grad_squared", x, y)[i].detach(), total, rtol=1e-4, atol=1e-6)


def test_guided_backprop_in_plain_words(batch: Batch) -> None:
    model, x, y = tiny_model(), batch[0][:3], batch[1][:3]
    found = maps(model, "guided_backprop", x, y).detach()
    assert not any(type(module).__name__ == "_Guided" for module in model.modules())
    handles = [
        module.register_full_backward_hook(lambda _m, grad_in, _out: (grad_in[0].clamp(min=0),))
        for module in model.modules()
        if isinstance(module, nn.ReLU)
    ]
    leaf = x.clone().requires_grad_()
    model(leaf).gather(1, y[:, None]).sum().backward()
    for handle in handles:
        handle.remove()
    torch.testing.assert_close(found, leaf.grad.sum(1), rtol=1e-4, atol=1e-6)
    assert not torch.allclose(found, maps(model, "saliency", x, y).detach())


@pytest.mark.parametrize("name", ["saliency", "smooth_grad_squared", "guided_backprop"])
def test_relu_has_no_second_gradient_and_the_surrogate_has(name: str, model: nn.Sequential, batch: Batch) -> None:
    x, y = batch[0][:4], batch[1][:4]
    found = {}
    for how in ("none", "softplus", "gate"):
        leaf = x.clone().requires_grad_()
        net = smooth(model, how)
        prepared = make_map(name, **SETTINGS.get(name, {})).prepare(net, x, Streams(0, "t", range(4)))
        value = prepared(net, leaf, y).sum()
        found[how] = torch.autograd.grad(value, leaf)[0].abs().max().item()
    assert found["none"] == 0 < min(found["softplus"], found["gate"])


@pytest.mark.parametrize("name", list(MAPS))
def test_gradients_of_maps_are_right(name: str) -> None:
    model = smooth(tiny_model(), "softplus", 5.0).double()
    x = torch.rand(1, 3, 8, 8, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    weights = torch.rand(8, 8, dtype=torch.float64, generator=torch.Generator().manual_seed(2))
    y = torch.tensor([1])
    prepared = make_map(name, **SETTINGS.get(name, {})).prepare(model, x, Streams(0, "t", [0]))
    leaf = x.clone().requires_grad_()
    (gradient,) = torch.autograd.grad((prepared(model, leaf, y) * weights).sum(), leaf)
    step = torch.randn(x.shape, dtype=torch.float64, generator=torch.Generator().manual_seed(3))
    values = [(prepared(model, x + s * 1e-5 * step, y, False) * weights).sum().item() for s in (1, -1)]
    assert (gradient * step).sum().item() == pytest.approx((values[0] - values[1]) / 2e-5, rel=1e-3, abs=1e-9)


def test_surrogates(model: nn.Sequential, batch: Batch) -> None:
    x = batch[0][:4]
    before = str(model)
    with torch.no_grad():
        logits = model(x)
        assert torch.equal(smooth(model, "gate", 7.0)(x), logits)
        far = [(smooth(model, "softplus", beta)(x) - logits).abs().max().item() for beta in (5.0, 50.0, 5000.0)]
    assert far[0] > far[1] > far[2] and far[2] < 1e-2
    assert str(model) == before
    z = torch.linspace(-2, 2, 9).requires_grad_()
    (slope,) = torch.autograd.grad(Gate(3.0)(z).sum(), z)
    torch.testing.assert_close(slope, torch.sigmoid(3 * z).detach())
    with pytest.raises(InputError, match="how and beta"):
        smooth(model, "softplus", 0)


@pytest.mark.parametrize("name", ["saliency", "guided_backprop", "smooth_grad", "integrated_gradients", "grad_cam"])
@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_the_prediction_stays_and_the_value_falls(name: str, norm: str, model: nn.Sequential, batch: Batch) -> None:
    x, y = batch[0][:6], batch[1][:6]
    eps = 0.06 if norm == "linf" else 0.8
    attack = ExplanationAttack(make_budget(norm, eps), name, SETTINGS.get(name), steps=6)
    found = attack(model, x, y)
    assert found.success.all() and torch.equal(found.logits.argmax(1), y)
    assert not attack.budget.exceeded(found.images, x)
    prepared = attack.map.prepare(model, x, Streams(0, f"attack/{attack.name}", range(6)))
    clean = post_process(prepared(model, x, y, False))
    value = Objective(clean, 0.1)(post_process(prepared(model, found.images, y, False)))
    assert found.curve.shape == (6, 8)
    torch.testing.assert_close(found.curve[:, 0], Objective(clean, 0.1)(clean))
    assert (value <= found.curve[:, 0] + 1e-5).all() and value.mean() < found.curve[:, 0].mean()
    assert (value >= found.curve.amin(1) - 1e-4).all()  # the best iterate, of those that keep the prediction


def test_each_sample_keeps_its_own_best(model: nn.Sequential, batch: Batch) -> None:
    x, y = batch[0][:6], batch[1][:6]
    attack = ExplanationAttack(make_budget("linf", 0.06), steps=5)
    whole = attack(model, x, y, ids=range(6))
    alone = [attack(model, x[i : i + 1], y[i : i + 1], ids=[i]).images for i in range(6)]
    torch.testing.assert_close(whole.images, torch.cat(alone), rtol=0, atol=1e-5)


def test_a_prediction_that_cannot_be_kept_leaves_the_image(model: nn.Sequential, batch: Batch) -> None:
    x, y = batch[0][:4], (batch[1][:4] + 1) % 3  # these classes are not predicted
    found = ExplanationAttack(make_budget("linf", 1e-4), steps=3)(model, x, y)
    assert not found.success.any() and torch.equal(found.images, x)


def test_targeted_moves_towards_the_corner(model: nn.Sequential, batch: Batch) -> None:
    x, y = batch[0][:6], batch[1][:6]
    target = corner_target(12, 12, 0.1)
    assert target.sum() == 9 and target[:3, :3].all()
    attack = ExplanationAttack(make_budget("linf", 0.1), "input_x_gradient", steps=15, target=target)
    found = attack(model, x, y)
    before = post_process(maps(model, "input_x_gradient", x, y)).detach()
    after = post_process(maps(model, "input_x_gradient", found.images, y)).detach()
    assert (after - target).square().mean() < (before - target).square().mean()
    torch.testing.assert_close(found.curve[:, 0], (before - target).square().mean((1, 2)))
    with pytest.raises(InputError, match=r"images' size \(12, 12\)"):
        ExplanationAttack(make_budget("linf", 0.1), target=corner_target(5, 5))(model, x, y)


def test_adam_too(model: nn.Sequential, batch: Batch) -> None:
    x, y = batch[0][:6], batch[1][:6]
    found = ExplanationAttack(make_budget("linf", 0.06), steps=6, optimizer="adam")(model, x, y)
    assert found.success.all() and found.curve.amin(1).mean() < found.curve[:, 0].mean()


def test_without_a_budget_nothing_moves(model: nn.Sequential, batch: Batch) -> None:
    attack = ExplanationAttack(make_budget("linf", 0.0), steps=2, step_size=0.1)
    assert torch.equal(attack(model, batch[0][:3], batch[1][:3]).images, batch[0][:3])


def test_beats_the_noise_control(model: nn.Sequential, data: ImageSet) -> None:
    attack = ExplanationAttack(make_budget("linf", 0.06), "smooth_grad", {"n_samples": 2}, steps=10)
    few = data.subset(np.arange(24))
    found = attack_explanations(model, few, attack, batch_size=24, search=True)
    table = stability_table(found, "test/x").set_index("metric")
    assert table.loc["test/x/attack/prediction_kept", "value"] == 1
    assert table.loc["test/x/attack_minus_noise/inside", "p_value"] < 0.01
    assert table.loc["test/x/attack_minus_noise/inside", "ci_high"] < 0
    assert set(found.samples["source"]) == {"attack", "noise", "search"} and len(found.samples) == 24 * 5
    assert found.samples.loc[~found.samples["kept"], "ssim"].isna().all()
    assert found.curves.shape == (24, 12)
    inside = found.samples.query("source == 'attack'")["inside"].to_numpy()
    assert (inside <= found.curves[:, 0] + 1e-4).all()


def test_an_attack_that_does_nothing_beats_nothing(model: nn.Sequential, data: ImageSet) -> None:
    idle = ExplanationSearch(make_budget("linf", 0.06), steps=1)
    found = attack_explanations(model, data.subset(np.arange(12)), idle)
    table = stability_table(found, "t").set_index("metric")
    assert table.loc["t/attack_minus_noise/topk_intersection", "p_value"] > 0.05
    with pytest.raises(InputError, match="control_seeds"):
        attack_explanations(model, data, idle, control_seeds=())


def test_only_pairs_that_keep_the_prediction_count() -> None:
    import pandas as pd

    samples = pd.DataFrame(
        {
            "sample_id": [1, 2, 3, 1, 2, 3, 1, 2, 3],
            "source": ["attack"] * 3 + ["noise"] * 6,
            "kept": [True, True, False, True, False, True, True, False, True],
            "inside": [0.1, 0.2, np.nan, 0.3, np.nan, 0.5, 0.5, np.nan, 0.5],
        }
    )
    pairs = Stability(samples, np.zeros((3, 1))).paired("inside")
    assert pairs.to_dict("index") == {1: {"attack": 0.1, "noise": 0.4}}
    assert wilcoxon_below(np.array([])) != wilcoxon_below(np.array([])) and wilcoxon_below(np.zeros(4)) == 1.0


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"method": "lrp"}, "must be one that can be differentiated.*Got 'lrp' instead; choose from: .*saliency"),
        ({"method": "salience"}, "Did you mean 'saliency'"),
        ({"steps": 0}, "at least 1"),
        ({"share": 0}, r"in \(0,1\]"),
        ({"step_size": 0.0}, "step_size parameter"),
        ({"settings": {"n_samples": 0}, "method": "smooth_grad"}, "n_samples"),
    ],
)
def test_bad_settings(options: dict, message: str) -> None:
    with pytest.raises(InputError, match=message):
        ExplanationAttack(make_budget("linf", 0.1), **options)
    with pytest.raises(InputError, match="must be linf or l2"):
        ExplanationAttack(make_budget("fourier"))
