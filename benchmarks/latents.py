"""LRP EpsilonPlusFlat with relevances of all inspected layers, against zennit and against a plain forward and backward.

The peer is zennit as its documentation shows it: torchvision's ResNet with zennit's canonizer (VGG has no batch norm
and needs none), gradients of the input and of the layers' outputs from `torch.autograd.grad`. On both sides one context
is open around all batches and weights need no gradient, so that nobody computes one. One thread; seconds are processor
time, and both sides take turns. Peak memory is that of one batch, the context opened for it. `python latents.py cuda`
prints the same on a GPU, with larger batches, in full float32, and seconds by the clock after synchronising.
"""

import copy
import json
import statistics
import sys
import time
from collections.abc import Callable
from contextlib import AbstractContextManager

import torch
import torchvision
from torch import nn
from torch.profiler import profile
from zennit.composites import EpsilonPlusFlat
from zennit.rules import Pass
from zennit.torchvision import ResNetCanonizer

from xai_robustness.attribution.lrp import Lrp
from xai_robustness.models.layers import Normalize
from xai_robustness.models.zoo import ModelParams, build, inspected_layers

CASES = tuple((name, side) for side in (28, 224) for name in ("resnet18", "resnet50", "vgg16"))
UNITS = {"cpu": "processor s", "cuda": "s"}
BATCHES = {"cpu": {28: 64, 224: 8}, "cuda": {28: 512, 224: 64}}


def measure(name: str, side: int, runs: int, device: str = "cpu") -> dict[str, object]:
    """One row: medians, the median ratio of neighbouring runs, and peak memory beyond the model and its input."""
    model = build(ModelParams(name=name), 10, (3, side, side), [0.5] * 3, [0.5] * 3, seed=0).eval().to(device)
    model.requires_grad_(False)
    untouched = copy.deepcopy(model)
    drawn = torch.rand(BATCHES[device][side], 3, side, side, generator=torch.Generator().manual_seed(0))
    images, targets = drawn.to(device), torch.zeros(len(drawn), dtype=torch.int64, device=device)
    layers = inspected_layers(model)
    peer_model, composite = _peer(model, name)

    def ours(lrp: Lrp) -> object:
        return lrp.run(images, targets, layers)

    def peer(modified: nn.Module) -> object:
        return _gradients(modified, images, layers, lambda logits: nn.functional.one_hot(targets, 10) * logits)

    def plain(_: object) -> object:
        return _gradients(untouched, images, layers, lambda logits: nn.functional.one_hot(targets, 10).to(logits))

    seconds: dict[str, list[float]] = {"ours": [], "peer": [], "plain": []}
    with Lrp(model) as lrp, composite.context(peer_model) as modified:
        calls = ((ours, lrp), (peer, modified), (plain, None))
        for run in range(-1, runs):
            for kept, (call, argument) in zip(seconds.values(), calls):
                started = _now(device)
                call(argument)  # type: ignore[operator]
                if run >= 0:
                    kept.append(_now(device) - started)
    ratio = statistics.median(p / o for o, p in zip(seconds["ours"], seconds["peer"]))
    multiple = statistics.median(o / p for o, p in zip(seconds["ours"], seconds["plain"]))
    return {
        "case": f"LRP, relevances of {len(layers)} layers, {name}, {side} px, batch {len(images)}",
        **{side_: round(statistics.median(values), 4) for side_, values in seconds.items()},
        "unit": UNITS[device],
        "ratio": round(ratio, 2),
        "times_forward_backward": round(multiple, 2),
        "ours_peak_mb": round(peak_bytes(lambda: _opened(Lrp(model), ours), device) / 1e6),
        "peer_peak_mb": round(peak_bytes(lambda: _opened(composite.context(peer_model), peer), device) / 1e6),
    }


def _now(device: str) -> float:
    if device == "cpu":
        return time.process_time()
    torch.cuda.synchronize()
    return time.perf_counter()


def _opened(context: AbstractContextManager[object], call: Callable[..., object]) -> object:
    with context as given:
        return call(given)


def _peer(model: nn.Sequential, name: str) -> tuple[nn.Module, EpsilonPlusFlat]:
    """The same network in zennit's hands."""
    if not name.startswith("resnet"):
        return copy.deepcopy(model), EpsilonPlusFlat(layer_map=[(Normalize, Pass())])
    net = getattr(torchvision.models, name)(num_classes=10)
    net.conv1, net.maxpool = copy.deepcopy(model.conv1), copy.deepcopy(model.maxpool)
    net.load_state_dict(model.state_dict())
    net = net.to(next(model.parameters()).device).eval().requires_grad_(False)
    return net, EpsilonPlusFlat(canonizers=[ResNetCanonizer()])


def _gradients(
    model: nn.Module, images: torch.Tensor, layers: tuple[str, ...], start: Callable[[torch.Tensor], torch.Tensor]
) -> tuple[torch.Tensor, ...]:
    kept: list[torch.Tensor] = []
    hooks = [model.get_submodule(layer).register_forward_hook(lambda _m, _i, out: kept.append(out)) for layer in layers]
    x = images.clone().requires_grad_()
    logits = model(x)
    for hook in hooks:
        hook.remove()
    return torch.autograd.grad(logits, [x, *kept], start(logits.detach()))


def peak_bytes(call: Callable[[], object], device: str = "cpu") -> int:
    """Largest sum of tensors alive at once during a call, beyond those before it."""
    if device == "cuda":
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        call()
        return torch.cuda.max_memory_allocated() - before
    with profile(profile_memory=True) as profiled:
        call()
    alive = peak = 0
    events = [event for event in profiled.profiler.kineto_results.events() if event.name() == "[memory]"]
    for event in sorted(events, key=lambda event: event.start_ns()):
        alive += event.nbytes()
        peak = max(peak, alive)
    return peak


def latents(runs: int, device: str = "cpu") -> list[dict[str, object]]:
    """All cases, and the geometric mean of their ratios."""
    torch.set_num_threads(1)
    torch.backends.cudnn.allow_tf32 = False
    rows = [measure(name, side, runs, device) for name, side in CASES]
    mean = statistics.geometric_mean(float(str(row["ratio"])) for row in rows)
    total = {side: round(sum(float(str(row[side])) for row in rows), 3) for side in ("ours", "peer")}
    return [*rows, {"case": "geometric mean of the ratios", **total, "unit": UNITS[device], "ratio": round(mean, 2)}]


if __name__ == "__main__":
    for found in latents(runs=5, device=sys.argv[1]):
        print(json.dumps(found))
