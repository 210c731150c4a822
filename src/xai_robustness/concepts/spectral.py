"""Reveal: suspects are clusters of samples of one class whose relevances stand apart from the rest (SpRAy)."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Annotated, Literal

import numpy as np
import pandas as pd
from pydantic import Field, field_validator

from xai_robustness.concepts.embedding import (
    CLUSTERINGS,
    eigengap,
    groups_of,
    spectral_embedding,
    two_dimensional,
)
from xai_robustness.concepts.neuron_views import NeuronParams
from xai_robustness.concepts.samples import LatentsReader
from xai_robustness.concepts.separability import (
    fisher_projection,
    gaussian_null,
    latent_features,
    principal_components,
    separation,
)
from xai_robustness.concepts.significance import extreme_p, reference_of_others
from xai_robustness.concepts.spray import INPUT_VARIANTS
from xai_robustness.concepts.suspicion import SuspicionParams, TransplantParams
from xai_robustness.datasets.base import take
from xai_robustness.randomness import numpy_rng
from xai_robustness.types import Params, UsedBy

SUSPECT_COLUMNS = ("suspect", "rank", "class", "view", "size", "score", "separation", "null_separation") + (
    "eigengap",
    "p_value",
    "reference",
    "families",
)
MEMBER_COLUMNS = ("suspect", "sample_id", "outlier_score")

FINE = 12
"""Clusters that are tried by transplants beside the numbers of the search."""


SEARCH = UsedBy("reveal_suspects", "list_suspects", "export_virelay", "reveal_again")
"""Mark of what every node uses that embeds and clusters the samples of a class."""
OWN_SEARCH = UsedBy("reveal_suspects", "reveal_again")
"""Mark of what the search for suspects alone uses, in the study's model and in corrected ones."""


class RevealParams(Params):
    """How suspects are searched."""

    n_neighbors: Annotated[int, SEARCH] = Field(32, ge=1, description="neighbours in the graph of samples")
    n_eigen: Annotated[int, SEARCH] = Field(32, ge=2, description="eigenvectors of the embedding")
    clusterings: Annotated[tuple[str, ...], SEARCH] = Field(
        ("kmeans",), min_length=1, description="kmeans, agglomerative, dbscan, hdbscan"
    )
    n_clusters: Annotated[tuple[int, ...], SEARCH] = Field(
        (2, 3, 4, 6, 8), description="numbers of clusters tried; the one of the eigengap is added"
    )
    min_size: Annotated[int, SEARCH] = Field(10, ge=4, description="smallest suspect, in samples")
    max_samples: Annotated[int, SEARCH] = Field(
        1000, ge=20, description="samples of a class that are embedded, drawn at random"
    )
    max_suspects: Annotated[int, OWN_SEARCH] = Field(12, ge=1, description="suspects kept")
    max_overlap: Annotated[float, OWN_SEARCH] = Field(
        0.5, ge=0, le=1, description="Jaccard index from which two suspects count as one"
    )
    views: Annotated[tuple[Literal["input", "latent"], ...], SEARCH] = Field(("input", "latent"), min_length=1)
    layers: Annotated[
        tuple[str, ...],
        UsedBy("reveal_suspects", "list_suspects", "find_prototypes", "export_virelay", "reveal_again"),
    ] = Field((), description="layers of the latent view; empty: every layer of the latents")
    n_components: Annotated[int, UsedBy("reveal_suspects", "list_suspects", "reveal_again")] = Field(
        20, ge=1, description="principal components in which separation is measured"
    )
    n_null: Annotated[int, OWN_SEARCH] = Field(
        6, ge=1, le=200, description="structureless sets that give the reference for a separation"
    )
    variant: Annotated[str, SEARCH] = Field(
        "total", description="what of the input heatmaps is compared, a variant of SpRAy"
    )
    prototypes: Annotated[int, UsedBy("find_prototypes")] = Field(
        4, ge=0, description="prototypes of each class in the last layer; 0: none"
    )
    suspicion: Annotated[SuspicionParams, UsedBy("list_suspects", "reveal_again")] = Field(
        default_factory=SuspicionParams, description="the one list of all suspects"
    )
    transplant: Annotated[TransplantParams, UsedBy("list_suspects", "plot_transplants", "reveal_again")] = Field(
        default_factory=TransplantParams, description="whether what sets a suspect apart travels with a part of it"
    )
    neurons: Annotated[
        NeuronParams, UsedBy("synthesize_references", "rank_neurons", "explain_neurons", "plot_neurons")
    ] = Field(default_factory=NeuronParams, description="the model's perspective")
    layout: Annotated[
        Literal["tsne", "umap", "eigenvectors"],
        UsedBy("lay_out", "rank_neurons", "export_virelay"),
    ] = Field("tsne", description="two-dimensional layout of the figures")
    virelay: Annotated[bool, UsedBy("export_virelay")] = Field(
        False, description="write a project that ViRelAy opens; needs h5py"
    )

    @field_validator("clusterings")
    @classmethod
    def _known(cls, names: tuple[str, ...]) -> tuple[str, ...]:
        return tuple(CLUSTERINGS.checked(name) for name in names)

    @field_validator("variant")
    @classmethod
    def _variant(cls, name: str) -> str:
        return INPUT_VARIANTS.checked(name)


