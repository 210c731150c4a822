"""The 16 configurations of the published attribution set on ResNet18, all at once against captum one after another.

The peer is captum as its documentation shows it, with its defaults: one mask a call, all steps of a path at once, and
the published pool of DeepLIFT-SHAP and GradientSHAP, which is three baselines for each image of the batch. Both sides
explain the same images by the same model, each in a process of its own, so that its peak memory is its own. Seconds
are CPU seconds of one thread, so that others on the machine count little.
"""

import argparse
import json
import resource
import subprocess
import sys
import tempfile
import time
import warnings
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

PATCHES = (8, 14, 16)
CASES = {"28": (28, 32), "28_half": (28, 16), "224": (224, 1)}
"""case -> side in pixels, images."""

RANDOM = ("gradient_shap_20", "gradient_shap_40", "deeplift_shap")
"""Methods whose draws differ between the two."""


def study(side: int, batch: int) -> tuple[nn.Sequential, Tensor, Tensor, Tensor]:
    """Model, images, targets and mean image, the same in every process."""
    from xai_robustness.models.zoo import ModelParams, build

    model = build(ModelParams(name="resnet18"), 8, (3, side, side), [0.5] * 3, [0.5] * 3, seed=0).eval()
    rng = torch.Generator().manual_seed(0)
    coarse = torch.rand(batch + 1, 3, 7, 7, generator=rng)
    images = torch.nn.functional.interpolate(coarse, size=(side, side), mode="bilinear")
    with torch.no_grad():
        targets = model(images[:-1]).argmax(1)
    return model, images[:-1], targets, images[-1]


def ours(model: nn.Sequential, images: Tensor, targets: Tensor, mean: Tensor) -> tuple[dict[str, Tensor], int]:
    """All methods, and the passes of samples through the model."""
    from xai_robustness.attribution import ATTRIBUTORS
    from xai_robustness.attribution.many import attribute_many

    options: dict[str, tuple[str, dict[str, object]]] = {
        "saliency": ("saliency", {}),
        "input_x_gradient": ("input_x_gradient", {}),
        "guided_backprop": ("guided_backprop", {}),
        "deconvolution": ("deconvolution", {}),
        "integrated_gradients_50": ("integrated_gradients", {"n_steps": 50, "baseline": "grey"}),
        "integrated_gradients_200": ("integrated_gradients", {"n_steps": 200, "baseline": "grey"}),
        "deeplift": ("deeplift", {"baseline": mean}),
        "gradient_shap_20": ("gradient_shap", {"n_samples": 20, "mean_image": mean}),
        "gradient_shap_40": ("gradient_shap", {"n_samples": 40, "mean_image": mean}),
        "deeplift_shap": ("deeplift_shap", {"mean_image": mean}),
    }
    for patch in PATCHES:
        options[f"feature_ablation_{patch}"] = ("feature_ablation", {"patch_size": patch, "baseline": "grey"})
        options[f"occlusion_{patch}"] = ("occlusion", {"patch_size": patch, "baseline": mean})
    methods = {key: ATTRIBUTORS.create(name, model, **given) for key, (name, given) in options.items()}
    found = attribute_many(methods, images, targets)
    return found.attributions, found.passes


