"""Nodes of sample_retrieval."""

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from xai_robustness.attribution.latents import Latents
from xai_robustness.concepts.cav import Cavs
from xai_robustness.concepts.params import RetrievalParams
from xai_robustness.concepts.refinement import (
    CURVE_COLUMNS,
    ReportSet,
    effort_curves,
    label_effort,
    suspect_rows,
    whitenings,
)
from xai_robustness.concepts.retrieval import bias_scores, choose_cav, fit_cavs, retrieval_metrics
from xai_robustness.concepts.review import propose_samples, refine_labels, review_suspects
from xai_robustness.concepts.samples import sample_table
from xai_robustness.datasets.base import ImageSet, rows_of_ids
from xai_robustness.figures.retrieval import (
    RETRIEVED,
    comparison,
    effort_figure,
    quantile_rows,
    retrieved_figure,
    score_figure,
)
from xai_robustness.figures.style import blank

NONE = "No artifact was confirmed."


def review_samples(
    suspect_list: pd.DataFrame,
    suspect_list_members: pd.DataFrame,
    latents: Latents,
    artifact_truth: pd.DataFrame,
    params: RetrievalParams,
    seed: int,
) -> pd.DataFrame:
    """Look at members of the suspects: the oracle within its budget, or a person's table."""
    samples = sample_table(latents, ("train", "val"))
    return review_suspects(suspect_list, suspect_list_members, samples, artifact_truth, params.review, seed)


def propagate_labels(
    reviewed_labels: pd.DataFrame,
    suspect_list: pd.DataFrame,
    suspect_list_members: pd.DataFrame,
    latents: Latents,
    artifact_truth: pd.DataFrame,
    params: RetrievalParams,
) -> pd.DataFrame:
    """Label all training samples from the reviewed ones."""
    return refine_labels(reviewed_labels, suspect_list, suspect_list_members, latents, params.review, artifact_truth)


def propose_next(
    artifact_labels: pd.DataFrame,
    suspect_list: pd.DataFrame,
    suspect_list_members: pd.DataFrame,
    latents: Latents,
    params: RetrievalParams,
) -> pd.DataFrame:
    """The next samples for a person to look at, with an empty column to fill in."""
    return propose_samples(artifact_labels, suspect_list, suspect_list_members, latents, params.review)


def measure_effort(
    suspect_list: pd.DataFrame,
    suspect_list_members: pd.DataFrame,
    latents: Latents,
    report_latents: Latents,
    artifact_truth: pd.DataFrame,
    images_report: dict[str, ImageSet],
    params: RetrievalParams,
    seed: int,
) -> tuple[pd.DataFrame, pd.DataFrame, Figure]:
    """How many labels each strategy needs, and how many random labelling needs; a report that nothing else reads."""
    effort = params.effort
    curves = pd.DataFrame(columns=list(CURVE_COLUMNS))
    test = images_report["test/biased"]
    several = suspect_list[suspect_list["kind"] != "sample"].sort_values("place")
    if effort.repeats and len(several):
        train = sample_table(latents, ("train",))
        scope = np.flatnonzero(train["class"] == several["class"].iloc[0])
        ids = train["sample_id"].to_numpy()[scope]
        artifact = artifact_truth.set_index("sample_id")["artifact"].loc[ids].to_numpy(bool)
        features, reported = {}, {}
        for layer, whitened in whitenings(latents).items():
            features[layer] = whitened(latents.activations("train", layer, "max")[scope])
            reported[layer] = whitened(report_latents.activations("test", layer, "max"))
        known = pd.Series(test.has_artifact, test.sample_ids).loc[report_latents.sample_ids("test")].to_numpy(bool)
        (suspects, *_) = suspect_rows(suspect_list, suspect_list_members, ids)
        curves = effort_curves(features, artifact, suspects, ReportSet(reported, known), effort, seed)
    return curves, label_effort(curves, effort.target, effort.max_labels), effort_figure(curves, effort.target)


def fit_concept_vectors(
    artifact_labels: pd.DataFrame, latents: Latents, params: RetrievalParams, study: str, seed: int
) -> Cavs:
    """Fit every kind of vector in every layer."""
    return fit_cavs(latents, artifact_labels, params.cavs, study, seed)


def choose_vector(latents: Latents, cavs: Cavs, artifact_labels: pd.DataFrame, seed: int) -> dict[str, str]:
    """Layer and kind of the vector that finds the artifact best on reviewed validation samples; empty without one.

    Where no labels tell given vectors apart, the first of them. A vector without a positive entry is passed over where
    there are others: activations behind a ReLU times such a vector are nowhere positive, so it has no heatmap and no
    mask.
    """
    usable = cavs.localizing()
    chosen = choose_cav(retrieval_metrics(latents, usable, artifact_labels, None, seed, n_boot=1, baselines=()))
    chosen = chosen or next(((cav.layer, cav.kind) for cav in usable if cav.feature == "activations"), None)
    return {"layer": chosen[0], "kind": chosen[1]} if chosen else {}


def score_samples(
    latents: Latents,
    report_latents: Latents,
    cavs: Cavs,
    artifact_labels: pd.DataFrame,
    images_report: dict[str, ImageSet],
    params: RetrievalParams,
    seed: int,
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Bias scores of all samples, and how well they find the artifact on validation and test samples."""
    test = images_report["test/biased"]
    truth = pd.DataFrame({"sample_id": test.sample_ids, "artifact": test.has_artifact})
    both = latents.joined(report_latents)
    scores = bias_scores(both, cavs, ("train", "val", "test"))
    truths = pd.concat([artifact_labels[["sample_id", "artifact"]], truth], ignore_index=True)
    scores = scores.merge(truths, on="sample_id", how="left")
    return scores, retrieval_metrics(both, cavs, artifact_labels, truth, seed, baselines=params.cavs.baselines)


def plot_retrieval(
    bias_scores: pd.DataFrame,
    retrieval_metrics: pd.DataFrame,
    chosen_cav: dict[str, str],
    images_report: dict[str, ImageSet],
) -> tuple[Figure, Figure, Figure]:
    """Draw the chosen vector's scores on test samples, the samples that it puts first, and retrieval by kind."""
    test = bias_scores[bias_scores.split == "test"]
    by_kind = comparison(retrieval_metrics[retrieval_metrics.metric.str.startswith("test/")])
    if not chosen_cav:
        none = np.zeros(0)
        return score_figure(none, none.astype(bool), NONE), blank(NONE), by_kind
    name = "{layer}/{kind}".format(**chosen_cav)
    scores, artifact = test[name].to_numpy(float), test.artifact.to_numpy(bool)
    images = images_report["test/biased"]
    ids = test.sample_id.to_numpy(int)
    shown = {has: quantile_rows(scores, artifact == has) for has in (False, True)}
    pictures = {has: images.pictures_of(ids[at]) for has, at in shown.items()}
    best = np.argsort(-np.nan_to_num(scores, nan=-np.inf), kind="stable")[:RETRIEVED]
    first = retrieved_figure(
        images.pictures_of(ids[best]),
        scores[best],
        artifact[best],
        images.info.names_of(images.labels[rows_of_ids(images.sample_ids, ids[best])]),
        f"First of {len(test)} test samples by {name}",
    )
    return score_figure(scores, artifact, f"Bias scores of test samples, {name}", shown, pictures), first, by_kind
