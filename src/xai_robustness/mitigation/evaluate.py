"""Logits and metrics of all candidates, with the unchanged part of the model computed once for those that share it."""

import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from jaxtyping import Float
from torch import nn

from xai_robustness.datasets.base import ImageSet
from xai_robustness.metrics.bootstrap import Interval, Resamples, once, percentile_interval
from xai_robustness.metrics.classification import (
    DIFFERENCE_COLUMNS,
    METRICS,
    Predictions,
    Weighted,
    compare_models,
    metric_names,
)
from xai_robustness.mitigation.base import REFERENCE, Candidate
from xai_robustness.mitigation.cache import ActivationCache
from xai_robustness.mitigation.finetune import collapsed
from xai_robustness.mitigation.job import CorrectedModels
from xai_robustness.mitigation.params import MitigationParams
from xai_robustness.models.zoo import split
from xai_robustness.progress import progress
from xai_robustness.types import METRIC_COLUMNS, InputError

Logits = dict[str, dict[str, Float[np.ndarray, "n k"]]]
ROUNDING = 1e-9
"""Gaps of balanced accuracy below this are none: equal recalls may differ in their last bits."""
CANDIDATE_COLUMNS = ("candidate", "method", "layer", "strength", "cav", "collapsed")
RATES = ("false_positive_rate", "largest_false_positive_rate")


def evaluate_candidates(
    folder: Path,
    model: nn.Sequential,
    sets: Mapping[str, ImageSet],
    params: MitigationParams,
    seed: int,
    device: str,
    n_boot: int = 1000,
) -> pd.DataFrame:
    """Metrics of every corrected model, with paired differences to the uncorrected one.

    Args:
        folder: what a CorrectionJob has written.
        model: the uncorrected classifier.
        sets: image sets by `{split}/{condition}`, as "val/clean" and "val/attacked".
        params: for the batch size.
        seed: seed of the run, for the bootstrap.
        device: where to compute.
        n_boot: number of bootstrap replicates.

    Returns:
        See `correction_metrics`.
    """
    models = CorrectedModels(folder)
    limit = int(params.cache_gigabytes * 2**30)
    logits = candidate_logits(models, model, sets, params.eval_batch_size, device, limit)
    return correction_metrics(models.candidates(), logits, sets, seed, n_boot)


def candidate_logits(
    models: CorrectedModels,
    original: nn.Sequential,
    sets: Mapping[str, ImageSet],
    batch_size: int,
    device: str,
    limit: int = 8 * 2**30,
) -> Logits:
    """Logits float32 (N,C) of every candidate on every set: set -> candidate -> logits.

    The unchanged layers run once over each set: their activations are kept on disk, at most `limit` bytes a set, and
    each candidate, loaded once, goes on from there. The reference is the original itself.
    """
    candidates = models.candidates()
    layers = sorted({candidate.layer for candidate in candidates if candidate.layer})
    found: Logits = {key: {} for key in sets}
    total = len(candidates) * sum(map(len, sets.values()))
    bar = progress(total, "evaluate corrections")
    with tempfile.TemporaryDirectory() as folder, torch.inference_mode(), bar:
        cache = ActivationCache(original.to(device).eval(), layers, Path(folder), device, batch_size, limit)
        for candidate in candidates:
            prefix, tail = _parts(models, original, candidate, device)
            for key, images in sets.items():
                kept = cache.find(key, images, candidate.layer) if candidate.layer else None
                parts = []
                for rows in _batches(len(images), batch_size):
                    inputs = prefix(images.tensor(rows).to(device)) if kept is None else kept.take(rows).to(device)
                    parts.append(tail(inputs).float().cpu())
                    bar.update(len(parts[-1]))
                found[key][candidate.name] = torch.cat(parts).numpy()
    return found


def _batches(n: int, size: int) -> list[slice]:
    return [slice(start, min(start + size, n)) for start in range(0, n, size)]


def _parts(
    models: CorrectedModels, original: nn.Sequential, candidate: Candidate, device: str
) -> tuple[nn.Module, nn.Module]:
    """The unchanged part, and what follows it in the candidate."""
    model = original if candidate.name == REFERENCE else models.load(candidate.name, device)
    if candidate.layer is None:
        return nn.Identity(), model
    prefix, _ = split(original, candidate.layer)
    state = prefix.state_dict()
    before, tail = split(model, candidate.layer)
    if any(not torch.equal(value, state[key].to(value)) for key, value in before.state_dict().items()):
        raise InputError(
            f"The model parameter of evaluate_candidates must be the one that '{candidate.name}' was made from. "
            f"Got another one, which differs up to layer '{candidate.layer}': run the corrections again."
        )
    return prefix, tail


