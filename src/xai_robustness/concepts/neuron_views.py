"""The model's perspective: which neurons of a layer stand apart, and which samples show what they answer to."""

import logging
from typing import Annotated, Literal

import numpy as np
import pandas as pd
from jaxtyping import Bool, Float
from pydantic import Field

from xai_robustness.concepts.dora import activation_vectors, directions_of, top_references
from xai_robustness.concepts.embedding import two_dimensional
from xai_robustness.concepts.outliers import find_outliers, outlier_factor
from xai_robustness.concepts.samples import LatentsReader
from xai_robustness.concepts.separability import latent_features, principal_components
from xai_robustness.concepts.synthetic import SyntheticReferences
from xai_robustness.randomness import numpy_rng
from xai_robustness.types import InputError, Params, UsedBy

log = logging.getLogger(__name__)

RANKING_COLUMNS = ("layer", "neuron", "rank", "dora", "dora_p", "dora_q", "relevance_pattern") + (
    "activation_pattern",
    "pattern_class",
    "mean_relevance",
    "x",
    "y",
    "converged",
)
REFERENCE_COLUMNS = ("layer", "neuron", "by", "place", "sample_id", "score")
MARKED_COLUMNS = ("model", "layer", "neuron")


class NeuronParams(Params):
    """Which neurons are looked at, and what is shown of them."""

    layers: tuple[str, ...] = Field((), description="layers whose neurons are ranked; empty: the last one inspected")
    references: Literal["relevance", "activation", "synthetic"] = Field(
        "relevance", description="what stands for a neuron in DORA: its samples, or images made for it (slow)"
    )
    count: int = Field(6, ge=1, le=40, description="reference samples of each neuron")
    n_null: Annotated[int, UsedBy("rank_neurons")] = Field(
        9, ge=1, le=200, description="structureless layers behind the p-value of an outlier"
    )
    rank_by: Annotated[Literal["dora", "relevance_pattern", "activation_pattern"], UsedBy("rank_neurons")] = Field(
        "dora", description="what ranks them"
    )
    shown: Annotated[int, UsedBy("explain_neurons", "plot_neurons")] = Field(
        4, ge=0, description="neurons of each layer in the gallery; 0: no gallery"
    )
    explained: Annotated[int, UsedBy("explain_neurons")] = Field(
        24, ge=0, description="neurons of each layer that have conditional heatmaps in the review page"
    )
    concepts: Annotated[int, UsedBy("plot_neurons")] = Field(
        3, ge=1, description="channels of the figure of one sample"
    )
    spurious: Annotated[str | None, UsedBy("rank_neurons")] = Field(
        None, description="table of neurons that a person ticked: model, layer, neuron"
    )