@dataclass(frozen=True, eq=False)
class Embedding:
    """One class in one view.

    Attributes:
        class_index: the class.
        view: "input" or a layer.
        sample_ids: int64 (N,).
        eigenvalues: (E,), ascending.
        embedding: (N,E), rows of length 1.
    """

    class_index: int
    view: str
    sample_ids: np.ndarray
    eigenvalues: np.ndarray
    embedding: np.ndarray


@dataclass(frozen=True, eq=False)
class _Candidate:
    inside: np.ndarray
    projection: np.ndarray
    separation: float
    null: tuple[float, ...]
    embedding: Embedding
    gap: float

    @property
    def null_separation(self) -> float:
        return max(float(np.mean(self.null)), 1e-3)

    @property
    def score(self) -> float:
        return self.separation / self.null_separation

    @property
    def members(self) -> np.ndarray:
        return self.embedding.sample_ids[self.inside]


def find_suspects(
    latents: LatentsReader, params: RevealParams, seed: int
) -> tuple[pd.DataFrame, pd.DataFrame, dict[str, Embedding]]:
    """Find clusters of train samples that may share a shortcut; no truth is used.

    Each class is embedded in each view, clustered with several numbers of clusters, and every cluster gets its
    `separation` from the rest of its class. `score` is that separation in units of the best one that the same
    procedure finds in Gaussian samples of the same covariance, which have no clusters (the idea of [Liu2008]): a score
    of 1 is what chance gives; `p_value` is their tail beyond it (see `significance.extreme_p`).
    Suspects are ranked by score; one that mostly repeats a better one is left out.

    Args:
        latents: of the biased train split.
        params: see `RevealParams`.
        seed: the run's seed.

    Returns:
        Suspects (`SUSPECT_COLUMNS`, `suspect` and `rank` from 0 and 1 on; `families` is the number of classes times
        views that were searched, in each of which the best cluster was tested, kept or not), their members
        (`MEMBER_COLUMNS`, most typical first; `outlier_score` is the distance to the border with the rest, in standard
        deviations), and the embeddings of the views with a suspect by name `class_<c>/<view>`, the best one's first.
        All empty where no class has enough samples.
    """
    searched = [_candidates(*view, params, seed) for view in class_views(latents, params, seed)]
    candidates = [c for found in searched for c in found]
    largest: dict[int, float] = {}
    for c in candidates:
        largest[c.embedding.class_index] = max(c.separation, largest.get(c.embedding.class_index, 0.0))
    reference = reference_of_others(largest)
    candidates.sort(key=lambda c: (-c.score, c.inside.sum(), c.embedding.class_index, c.embedding.view))
    kept = _distinct(candidates, params)
    rows = [(*_suspect_row(i, c, reference[c.embedding.class_index]), len(searched)) for i, c in enumerate(kept)]
    suspects = pd.DataFrame(rows, columns=list(SUSPECT_COLUMNS))
    members = [_member_rows(i, c) for i, c in enumerate(kept)]
    table = pd.concat(members, ignore_index=True) if members else pd.DataFrame(columns=list(MEMBER_COLUMNS))
    shown = {f"class_{c.embedding.class_index}/{c.embedding.view}": c.embedding for c in kept}
    return suspects, table, shown


def class_views(
    latents: LatentsReader, params: RevealParams, seed: int
) -> Iterator[tuple[int, str, np.ndarray, np.ndarray]]:
    """Class, view, sample ids and features of every class with enough samples, all classes of a view in a row."""
    ids, rows = latents.sample_ids("train"), rows_of_classes(latents, params, seed)
    layers = (params.layers or latents.layers) if "latent" in params.views else ()
    for view in (("input",) if "input" in params.views else ()) + tuple(layers):
        stored = latents.stored("train", "heatmaps" if view == "input" else f"relevances/{view}/sum")
        make = INPUT_VARIANTS[params.variant] if view == "input" else latent_features
        for c, chosen in rows.items():
            if len(chosen) >= 2 * params.min_size:
                yield c, view, ids[chosen], make(take(stored, chosen))


def clusters_of_layers(
    latents: LatentsReader, params: RevealParams, seed: int
) -> Iterator[tuple[int, str, np.ndarray, float]]:
    """Every cluster of the layers: class, layer, whether a sample is inside (N,), separation.

    Beyond the search for suspects, which looks at the most separated ones, there are `FINE` clusters as well, and
    neighbourhoods as small as the smallest suspect, in which rare artifacts are not smoothed over. The samples are
    those of `rows_of_classes`.
    """
    for c, view, _, features in class_views(latents, params.model_copy(update={"views": ("latent",)}), seed):
        for neighbours in sorted({params.n_neighbors, min(params.n_neighbors, params.min_size)}):
            changes = {"n_neighbors": neighbours, "n_clusters": tuple({*params.n_clusters, FINE})}
            for inside, _, distance in _separated(features, params.model_copy(update=changes), seed)[2]:
                yield c, view, inside, distance


