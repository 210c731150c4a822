"""Nodes of reveal."""

from pathlib import Path

import numpy as np
import pandas as pd
import zarr
from matplotlib.figure import Figure

from xai_robustness.attribution.latents import Latents
from xai_robustness.chunks import ArraysJob
from xai_robustness.concepts.answers import read_table
from xai_robustness.concepts.image_properties import ASSOCIATION_COLUMNS, image_properties, label_associations
from xai_robustness.concepts.neuron_heatmaps import Explained, NeuronHeatmaps, first_neurons, heatmaps_job
from xai_robustness.concepts.neuron_views import checked_layers, marked_neurons, neuron_references, rank_neurons
from xai_robustness.concepts.prototypes import (
    CONCEPT_COLUMNS,
    PROTOTYPE_COLUMNS,
    concept_table,
    fit_prototypes,
    prototype_table,
)
from xai_robustness.concepts.samples import sample_table
from xai_robustness.concepts.separability import latent_features
from xai_robustness.concepts.spectral import RevealParams, embedding_table, find_suspects, laid_out
from xai_robustness.concepts.suspect_evaluation import evaluate_suspects
from xai_robustness.concepts.synthetic import SyntheticReferences, synthesis_job
from xai_robustness.concepts.transplant_list import list_suspects as one_list
from xai_robustness.concepts.virelay import VirelayJob
from xai_robustness.datasets.base import ImageSet, take
from xai_robustness.figures.reveal import embedding_figure, prototype_figure
from xai_robustness.models.saved import Classifier
from xai_robustness.pipelines.reveal.concepts import draw_glocal, draw_neurons, draw_transplants

THUMBNAILS = 6


def reveal_suspects(
    latents: Latents, params: RevealParams, seed: int
) -> tuple[pd.DataFrame, pd.DataFrame, pd.DataFrame]:
    """Embed, cluster and rank the relevances of every class and view."""
    suspects, members, embeddings = find_suspects(latents, params, seed)
    return suspects, members, embedding_table(embeddings)


def lay_out(spectral_embeddings: pd.DataFrame, params: RevealParams, seed: int) -> pd.DataFrame:
    """Bring the embeddings to two dimensions, for figures and the review page."""
    return laid_out(spectral_embeddings, params.layout, seed)


def list_suspects(
    suspects: pd.DataFrame,
    suspect_members: pd.DataFrame,
    latents: Latents,
    classifier: Classifier,
    images_fit: dict[str, ImageSet],
    params: RevealParams,
    seed: int,
    device: str,
) -> tuple[pd.DataFrame, pd.DataFrame, pd.DataFrame]:
    """Put clusters, sets of neurons and samples into one list, by p-values, and see which of them travel."""
    images = images_fit["train/biased"]
    found = one_list(suspects, suspect_members, latents, classifier.model, images, params, seed, device)
    return found.suspects, found.members, found.neurons


def plot_transplants(
    suspect_list: pd.DataFrame,
    suspect_list_members: pd.DataFrame,
    latents: Latents,
    images_fit: dict[str, ImageSet],
    params: RevealParams,
    seed: int,
) -> Figure:
    """Draw images of the first suspects as they exchanged their most relevant part with others of the class."""
    images, area = images_fit["train/biased"], params.transplant.area
    return draw_transplants(suspect_list, suspect_list_members, latents, images, area, seed)


def compare_properties(images_fit: dict[str, ImageSet]) -> pd.DataFrame:
    """Which simple properties of the training images already tell their labels; needs no network; none for signals."""
    images = images_fit["train/biased"]
    if images.is_signal:
        return pd.DataFrame(columns=list(ASSOCIATION_COLUMNS))
    steps = range(0, len(images), 512)
    properties = image_properties(take(images.images, slice(start, start + 512)) for start in steps)
    return label_associations(properties, images.labels)