def rank_neurons(
    latents: LatentsReader,
    params: NeuronParams,
    layout: str,
    seed: int,
    synthetic: SyntheticReferences | None = None,
) -> pd.DataFrame:
    """Neurons of each layer by how far they stand apart from the others of it.

    `dora` is the local outlier factor among the extreme-activation distances [Bykov2023], `dora_p` its p-value against
    the factors of `n_null` layers of Gaussian vectors of the same covariance, and `dora_q` that adjusted for the number
    of living neurons M of the layer [Benjamini1995]. The p-value is 1 / (1 + n_null M) at least, so that where few
    neurons f stand apart, their q-value is about 1 / (n_null f) at least: one alone gets below 0.05 with an n_null of
    20 or more. The patterns are the relevances (or activations) of a neuron over the
    samples of a class, scaled to length 1, so that distances are those of the cosine [Achtibat2023]; their factor is
    the largest over the classes, `pattern_class` the class of the relevance pattern's. Silent neurons, whose activation
    or reference score is 0 on every sample, stand apart from nothing: they are left out, have NaN for all of these and
    for x and y, and come last. `converged` is the share of the images made for a neuron that settled, NaN where samples
    stand for it.

    Args:
        latents: of the biased train split.
        params: see `NeuronParams`.
        layout: "tsne", "umap" or "eigenvectors", for the points x and y.
        seed: the run's seed.
        synthetic: images made for the neurons, where these stand for them.

    Returns:
        `RANKING_COLUMNS`, rank 1 first, layer by layer.

    Raises:
        InputError: a layer that the latents do not have.
    """
    tables = []
    for layer in checked_layers(latents, params):
        activations = latents.activations("train", layer, "mean")
        vectors, alive, converged = _vectors(latents, layer, activations, params, synthetic)
        directions = directions_of(vectors[alive])
        rng = numpy_rng(seed, "neurons", layer)
        found = find_outliers(directions, rng, n_null=params.n_null) if len(directions) >= 3 else None
        points = _laid_out(directions, layout, seed)
        relevance, classes = _pattern(latents.relevances("train", layer, "sum"), latents.targets("train"))
        table = pd.DataFrame(
            {
                "layer": layer,
                "neuron": np.arange(len(vectors)),
                "rank": 0,
                "dora": _of_all(found.factor, alive) if found else np.nan,
                "dora_p": _of_all(found.p_value, alive) if found else np.nan,
                "dora_q": _of_all(found.q_value, alive) if found else np.nan,
                "relevance_pattern": relevance,
                "activation_pattern": _pattern(activations, latents.targets("train"))[0],
                "pattern_class": classes,
                "mean_relevance": latent_features(latents.relevances("train", layer, "sum")).mean(0),
                "x": _of_all(points[:, 0], alive),
                "y": _of_all(points[:, 1], alive),
                "converged": converged,
            }
        )
        table = table.sort_values(params.rank_by, ascending=False, kind="stable", na_position="last")
        tables.append(table.assign(rank=np.arange(1, len(table) + 1)))
    return pd.concat(tables, ignore_index=True)[list(RANKING_COLUMNS)]


def _laid_out(directions: Float[np.ndarray, "m k"], layout: str, seed: int) -> Float[np.ndarray, "m 2"]:
    """Points of the neurons by their distances [Bykov2023]; principal components stand for the eigenvectors."""
    if len(directions) < 8:
        return np.zeros((len(directions), 2))
    if layout == "eigenvectors":
        return principal_components(directions, 2)[:, ::-1]
    return two_dimensional(directions, layout, seed, metric="euclidean")


def _of_all(values: Float[np.ndarray, " m"], alive: Bool[np.ndarray, " k"]) -> Float[np.ndarray, " k"]:
    """Values of the living neurons among all of them, NaN for the rest."""
    among = np.full(len(alive), np.nan)
    among[alive] = values
    return among


def checked_layers(latents: LatentsReader, params: NeuronParams) -> tuple[str, ...]:
    """The layers asked for, or the last one inspected; raises InputError that lists those there are."""
    if unknown := [layer for layer in params.layers if layer not in latents.layers]:
        raise InputError(
            f"The reveal.neurons.layers parameter must name layers of the latents, which are "
            f"{', '.join(latents.layers)}. Got '{unknown[0]}' instead."
        )
    return params.layers or latents.layers[-1:]


def _vectors(
    latents: LatentsReader,
    layer: str,
    activations: Float[np.ndarray, "n k"],
    params: NeuronParams,
    synthetic: SyntheticReferences | None,
) -> tuple[Float[np.ndarray, "k k"], Bool[np.ndarray, " k"], Float[np.ndarray, " k"]]:
    """Representation activation vectors, whether a neuron ever speaks, and the share of its images that converged."""
    if params.references != "synthetic":
        scores = _scores(latents, layer, params.references)
        vectors = activation_vectors(activations, top_references(scores, params.count))
        return vectors, (scores != 0).any(0) & (activations != 0).any(0), np.full(len(vectors), np.nan)
    if synthetic is None:
        raise InputError(
            "The synthetic parameter of rank_neurons must be given for synthetic references. Got None instead."
        )
    vectors = synthetic.vectors(layer)
    return vectors, np.diag(vectors) != 0, synthetic.converged(layer).mean(1)