def correction_metrics(
    candidates: Sequence[Candidate], logits: Logits, sets: Mapping[str, ImageSet], seed: int = 0, n_boot: int = 1000
) -> pd.DataFrame:
    """The table of all candidates.

    Beside the metrics of the task and the false positive rates on each set there are, where a split has clean and
    attacked images of the same samples, `{split}/attacked/balanced_accuracy_gap` (clean minus attacked),
    `{split}/attacked/gap_recovered` ((attacked - attacked of the reference) / gap of the reference; NaN where the
    reference has no gap) and `{split}/attacked/worst_group_accuracy` (the smallest accuracy of a class with or without
    the artifact [Sagawa2020]).

    Args:
        candidates: the reference among them.
        logits: set -> candidate -> (N,C).
        sets: the image sets.
        seed: seed of the run; all intervals come from the same resamples.
        n_boot: number of bootstrap replicates.

    Returns:
        One row a candidate and metric: candidate, method, layer, strength, cav, collapsed (one answer for every image
        of a clean set), METRIC_COLUMNS and DIFFERENCE_COLUMNS; "" or NaN where a method has no layer, strength, cav.
    """
    tables = [
        compare_models(
            logits[key],
            images.labels,
            images.info.task,
            REFERENCE,
            metrics=(*metric_names(images.info.task), *RATES),
            prefix=key,
            subject="candidate",
            n_boot=n_boot,
            seed=seed,
        )
        for key, images in sets.items()
    ]
    for split_name in dict.fromkeys(key.split("/")[0] for key in sets):
        clean, attacked = f"{split_name}/clean", f"{split_name}/attacked"
        if clean in sets and attacked in sets:
            _check_paired(sets[clean], sets[attacked])
            pair = {name: (logits[clean][name], logits[attacked][name]) for name in logits[clean]}
            tables.append(_gap_table(pair, sets[clean], attacked, seed, n_boot))
    rows = pd.concat(tables, ignore_index=True)
    described = pd.DataFrame([_describe(candidate, logits, sets) for candidate in candidates])
    merged = described.merge(rows, on="candidate", how="left", validate="one_to_many")
    return merged[[*CANDIDATE_COLUMNS, *METRIC_COLUMNS, *DIFFERENCE_COLUMNS]]


def _describe(candidate: Candidate, logits: Logits, sets: Mapping[str, ImageSet]) -> dict[str, object]:
    clean = [key for key in sets if key.endswith("/clean")]
    return {
        "candidate": candidate.name,
        "method": candidate.method,
        "layer": candidate.layer or "",
        "strength": np.nan if candidate.strength is None else candidate.strength,
        "cav": candidate.cav or "",
        "collapsed": any(collapsed(logits[key][candidate.name], sets[key].info.task == "multi-label") for key in clean),
    }


def _check_paired(clean: ImageSet, attacked: ImageSet) -> None:
    if not np.array_equal(clean.sample_ids, attacked.sample_ids):
        raise InputError(
            "The sets parameter of correction_metrics must hold the same samples, in the same order, in the clean and "
            "the attacked version of a split. Got others instead."
        )


def _gap_table(
    pairs: Mapping[str, tuple[np.ndarray, np.ndarray]], images: ImageSet, prefix: str, seed: int, n_boot: int
) -> pd.DataFrame:
    """Gap, gap recovered and worst group of every candidate; the first and the last with differences."""
    task, labels = images.info.task, images.labels
    strata = np.zeros(len(labels)) if task == "multi-label" else labels
    resamples = Resamples(strata, n_boot, seed)
    ready = {name: tuple(Predictions(part, labels, task) for part in pair) for name, pair in pairs.items()}
    values = {name: _both(once(len(labels)), pair)[..., 0] for name, pair in ready.items()}
    blocks = list(resamples.blocks())
    drawn = {name: np.concatenate([_both(block, pair) for block in blocks], axis=2) for name, pair in ready.items()}
    rows = []
    for name in pairs:
        (value, worst), (spread, drawn_worst) = values[name], drawn[name]
        base, drawn_base = values[REFERENCE][0], drawn[REFERENCE][0]
        recovered = _recovered(value, base), _recovered(spread, drawn_base)
        share = percentile_interval(float(recovered[0]), recovered[1])
        none = Interval(np.nan, np.nan, np.nan)
        for metric, one, many, compared in (
            ("balanced_accuracy_gap", _gap(value), _gap(spread), (_gap(base), _gap(drawn_base))),
            (
                "worst_group_accuracy",
                worst.min(),
                drawn_worst.min(0),
                [v[REFERENCE][1].min(0) for v in (values, drawn)],
            ),
        ):
            interval = percentile_interval(float(one), many)
            difference = percentile_interval(float(one - compared[0]), many - compared[1])
            rows.append((name, f"{prefix}/{metric}", *interval, len(labels), *difference))
        rows.append((name, f"{prefix}/gap_recovered", *share, len(labels), *none))
    return pd.DataFrame(rows, columns=["candidate", *METRIC_COLUMNS, *DIFFERENCE_COLUMNS])


def _both(weights: np.ndarray, predictions: tuple[Predictions, ...]) -> np.ndarray:
    """Balanced accuracy and smallest recall (2) of clean and attacked images (2) under b weightings: (2,2,b)."""
    weighted = [Weighted(part, weights) for part in predictions]
    undefined = np.full(weights.shape[1], np.nan)
    return np.stack(
        [
            [METRICS[name](part) if part.predictions.finite else undefined for part in weighted]
            for name in ("balanced_accuracy", "worst_recall")
        ]
    )


def _gap(pair: np.ndarray) -> np.ndarray:
    return pair[0] - pair[1]


def _recovered(pair: np.ndarray, reference: np.ndarray) -> np.ndarray:
    """(attacked - attacked of the reference) / gap of the reference; NaN where there is no gap to win back."""
    gap = _gap(reference)
    gain = pair[1] - reference[1]
    return np.divide(gain, gap, out=np.full_like(gain, np.nan), where=gap > ROUNDING)
