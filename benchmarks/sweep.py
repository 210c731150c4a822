"""Sixty corrections of the cached methods in one sweep against sixty corrections by themselves, from pixels."""

import tempfile
import time
from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import nn

if TYPE_CHECKING:
    from xai_robustness.datasets.base import ImageSet
    from xai_robustness.mitigation.base import Candidate, Material
    from xai_robustness.mitigation.params import MitigationParams
    from xai_robustness.types import Split

LAYERS = ("layer3", "layer4")
KINDS = ("signal", "svm")
SIZES: "dict[Split, int]" = {"train": 400, "val": 200, "test": 10}


def _material(model: nn.Sequential, train: "ImageSet", val: "ImageSet") -> "Material":
    from xai_robustness.concepts.cav import Cavs
    from xai_robustness.mitigation.base import MaskTable, Material

    return Material(model, train, val, Cavs(), MaskTable.empty(), 0, "cpu", train.has_artifact)


def _with_cavs(material: "Material", layers: Sequence[str], kinds: Sequence[str]) -> "Material":
    """Fit the vectors on max-pooled activations of the labelled training images, from the cache or from pixels."""
    from xai_robustness.concepts.cav import Cavs, fit_cav
    from xai_robustness.mitigation.directions import activations, scope
    from xai_robustness.models.taps import pool

    rows, artifact = scope(material)
    items = []
    for layer in layers:
        features = torch.cat([pool(part, "max") for part in activations(layer, material, rows)]).double().numpy()
        items += [fit_cav(features, artifact, kind, layer) for kind in kinds]
    return replace(material, cavs=Cavs(tuple(items)))


def _grid() -> "MitigationParams":
    from xai_robustness.mitigation.base import METHODS
    from xai_robustness.mitigation.params import MitigationParams

    ten = [float(10**k) for k in range(10)]
    shares = [float(k) for k in np.linspace(0.1, 1.0, 10)]
    groups: dict[str, dict[str, object]] = {
        "rr_clarc": {"layers": LAYERS, "lambdas": ten},
        "a_clarc": {"layers": LAYERS, "lambdas": shares},
        "p_clarc": {"layers": LAYERS},
        "reactive_p_clarc": {"layers": LAYERS},
        "dfr": {"lambdas": [float(2**k) for k in range(16)]},
    }
    off = {name: {"enabled": False} for name in METHODS}
    on = {name: {"enabled": True, **group} for name, group in groups.items()}
    return MitigationParams.model_validate(off | on)


def _image_sets() -> "dict[str, ImageSet]":
    from xai_robustness.artifacts.insertion import ArtifactParams, insert_artifact, plan
    from xai_robustness.datasets.base import ImageSet
    from xai_robustness.datasets.phantom import make_phantom, phantom_info

    raw, info, sets = make_phantom(28, SIZES, 0), phantom_info(), {}
    params = ArtifactParams(kind="ruler", rate=0.5)
    for split, start in (("train", 0), ("val", 10_000)):
        images, labels = raw[f"{split}_images"], raw[f"{split}_labels"].reshape(-1)
        ids = np.arange(len(labels)) + start
        biased = plan(labels, ids, params, info.n_classes, 0).has_artifact
        for condition, where in (("clean", biased & False), ("biased", biased), ("attacked", biased | True)):
            pixels = insert_artifact(images, ids, where, params, 0)[0]
            sets[f"{split}/{condition}"] = ImageSet(pixels, labels, ids, info, where)
    return sets


@contextmanager
def _graph_to_the_pixels(finetune: Any) -> Iterator[None]:
    """Let steps at a layer begin with pixels that need a gradient, as in the published code; weights are trained alike.

    What enters the trained part is the same; its gradient, and that of the penalty, go on through the frozen part.
    """
    original: Any = finetune._Lockstep

    class Published(original):
        def _inputs(self, key: str, images: "ImageSet", rows: np.ndarray, flips: torch.Tensor | None = None) -> Any:
            if key != "train" or self.layer is None:
                return super()._inputs(key, images, rows, flips)
            return self.prefix(images.tensor(rows).to(self.device).requires_grad_())

        def _update(self, strand: Any, step: Any) -> None:
            super()._update(strand, step)
            if step.inputs.requires_grad:
                step.inputs.backward(torch.ones_like(step.inputs))  # what arrives there costs the same

    finetune._Lockstep = Published
    try:
        yield
    finally:
        finetune._Lockstep = original