def _scores(latents: LatentsReader, layer: str, by: str) -> Float[np.ndarray, "n k"]:
    if by == "relevance":
        return latent_features(latents.relevances("train", layer, "sum"))
    return latents.activations("train", layer, "max")


def _pattern(values: Float[np.ndarray, "n k"], classes: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Largest local outlier factor (K,) of each neuron's pattern over the classes, and that class (-1: silent)."""
    best, where = np.full(values.shape[1], np.nan), np.full(values.shape[1], -1)
    for c in np.unique(classes):
        x = np.asarray(values[classes == c], np.float64).T
        alive = np.flatnonzero(np.abs(x).max(1) > 0)
        if len(alive) < 3:
            continue
        factor = outlier_factor(x[alive] / np.linalg.norm(x[alive], axis=1, keepdims=True))
        higher = ~(factor <= best[alive])
        best[alive[higher]], where[alive[higher]] = factor[higher], c
    return best, where


def neuron_references(latents: LatentsReader, params: NeuronParams) -> pd.DataFrame:
    """The samples with the most relevance (RelMax) and the most activation (ActMax) of every neuron.

    Relevances are shares of their sample's absolute relevance in the layer, summed over positions; activations are
    maxima over positions [Achtibat2023].

    Returns:
        `REFERENCE_COLUMNS`: `by` is relevance or activation, `place` counts from 0.
    """
    tables = []
    ids = latents.sample_ids("train")
    for layer in checked_layers(latents, params):
        for by in ("relevance", "activation"):
            scores = _scores(latents, layer, by)
            top = top_references(scores, params.count)
            k, count = top.shape
            neuron = np.repeat(np.arange(k), count)
            columns = {"layer": layer, "neuron": neuron, "by": by, "place": np.tile(np.arange(count), k)}
            columns |= {"sample_id": ids[top.ravel()], "score": scores[top.ravel(), neuron]}
            tables.append(pd.DataFrame(columns))
    return pd.concat(tables, ignore_index=True)[list(REFERENCE_COLUMNS)]


def marked_neurons(table: pd.DataFrame | None, latents: LatentsReader, name: str = "spurious") -> pd.DataFrame:
    """Neurons that a person ticked in the classifier in use, checked against its layers.

    Rows of other classifiers are passed over with a warning: a number means another neuron in each.

    Args:
        table: `MARKED_COLUMNS`, or None.
        latents: of the classifier in use.
        name: what the table is called in messages.

    Returns:
        `MARKED_COLUMNS`, each neuron once.

    Raises:
        InputError: missing columns, or neurons that no layer has.
    """
    if table is None:
        return pd.DataFrame(columns=list(MARKED_COLUMNS))
    if missing := [column for column in MARKED_COLUMNS if column not in table]:
        raise InputError(f"The table {name} must have the columns {', '.join(MARKED_COLUMNS)}. It lacks {missing}.")
    ours = table["model"].astype(str) == latents.model
    if others := int((~ours).sum()):
        log.warning(
            "%d of %d neurons in %s are of other classifiers than the one in use, %s, and are passed over. They stay "
            "in the file; tick neurons of this one in the review page.",
            *(others, len(table), name, latents.model),
        )
    table = table[ours]
    for layer, own in table.groupby("layer"):
        size = latents.activations("train", str(layer), "max").shape[1] if layer in latents.layers else 0
        bad = [k for k in own["neuron"] if not (float(k).is_integer() and 0 <= k < size)]
        if bad:
            raise InputError(
                f"The neurons in {name} must be channels of the layers {', '.join(latents.layers)}. "
                f"Got {bad[0]} of '{layer}', which has {size}."
            )
    return table[list(MARKED_COLUMNS)].drop_duplicates(ignore_index=True).astype({"neuron": int})