def peer(model: nn.Sequential, images: Tensor, targets: Tensor, mean: Tensor) -> tuple[dict[str, Tensor], int]:
    """captum's classes, one after another, at their defaults."""
    import captum.attr as c

    from xai_robustness.attribution.many import count_passes

    x, n, side = images, len(images), images.shape[-1]
    torch.manual_seed(0)
    np.random.seed(0)  # noqa: NPY002
    pool = torch.cat([torch.full_like(x, 0.5), 0.5 + 0.5 * torch.randn_like(x), mean.expand_as(x)])
    calls: dict[str, Callable[[], Tensor]] = {
        "saliency": lambda: c.Saliency(model).attribute(x.clone().requires_grad_(), target=targets),
        "input_x_gradient": lambda: c.InputXGradient(model).attribute(x.clone().requires_grad_(), target=targets),
        "guided_backprop": lambda: c.GuidedBackprop(model).attribute(x.clone().requires_grad_(), target=targets),
        "deconvolution": lambda: c.Deconvolution(model).attribute(x.clone().requires_grad_(), target=targets),
        "integrated_gradients_50": lambda: c.IntegratedGradients(model).attribute(x, 0.5, target=targets),
        "integrated_gradients_200": lambda: c.IntegratedGradients(model).attribute(x, 0.5, targets, n_steps=200),
        "deeplift": lambda: c.DeepLift(model).attribute(x, mean.expand_as(x), target=targets),
        "gradient_shap_20": lambda: c.GradientShap(model).attribute(x, pool, n_samples=20, target=targets),
        "gradient_shap_40": lambda: c.GradientShap(model).attribute(x, pool, n_samples=40, target=targets),
        "deeplift_shap": lambda: c.DeepLiftShap(model).attribute(x, pool, target=targets),
    }
    for p in PATCHES:
        row = torch.arange(side) // p
        grid = (row[:, None] * (int(row[-1]) + 1) + row)[None, None]
        ablate, occlude = c.FeatureAblation(model).attribute, c.Occlusion(model).attribute
        calls[f"feature_ablation_{p}"] = partial(ablate, x, 0.5, target=targets, feature_mask=grid)
        window = (x, (3, p, p), (3, p // 2, p // 2), mean[None])
        calls[f"occlusion_{p}"] = partial(occlude, *window, target=targets)
    with count_passes(model) as passes:
        found = {key: call().detach() for key, call in calls.items()}
    assert all(len(each) == n for each in found.values())
    return found, passes.samples


def child(which: str, case: str, file: str) -> None:
    """Measure one side once, after a small warm-up; prints JSON and saves the attributions."""
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    side, batch = CASES[case]
    model, images, targets, mean = study(side, batch)
    run = {"ours": ours, "peer": peer}[which]
    if side < 64:
        run(model, images[:1], targets[:1], mean)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    started = time.process_time()
    found, passes = run(model, images, targets, mean)
    seconds = time.process_time() - started
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    arrays: dict[str, Any] = {key: value.numpy() for key, value in found.items()}
    np.savez(file, **arrays)
    print(json.dumps({"seconds": seconds, "passes": passes, "peak_mb": peak / 1024, "start_mb": before / 1024}))


def rows(runs: int, cases: tuple[str, ...] = ("28",)) -> list[dict[str, object]]:
    """One row a case: medians of CPU seconds, passes of both, peak memory of both, agreement of the attributions."""
    result = []
    for case in cases:
        sides: dict[str, list[dict[str, float]]] = {"ours": [], "peer": []}
        with tempfile.TemporaryDirectory() as folder:
            for _ in range(runs):
                for which, kept in sides.items():
                    command = [sys.executable, __file__, which, case, str(Path(folder) / f"{which}.npz")]
                    kept.append(json.loads(subprocess.run(command, check=True, capture_output=True).stdout))
            a, b = (dict(np.load(Path(folder) / f"{which}.npz")) for which in sides)
        ratios = [p["seconds"] / o["seconds"] for o, p in zip(sides["ours"], sides["peer"])]
        side, batch = CASES[case]
        row: dict[str, object] = {"case": f"16 attributions, resnet18, {side} px, batch {batch}", "unit": "CPU s"}
        row |= {which: round(float(np.median([r["seconds"] for r in kept])), 2) for which, kept in sides.items()}
        row["ratio"] = round(float(np.median(ratios)), 2)
        for which, kept in sides.items():
            row[f"{which}_passes"] = int(kept[0]["passes"])
            row[f"{which}_peak_mb"] = round(max(r["peak_mb"] for r in kept))
        row["largest_difference"] = max(
            float(np.abs(a[key] - b[key]).max() / np.abs(b[key]).max()) for key in a if key not in RANDOM
        )
        row["correlation_of_random_methods"] = {
            key: round(float(np.corrcoef(a[key].ravel(), b[key].ravel())[0, 1]), 3) for key in RANDOM
        }
        result.append(row)
    return result


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("which", choices=["ours", "peer"])
    parser.add_argument("case", choices=list(CASES))
    parser.add_argument("file")
    given = parser.parse_args()
    child(given.which, given.case, given.file)