def find_prototypes(latents: Latents, params: RevealParams, seed: int) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Typical strategies of each class in the last inspected layer, from correctly predicted training samples."""
    layer = (params.layers or latents.layers)[-1]
    classes, ids = latents.targets("train"), latents.sample_ids("train")
    logits, labels = latents.logits("train"), latents.labels("train")
    if labels.ndim == 1:
        right = logits.argmax(1) == classes
    else:
        right = ((logits > 0) & (labels > 0))[np.arange(len(classes)), classes]
    features = latent_features(latents.relevances("train", layer, "sum"))
    samples, concepts = [pd.DataFrame(columns=list(PROTOTYPE_COLUMNS))], [pd.DataFrame(columns=list(CONCEPT_COLUMNS))]
    for c in np.unique(classes):
        own = (classes == c) & right
        if params.prototypes and own.sum() >= 2 * params.prototypes:
            found = fit_prototypes(features[own], seed, params.prototypes)
            samples.append(prototype_table(found, ids[own], int(c), layer))
            concepts.append(concept_table(found, features[own], ids[own], int(c), layer))
    return pd.concat(samples[1:] or samples, ignore_index=True), pd.concat(concepts[1:] or concepts, ignore_index=True)


def plot_prototypes(
    prototypes: pd.DataFrame, prototype_concepts: pd.DataFrame, images_fit: dict[str, ImageSet]
) -> Figure:
    """Draw the nearest samples and the channels of each prototype of each class."""
    images = images_fit["train/biased"]
    pictures, references = (images.pictures_of(t["sample_id"].to_numpy(int)) for t in (prototypes, prototype_concepts))
    return prototype_figure(prototypes, pictures, prototype_concepts, references, images.info.class_names)


def score_suspects(
    suspect_list: pd.DataFrame, suspect_list_members: pd.DataFrame, artifact_truth: pd.DataFrame, latents: Latents
) -> pd.DataFrame:
    """Precision and recall of every suspect where the truth is known; reported, never used."""
    samples = sample_table(latents, ("train",))  # the class that was explained: one of several labels of a sample
    truth = samples.merge(artifact_truth[["sample_id", "artifact"]], on="sample_id")
    return evaluate_suspects(suspect_list, suspect_list_members, truth)


def synthesize_references(
    latents: Latents,
    classifier: Classifier,
    images_fit: dict[str, ImageSet],
    params: RevealParams,
    seed: int,
    device: str,
) -> ArraysJob:
    """Make images for every neuron where these are to stand for them; otherwise nothing."""
    own = params.neurons
    layers = checked_layers(latents, own) if own.references == "synthetic" else ()
    sizes = {layer: latents.stored("train", f"activations/{layer}/mean").shape[1] for layer in layers}
    shape = images_fit["train/biased"].image_shape
    return synthesis_job(classifier.model, sizes, own.count, shape, seed, device)


def order_neurons(
    latents: Latents, synthetic_references: zarr.Group, params: RevealParams, seed: int
) -> tuple[pd.DataFrame, pd.DataFrame, pd.DataFrame]:
    """Rank the neurons, find their reference samples, and keep those that a person has ticked."""
    own = params.neurons
    ticked = read_table(Path(own.spurious)) if own.spurious else None
    marked = marked_neurons(ticked, latents, Path(own.spurious or "").name)
    ranking = rank_neurons(latents, own, params.layout, seed, SyntheticReferences(synthetic_references))
    return ranking, neuron_references(latents, own), marked


def explain_neurons(
    neuron_ranking: pd.DataFrame,
    neuron_references: pd.DataFrame,
    spurious_neurons: pd.DataFrame,
    latents: Latents,
    classifier: Classifier,
    images_fit: dict[str, ImageSet],
    params: RevealParams,
    device: str,
) -> ArraysJob:
    """Conditional heatmaps of the ticked and the first neurons on their reference samples."""
    own = params.neurons
    neurons = first_neurons(neuron_ranking, spurious_neurons, max(own.shown, own.explained))
    samples = Explained(latents, classifier.model, images_fit["train/biased"], device)
    return heatmaps_job(neurons, neuron_references, samples)


def plot_neurons(
    neuron_ranking: pd.DataFrame,
    neuron_references: pd.DataFrame,
    spurious_neurons: pd.DataFrame,
    neuron_heatmaps: zarr.Group,
    synthetic_references: zarr.Group,
    suspect_list: pd.DataFrame,
    suspect_list_members: pd.DataFrame,
    latents: Latents,
    classifier: Classifier,
    images_fit: dict[str, ImageSet],
    params: RevealParams,
    device: str,
) -> tuple[Figure, Figure]:
    """Draw what the first neurons answer to, and take the most typical sample of the first suspect apart."""
    images, own_maps = images_fit["train/biased"], NeuronHeatmaps(neuron_heatmaps)
    samples = Explained(latents, classifier.model, images, device)
    made = SyntheticReferences(synthetic_references)
    gallery = draw_neurons(neuron_ranking, neuron_references, spurious_neurons, own_maps, made, images, params.neurons)
    first = suspect_list.sort_values("place")["name"].iloc[:1]
    own = suspect_list_members.loc[suspect_list_members["name"].isin(first), "sample_id"]
    typical = int(own.iloc[0]) if len(own) else None
    return gallery, draw_glocal(typical, neuron_references, latents, samples, params.neurons)


def export_virelay(
    suspects: pd.DataFrame,
    suspect_members: pd.DataFrame,
    latents: Latents,
    images_fit: dict[str, ImageSet],
    params: RevealParams,
    seed: int,
) -> VirelayJob:
    """Embeddings, clusterings and heatmaps as a project that ViRelAy opens; an empty folder unless asked for."""
    return VirelayJob(latents, images_fit["train/biased"], suspects, suspect_members, params, seed)


def plot_embedding(
    suspect_list: pd.DataFrame,
    suspect_list_members: pd.DataFrame,
    embeddings: pd.DataFrame,
    images_fit: dict[str, ImageSet],
    artifact_truth: pd.DataFrame,
) -> Figure:
    """Draw the class of the first suspect that has samples in its embedding, suspects in colour, beside their images.

    Shown are the clusters of that view and what is joined in that class.
    """
    listed = suspect_list[suspect_list["kind"].isin(["cluster", "joined"])].sort_values("place")
    listed = listed[listed["class"].isin(embeddings["class"])]
    if listed.empty:
        none = np.zeros(0, int)
        return embedding_figure(np.zeros((0, 2)), none, {}, np.zeros((0, 1, 1, 3), np.uint8), none)
    points = embeddings[embeddings["class"] == listed["class"].iloc[0]]
    points = points[points["view"] == points["view"].iloc[0]]  # the first, which `laid_out` lays out
    c, view = points[["class", "view"]].iloc[0]
    same = listed[(listed["class"] == c) & ((listed["view"] == view) | (listed["kind"] == "joined"))]
    ids = points["sample_id"].to_numpy()
    members = {
        int(one["place"]): suspect_list_members.loc[suspect_list_members["name"] == one["name"], "sample_id"].to_numpy()
        for _, one in same.iterrows()
    }
    groups, shown = np.full(len(points), -1), []
    for place in same.sort_values("size", ascending=False)["place"]:  # smaller suspects stay visible
        groups[np.isin(ids, members[place])] = place
    for place, own in members.items():
        own = own[np.isin(own, ids[groups == place])][:THUMBNAILS]
        shown += [int(np.flatnonzero(ids == member)[0]) for member in own]
    images = images_fit["train/biased"]
    names = {int(one["place"]): f"{one['name']}, place {one['place']}" for _, one in same.iterrows()}
    title = f"{images.info.class_names[int(c)]}, view {view}"
    truth = artifact_truth.set_index("sample_id").artifact.loc[ids].to_numpy(bool)
    layout, thumbnails = points[["x", "y"]].to_numpy(), images.pictures_of(ids[shown])
    return embedding_figure(layout, groups, names, thumbnails, np.array(shown), truth if truth.any() else None, title)
