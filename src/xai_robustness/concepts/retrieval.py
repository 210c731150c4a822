"""Sample retrieval: CAVs from artifact labels, bias scores, and how well they find the samples with the artifact."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from jaxtyping import Bool, Float, Int

from xai_robustness.concepts.baselines import Baseline
from xai_robustness.concepts.cav import BASELINES, Cav, CavParams, Cavs, Feature, fit_kinds, given_cavs
from xai_robustness.concepts.labelled import blocks
from xai_robustness.concepts.samples import LatentsReader, rows_of, sample_table
from xai_robustness.concepts.separability import latent_features
from xai_robustness.datasets.base import take
from xai_robustness.metrics.bootstrap import N_BOOT, Resamples, bootstrap
from xai_robustness.metrics.ranking import Ranking
from xai_robustness.types import METRIC_COLUMNS, InputError

RETRIEVAL_COLUMNS = ("layer", "kind", "feature", "neuron", "sign", *METRIC_COLUMNS)


def suspect_classes(artifact_labels: pd.DataFrame) -> list[int]:
    """Classes in which an artifact was confirmed: some train sample carries it and no label is merely assumed."""
    train = artifact_labels[artifact_labels["split"] == "train"]
    assumed = set(train.loc[train["source"] == "assumed", "class"])
    return [int(c) for c in np.unique(train.loc[train["artifact"].astype(bool), "class"]) if c not in assumed]


def fitted_samples(artifact_labels: pd.DataFrame) -> pd.DataFrame:
    """Labels of the train samples that CAVs are fitted on: of `suspect_classes`, of all if those lack clean samples."""
    train = artifact_labels[artifact_labels["split"] == "train"]
    scope = train[train["class"].isin(suspect_classes(artifact_labels))]
    return train if (~scope["artifact"].astype(bool)).sum() < 2 and len(scope) else scope


def fit_cavs(
    latents: LatentsReader, artifact_labels: pd.DataFrame, params: CavParams, study: str = "", seed: int | None = None
) -> Cavs:
    """Fit every kind of CAV in every layer on the train samples of the classes with a confirmed artifact.

    Classes without one join as clean samples only where a class carries the artifact throughout. Where CAVs are given,
    they are checked against the classifier and used instead. The store is read block by block (see `fit_cav`).

    Args:
        latents: of the biased train split.
        artifact_labels: of `review.refine_labels`.
        params: see `CavParams`.
        study: its name, kept with the CAVs.
        seed: of the run, kept with the CAVs.

    Returns:
        The CAVs; empty where nothing was confirmed or fewer than two samples carry the artifact.
    """
    layers = params.layers or latents.layers
    if params.given is not None:
        sizes = {layer: features_of(latents, "train", layer, params.pool).shape[1] for layer in latents.layers}
        return given_cavs(Path(params.given), latents.model, sizes)
    scope = fitted_samples(artifact_labels)
    if scope["artifact"].sum() < 2:
        return Cavs((), latents.model, study, seed)
    rows, places = rows_of(latents.sample_ids("train"), scope["sample_id"].to_numpy())
    artifact = scope["artifact"].to_numpy(bool)[places]
    items = []
    for feature in params.features:
        for layer in layers:
            x = features_of(latents, "train", layer, params.pool, feature, rows)
            items += fit_kinds(x, artifact, params.kinds, layer, params.pool, params.scaling, feature)
    return Cavs(tuple(items), latents.model, study, seed)


@dataclass(frozen=True, eq=False)
class Features:
    """What a CAV is fitted on and scores, read from the store when sliced.

    Attributes:
        stored: pooled activations or relevances (N,K).
        feature: relevances are read as shares.
        rows: which samples (M,), ascending; None: all.
    """

    stored: Any
    feature: Feature
    rows: Int[np.ndarray, " m"] | None = None

    @property
    def shape(self) -> tuple[int, int]:
        """Number of samples and of features."""
        n, k = self.stored.shape
        return n if self.rows is None else len(self.rows), k

    def __getitem__(self, part: slice) -> Float[np.ndarray, "n k"]:
        x = take(self.stored, part if self.rows is None else self.rows[part])
        return x if self.feature == "activations" else latent_features(x)


def features_of(
    latents: LatentsReader,
    split: str,
    layer: str,
    pool: str,
    feature: Feature = "activations",
    rows: Int[np.ndarray, " m"] | None = None,
) -> Features:
    """Pooled activations, or relevances as shares, of all samples of a split or of some; nothing is read yet."""
    key = f"activations/{layer}/{pool}" if feature == "activations" else f"relevances/{layer}/sum"
    return Features(latents.stored(split, key), feature, rows)


def scores_of(cav: Cav, features: Features) -> Float[np.ndarray, " n"]:
    """Bias scores of all samples, read block by block."""
    return np.concatenate([cav.scores(x) for _, x in blocks(features)])


def bias_scores(latents: LatentsReader, cavs: Cavs, splits: Iterable[str]) -> pd.DataFrame:
    """Bias scores of all samples: sample_id, split, class and a column `<layer>/<kind>` a CAV, positive = artifact."""
    tables = []
    for split in splits:
        columns = {c.name: scores_of(c, features_of(latents, split, c.layer, c.pool, c.feature)) for c in cavs}
        tables.append(pd.concat([sample_table(latents, (split,)), pd.DataFrame(columns)], axis=1))
    return pd.concat(tables, ignore_index=True)


def retrieval_metrics(
    latents: LatentsReader,
    cavs: Cavs,
    artifact_labels: pd.DataFrame,
    truth: pd.DataFrame | None,
    seed: int,
    n_boot: int = N_BOOT,
    baselines: Sequence[str] = ("neuron",),
) -> pd.DataFrame:
    """AUROC, average precision, Kendall's tau and separation of the bias scores of each CAV and of the baselines.

    `val/biased/…` judges by the reviewed validation labels and serves selection (`train/biased/…`, in sample, where
    those lack a side; neither, and no baseline, where no labels have both); `test/biased/…` judges all test samples by
    the truth, where it is known. Baselines are chosen with their sign by average precision on the same samples that
    serve selection. A CAV sees its own pooling, baselines
    that of the layer's first CAV. Separation is the distance of the two means in pooled standard deviations.

    Args:
        latents: of the biased splits.
        cavs: of `fit_cavs`.
        artifact_labels: of `review.refine_labels`.
        truth: sample_id and artifact of biased test, or None.
        seed: the run's seed, for the intervals and random directions.
        n_boot: bootstrap replicates.
        baselines: of `cav.BASELINES`.

    Returns:
        `RETRIEVAL_COLUMNS`; `neuron` is the number of the chosen neuron or direction and `sign` its sign, -1 and 0 for
        CAVs; `feature` is what is scored. Empty where there are no CAVs.
    """
    rows: list[tuple] = []
    selection = _selection(artifact_labels)
    judged = selection + ([("test", truth)] if truth is not None else [])
    for layer, feature in dict.fromkeys((cav.layer, cav.feature) for cav in cavs):
        ours = [cav for cav in cavs if (cav.layer, cav.feature) == (layer, feature)]
        train = features_of(latents, "train", layer, ours[0].pool, feature)[:]
        chosen = {name: Baseline(name, train, seed, layer) for name in baselines if selection}
        for split, said in judged:
            places, there = rows_of(latents.sample_ids(split), said["sample_id"].to_numpy())
            artifact = said["artifact"].to_numpy(bool)[there]
            seen = {
                pool: np.asarray(features_of(latents, split, layer, pool, feature, places)[:], np.float64)
                for pool in {cav.pool for cav in ours}
            }
            for cav in ours:
                subject = (layer, cav.kind, feature, -1, 0)
                rows += _metric_rows(subject, split, cav.scores(seen[cav.pool]), artifact, seed, n_boot)
            x = seen[ours[0].pool]
            for name, baseline in chosen.items():
                subject = (layer, name, feature, *baseline.choose(x, artifact))
                rows += _metric_rows(subject, split, baseline.scores(x), artifact, seed, n_boot)
    return pd.DataFrame(rows, columns=list(RETRIEVAL_COLUMNS))


def choose_cav(metrics: pd.DataFrame) -> tuple[str, str] | None:
    """Layer and kind of the CAV that finds the artifact best on validation; None where there are no CAVs.

    Best average precision, then AUROC, then separation of the two groups; no test number is looked at, and directions
    of relevances, which nothing later can use, are left out.

    Args:
        metrics: of `retrieval_metrics`.
    """
    cavs = metrics[~metrics["kind"].isin(BASELINES) & (metrics["feature"] == "activations")]
    return None if cavs.empty else best_subject(cavs)


def best_subject(metrics: pd.DataFrame) -> tuple[str, str]:
    """Layer and kind with the best metrics on the samples that serve selection, by the rule of `choose_cav`.

    Args:
        metrics: of `retrieval_metrics`, of one feature; not empty.

    Raises:
        InputError: no rows of samples that serve selection.
    """
    selection = [split for split in ("val", "train") if metrics["metric"].str.startswith(f"{split}/").any()]
    if not selection:
        raise InputError("The metrics parameter of choose_cav must hold validation rows. Got test rows alone.")
    names = [f"{selection[0]}/biased/{name}" for name in ("average_precision", "auroc", "separation")]
    table = metrics.pivot_table(index=["layer", "kind"], columns="metric", values="value", sort=False, dropna=False)
    layer, kind = table[names].round(6).sort_values(names, ascending=False, kind="stable").index[0]
    return str(layer), str(kind)


def _selection(artifact_labels: pd.DataFrame) -> list[tuple[str, pd.DataFrame]]:
    """Split and labels that vectors and baselines are chosen by; none where no labels have both sides."""
    val = artifact_labels[artifact_labels["split"] == "val"]
    tried = [("val", val), ("train", fitted_samples(artifact_labels))]
    return [(split, labels) for split, labels in tried if labels["artifact"].nunique() == 2][:1]


def _metric_rows(
    subject: tuple, split: str, scores: np.ndarray, artifact: np.ndarray, seed: int, n_boot: int
) -> list[tuple]:
    ranking = Ranking.of(scores, artifact)
    resamples = Resamples(artifact, n_boot, seed)
    statistics = {
        "auroc": ranking.auroc,
        "average_precision": ranking.average_precision,
        "kendall_tau": ranking.kendall_tau,
        "separation": lambda weights: _separations(scores, artifact, weights),
    }
    return [
        (*subject, f"{split}/biased/{name}", *bootstrap(statistic, resamples), len(scores))
        for name, statistic in statistics.items()
    ]


def _separations(
    scores: Float[np.ndarray, " n"], artifact: Bool[np.ndarray, " n"], weights: Float[np.ndarray, "n b"]
) -> Float[np.ndarray, " b"]:
    """Separation of every weighting; NaN where a group is empty or nothing varies."""
    with np.errstate(invalid="ignore", divide="ignore"):
        means, variances = [], []
        for rows in (~artifact, artifact):
            total = weights[rows].sum(0)
            mean = scores[rows] @ weights[rows] / total
            means.append(mean)
            variances.append(np.maximum((scores[rows] ** 2) @ weights[rows] / total - mean**2, 0))
        spread = np.sqrt((variances[0] + variances[1]) / 2)
        return np.where(spread > 0, (means[1] - means[0]) / spread, np.nan)