def sweep(runs: int) -> list[dict[str, object]]:
    """Fit vectors, correct and predict clean and attacked validation images for 60 candidates of five methods.

    Ours: one job with the activations of each layer kept on disk. Peer: this project's own methods, one candidate at a
    time, each with its own vectors and with every image passed through the whole model. Saving and bootstrapping are
    left out of both. A second peer takes the steps of RR-ClArC and A-ClArC as the published code does: the frozen part
    runs with a graph, and each backward pass goes on through it to the pixels. One run, whatever `runs` says: it takes
    minutes. Seconds are processor time, which other programs on the machine disturb less than the clock on the wall, of
    one thread: threads that wait for each other count as work.
    """
    torch.set_num_threads(1)
    from xai_robustness.mitigation import finetune
    from xai_robustness.mitigation.base import METHODS, grid
    from xai_robustness.mitigation.cache import ActivationCache
    from xai_robustness.models.training import predict_logits
    from xai_robustness.models.zoo import ModelParams, build, split

    sets, params = _image_sets(), _grid()
    train, val = sets["train/biased"], sets["val/biased"]
    judged = {key: sets[key] for key in ("val/clean", "val/attacked")}
    model = build(
        ModelParams(name="resnet18"), train.info.n_classes, train.image_shape, [0.5] * 3, [0.25] * 3, 0
    ).eval()
    wanted = [c for c in grid(params, model) if c.method != "vanilla"]
    groups = params.methods()

    def kinds_of(candidate: "Candidate") -> tuple[str, ...]:
        return KINDS if candidate.method == "reactive_p_clarc" else KINDS[:1]

    def together(spent: defaultdict[str, float]) -> dict[str, dict[str, np.ndarray]]:
        found: dict[str, dict[str, np.ndarray]] = defaultdict(dict)
        with tempfile.TemporaryDirectory() as folder:
            layers = sorted({c.layer for c in wanted if c.layer})
            cache = ActivationCache(model, layers, Path(folder))
            material = _with_cavs(replace(_material(model, train, val), cache=cache), LAYERS, KINDS)
            for name, group in groups.items():
                started = time.process_time()
                mine = [c for c in wanted if c.method == name]
                for corrected in METHODS[name](group).correct(mine, material) if mine else ():
                    layer = corrected.candidate.layer
                    assert layer is not None and corrected.model is not None
                    tail = split(corrected.model, layer)[1]
                    with torch.inference_mode():
                        for key, images in judged.items():
                            kept = cache.find(key, images, layer)
                            assert kept is not None
                            found[corrected.candidate.name][key] = tail(kept.take(slice(None))).numpy()
                    spent[label(corrected.candidate)] += time.process_time() - started
                    started = time.process_time()
        return found

    def apart(spent: defaultdict[str, float]) -> dict[str, dict[str, np.ndarray]]:
        found = {}
        for candidate in wanted:
            started = time.process_time()
            material = _material(model, train, val)
            if candidate.layer is not None and candidate.method != "dfr":
                material = _with_cavs(material, [candidate.layer], kinds_of(candidate))
            (corrected,) = METHODS[candidate.method](groups[candidate.method]).correct([candidate], material)
            assert corrected.model is not None
            found[candidate.name] = {k: predict_logits(corrected.model, i, 256, "cpu") for k, i in judged.items()}
            spent[label(candidate)] += time.process_time() - started
        return found

    def as_published(spent: defaultdict[str, float]) -> dict[str, dict[str, np.ndarray]]:
        with _graph_to_the_pixels(finetune):
            return apart(spent)

    def label(candidate: "Candidate") -> str:
        return f"{candidate.method} {candidate.layer}"

    seconds, results, parts = [], [], []
    for call in (together, apart, as_published):
        started = time.process_time()
        spent: defaultdict[str, float] = defaultdict(float)
        results.append(call(spent))
        seconds.append(time.process_time() - started)
        parts.append({name: round(value, 1) for name, value in spent.items()})
    free = [c.name for c in wanted if c.method.endswith("p_clarc")]
    pairs = [(results[0][n][k], other[n][k]) for other in results[1:] for n in free for k in judged]
    trained = [(results[0][c.name][k], results[2][c.name][k]) for c in wanted for k in judged]
    ours = seconds[0]
    return [
        {
            "case": f"{len(wanted)} corrections, resnet18 28 px, {SIZES['train']} training images; {peer}",
            "ours": round(ours, 1),
            "peer": round(spent, 1),
            "unit": "s",
            "clock": "processor time of this process",
            "ratio": round(spent / ours, 2),
            "largest_logit_difference_training_free": max(float(np.abs(a - b).max()) for a, b in pairs),
            "largest_logit_difference": max(float(np.abs(a - b).max()) for a, b in trained),
            "candidates": dict(Counter(map(label, wanted))),
            "ours_by_part": parts[0],
            "peer_by_part": part,
        }
        for peer, spent, part in zip(("one by one", "one by one, graph to the pixels"), seconds[1:], parts[1:])
    ]