def rows_of_classes(latents: LatentsReader, params: RevealParams, seed: int) -> dict[int, np.ndarray]:
    """Rows of the training samples of each class that are searched: all, or `max_samples` drawn at random."""
    classes = latents.targets("train")
    return {int(c): _draw(np.flatnonzero(classes == c), params, seed, int(c)) for c in np.unique(classes)}


def _draw(rows: np.ndarray, params: RevealParams, seed: int, c: int) -> np.ndarray:
    if len(rows) <= params.max_samples:
        return rows
    return np.sort(numpy_rng(seed, "reveal", "class", c).choice(rows, params.max_samples, replace=False))


def _candidates(
    c: int, view: str, ids: np.ndarray, features: np.ndarray, params: RevealParams, seed: int
) -> list[_Candidate]:
    embedded, gap, found = _separated(features, params, seed)
    rng = numpy_rng(seed, "reveal", "null", c, view)
    nulls = [_separated(gaussian_null(features, rng), params, seed)[2] for _ in range(params.n_null)]
    null = tuple(max((s for _, _, s in one), default=0.0) for one in nulls)
    embedding = Embedding(c, view, ids, *embedded)
    return [_Candidate(inside, projection, s, null, embedding, gap) for inside, projection, s in found]


def _separated(
    features: np.ndarray, params: RevealParams, seed: int
) -> tuple[tuple[np.ndarray, np.ndarray], float, list[tuple[np.ndarray, np.ndarray, float]]]:
    """Embedding, eigengap, and each cluster with its projection and separation."""
    values, embedding = spectral_embedding(features, params.n_neighbors, params.n_eigen, seed)
    count, gap = eigengap(values, max(params.n_clusters, default=8))
    counts = sorted({*params.n_clusters, count})
    components = principal_components(features, params.n_components)
    found = []
    for name in params.clusterings:
        for labels in CLUSTERINGS[name](embedding, counts, params.min_size, seed):
            for inside in groups_of(labels, params.min_size):
                projection = fisher_projection(components, inside)
                found.append((inside, projection, separation(projection, inside)))
    return (values, embedding), gap, found


def _distinct(candidates: list[_Candidate], params: RevealParams) -> list[_Candidate]:
    """The first `max_suspects` candidates that share less than `max_overlap` with every better one."""
    kept: list[_Candidate] = []
    for candidate in candidates:
        if len(kept) < params.max_suspects and all(_jaccard(candidate, k) < params.max_overlap for k in kept):
            kept.append(candidate)
    return kept


def _jaccard(a: _Candidate, b: _Candidate) -> float:
    both = len(np.intersect1d(a.members, b.members, assume_unique=True))
    return both / (len(a.members) + len(b.members) - both)


def _suspect_row(index: int, c: _Candidate, reference: float) -> tuple:
    e = c.embedding
    size = int(c.inside.sum())
    p = extreme_p(c.separation, c.null)
    return index, index + 1, e.class_index, e.view, size, c.score, c.separation, c.null_separation, c.gap, p, reference


def _member_rows(index: int, c: _Candidate) -> pd.DataFrame:
    order = np.argsort(-c.projection[c.inside], kind="stable")
    rows = {"suspect": index, "sample_id": c.members[order], "outlier_score": c.projection[c.inside][order]}
    return pd.DataFrame(rows, columns=list(MEMBER_COLUMNS))


def embedding_table(embeddings: Mapping[str, Embedding]) -> pd.DataFrame:
    """One row a sample, class and view: class, view, sample_id, and the coordinates e1, e2 and so on."""
    tables = []
    for e in embeddings.values():
        coordinates = pd.DataFrame(e.embedding, columns=[f"e{i + 1}" for i in range(e.embedding.shape[1])])
        samples = pd.DataFrame({"class": e.class_index, "view": e.view, "sample_id": e.sample_ids})
        tables.append(pd.concat([samples, coordinates], axis=1))
    return pd.concat(tables, ignore_index=True) if tables else pd.DataFrame(columns=["class", "view", "sample_id"])


def laid_out(table: pd.DataFrame, method: str, seed: int) -> pd.DataFrame:
    """Points x and y of every row of `embedding_table`; the first view of each class, which figures show, by `method`.

    The other views are drawn by their eigenvectors, which cost nothing.
    """
    found: list[pd.DataFrame] = []
    classes = set()
    for (c, _), own in table.groupby(["class", "view"], sort=False):
        coordinates = own.drop(columns=["class", "view", "sample_id"]).dropna(axis=1, how="all").to_numpy(np.float64)
        points = two_dimensional(coordinates, "eigenvectors" if c in classes else method, seed)
        found.append(own[["class", "view", "sample_id"]].assign(x=points[:, 0], y=points[:, 1]))
        classes.add(c)
    return pd.concat(found, ignore_index=True) if found else table.assign(x=[], y=[])
