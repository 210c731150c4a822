"""One ranked list of suspects from all views: clusters, sets of neurons and single samples on one scale."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated

import numpy as np
import pandas as pd
from jaxtyping import Bool
from pydantic import Field

from xai_robustness.concepts.neurons import neuron_sets, null_statistics
from xai_robustness.concepts.outliers import find_outliers
from xai_robustness.concepts.samples import LatentsReader, sample_table
from xai_robustness.concepts.separability import latent_features, principal_components
from xai_robustness.concepts.significance import benjamini_hochberg, extreme_p, reference_of_others
from xai_robustness.metrics.ranking import auroc
from xai_robustness.randomness import numpy_rng
from xai_robustness.types import NEUTRAL, Params

LIST_COLUMNS = ("place", "kind", "name", "class", "view", "size", "statistic", "reference", "ratio", "p_value") + (
    "q_value",
    "score",
    "transplant",
    "flagged",
)
LIST_MEMBER_COLUMNS = ("name", "sample_id", "typical")
NEURON_COLUMNS = ("name", "class", "layer", "neuron", "sign")
HIT_PRECISION, HIT_RATIO, HIT_SPLIT, HIT_AUROC = 0.5, 2.0, 0.9, 0.9


class SuspicionParams(Params):
    """How the one list of suspects is made."""

    n_null: int = Field(
        0, ge=0, le=200, description="structureless sets behind each p-value; 0: neurons and samples left out"
    )
    level: float = Field(0.05, gt=0, lt=1, description="false-discovery rate at which a suspect is flagged")
    margin: float = Field(
        1.3, ge=1, description="times what the other classes reach that a flagged suspect must have at least"
    )
    max_neuron_sets: int = Field(3, ge=1, description="sets of neurons kept of each class and layer")
    max_samples: int = Field(10, ge=0, description="single samples kept of each class")


class TransplantParams(Params):
    """How much of each image is exchanged, and how much must travel with it (see `transplant`)."""

    partners: int = Field(
        8, ge=0, le=100, description="samples of its class to which each gives a part; 0: no transplants"
    )
    area: float = Field(0.1, gt=0, lt=1, description="share of the pixels that is exchanged: the most relevant ones")
    distance: float = Field(
        2.5, gt=0, description="standard deviations that must travel, by their lower bound, for a suspect to be flagged"
    )
    batch_size: Annotated[int, NEUTRAL] = Field(128, ge=1, description="images that go through the model at once")


@dataclass(frozen=True)
class Lists:
    """The list and what its names stand for.

    Attributes:
        suspects: `LIST_COLUMNS`, the most suspicious first; kind is cluster, neurons, sample or joined, `size` the
            number of samples, or of neurons in a set of these.
        members: `LIST_MEMBER_COLUMNS`: samples of clusters, of the smaller side of each set of neurons, joined ones.
        neurons: `NEURON_COLUMNS`.
    """

    suspects: pd.DataFrame
    members: pd.DataFrame
    neurons: pd.DataFrame


def rank_all(
    clusters: pd.DataFrame,
    cluster_members: pd.DataFrame,
    latents: LatentsReader,
    params: SuspicionParams,
    min_size: int,
    seed: int,
    layers: Sequence[str] = (),
) -> Lists:
    """Put clusters, sets of neurons and outlying samples into one list, by how far they exceed the other classes.

    Every statistic is compared with what the same procedure finds in Gaussian data of the same covariance, as its
    largest value: no label and no truth is used. The p-value is the tail beyond `n_null` such maxima
    (`significance.extreme_p`), of which 6 are enough for small ones. The p-values of one kind in one class and view
    are those of the best of many already (of what is not the best: at most too large); over classes, views and kinds
    they are adjusted for the false-discovery rate [Benjamini1995], where what was searched and left nothing in the list
    counts as a test too (see `_tests`). `score` is -log10 of the adjusted value.

    Real data have clusters that no Gaussian data have, so a second comparison follows: `reference` is the median of
    what the same kind of suspect reaches at most in each other class (`significance.reference_of_others`), and `ratio`
    is the statistic over it, the same scale for all kinds. Flagged is what is below the level and at least `margin`
    times the reference. The list has the flagged ones first, single samples last, and is in the order of the ratio.
    Where no other class has a suspect of the kind, the mean of the Gaussian maxima (of samples: 1, a factor without
    outliers) takes its place.

    `transplant` stays undefined here: see `transplant_list.transplant_all`, which has the model and the images.

    Args:
        clusters: of `spectral.find_suspects`, with p_value.
        cluster_members: of `spectral.find_suspects`.
        latents: of the biased train split.
        params: see `SuspicionParams`.
        min_size: smallest side of a split, in samples.
        seed: the run's seed.
        layers: layers whose neurons are looked at; empty: all of the latents.
    """
    rows = [
        ("cluster", f"cluster {int(s.suspect)}", int(s["class"]), s["view"], int(s["size"]))
        + (s.separation, s.p_value, s.null_separation)
        for _, s in clusters.iterrows()
    ]
    members = cluster_members.rename(columns={"outlier_score": "typical"})
    tables = [members.assign(name=[f"cluster {int(s)}" for s in members["suspect"]])[list(LIST_MEMBER_COLUMNS)]]
    neurons: list[tuple] = []
    if params.n_null:
        for found in (_neuron_suspects, _sample_suspects):
            more, some, table = found(latents, params, min_size, seed, tuple(layers) or latents.layers)
            rows, neurons, tables = rows + more, neurons + some, [*tables, table]
    columns = ["kind", "name", "class", "view", "size", "statistic", "p_value", "reference"]
    listed = pd.DataFrame(rows, columns=columns)
    others = {("cluster", int(s["class"])): float(s.reference) for _, s in clusters.iterrows()}
    for kind in ("neurons", "sample"):
        largest: dict[int, float] = {}
        for row in rows:
            if row[0] == kind and np.isfinite(row[5]):
                largest[row[2]] = max(row[5], largest.get(row[2], 0.0))
        others |= {(kind, c): value for c, value in reference_of_others(largest).items()}
    tests = _tests(listed, clusters, latents, len(tuple(layers) or latents.layers), params, min_size)
    found_there = [others[kind, c] for kind, c in zip(listed["kind"], listed["class"])]
    listed["reference"] = np.where(np.isnan(found_there), listed["reference"].astype(float), found_there)
    listed["ratio"] = listed["statistic"] / listed["reference"]
    listed["q_value"] = benjamini_hochberg(listed["p_value"].to_numpy(float), tests)
    listed["score"] = -np.log10(np.maximum(listed["q_value"].to_numpy(float), 1e-300))
    listed["flagged"] = (listed["q_value"] < params.level) & (listed["ratio"] >= params.margin)
    listed["transplant"] = np.nan
    single = listed["kind"] == "sample"
    order = np.lexsort((listed["name"], listed["p_value"], -listed["ratio"], single, ~listed["flagged"]))
    listed = listed.iloc[order].reset_index(drop=True)
    listed.insert(0, "place", np.arange(1, len(listed) + 1))
    kept = [t for t in tables if len(t)]
    joined = pd.concat(kept, ignore_index=True) if kept else pd.DataFrame(columns=list(LIST_MEMBER_COLUMNS))
    return Lists(listed[list(LIST_COLUMNS)], joined, pd.DataFrame(neurons, columns=list(NEURON_COLUMNS)))


def _tests(
    listed: pd.DataFrame,
    clusters: pd.DataFrame,
    latents: LatentsReader,
    n_layers: int,
    params: SuspicionParams,
    min_size: int,
) -> int:
    """Tests behind the list: its entries, and one for every class and view of a kind that has none there.

    The list holds the best of the views, which are not the only ones that were looked at.
    """
    sizes = np.unique(latents.targets("train"), return_counts=True)[1]
    searched = {"cluster": int(clusters["families"].max()) if len(clusters) else 0}
    if params.n_null:
        searched["neurons"] = n_layers * int((sizes >= 2 * min_size).sum())
    left = [
        n - len(listed.loc[listed["kind"] == kind, ["class", "view"]].drop_duplicates()) for kind, n in searched.items()
    ]
    return len(listed) + sum(max(n, 0) for n in left)


Found = tuple[list[tuple], list[tuple], pd.DataFrame]


def _neuron_suspects(
    latents: LatentsReader, params: SuspicionParams, min_size: int, seed: int, layers: Sequence[str]
) -> Found:
    table = sample_table(latents, ("train",))
    classes, ids = table["class"].to_numpy(), table["sample_id"].to_numpy()
    rows, neurons, members = [], [], []
    for layer in layers:
        activations = latents.activations("train", layer, "max")
        for c in np.unique(classes):
            x, own = activations[classes == c], ids[classes == c]
            sets = neuron_sets(x, min_size)[: params.max_neuron_sets]
            if not sets:
                continue
            null = null_statistics(x, min_size, params.n_null, numpy_rng(seed, "suspicion", "neurons", layer, int(c)))
            for i, found in enumerate(sets):
                name = f"neurons {layer} {c} {i}"
                p = extreme_p(found.statistic, null)
                rows.append(
                    ("neurons", name, int(c), layer, len(found.neurons), found.statistic, p, float(np.mean(null)))
                )
                neurons += [(name, int(c), layer, int(k), int(s)) for k, s in zip(found.neurons, found.signs)]
                order = np.flatnonzero(found.inside)[np.argsort(-found.activation[found.inside], kind="stable")]
                typical = found.activation[order]
                members.append(pd.DataFrame({"name": name, "sample_id": own[order], "typical": typical}))
    return rows, neurons, pd.concat(members, ignore_index=True) if members else pd.DataFrame()


def _sample_suspects(
    latents: LatentsReader, params: SuspicionParams, min_size: int, seed: int, layers: Sequence[str]
) -> Found:
    table = sample_table(latents, ("train",))
    classes, ids = table["class"].to_numpy(), table["sample_id"].to_numpy()
    features = latent_features(latents.relevances("train", layers[-1], "sum"))
    rows, members = [], []
    for c in np.unique(classes):
        own = ids[classes == c]
        if len(own) < 2 * min_size:
            continue
        x = principal_components(features[classes == c], 10)
        found = find_outliers(x, numpy_rng(seed, "suspicion", "samples", int(c)), n_null=params.n_null)
        for row in np.argsort(-found.factor, kind="stable")[: params.max_samples]:
            name = f"sample {own[row]}"
            p = extreme_p(float(found.factor[row]), found.null_largest.tolist())
            rows.append(("sample", name, int(c), layers[-1], 1, float(found.factor[row]), p, 1.0))
            members.append((name, int(own[row]), float(found.factor[row])))
    return rows, [], pd.DataFrame(members, columns=list(LIST_MEMBER_COLUMNS))


def in_order(suspects: pd.DataFrame, members: pd.DataFrame) -> pd.DataFrame:
    """The samples of the suspects that are more than one sample, suspect by suspect as listed; see `Lists`."""
    several = suspects[suspects["kind"] != "sample"].sort_values("place")["name"]
    return pd.concat([members[:0], *(members[members["name"] == name] for name in several)], ignore_index=True)


def is_cluster_hit(inside: Bool[np.ndarray, " n"], artifact: Bool[np.ndarray, " n"]) -> bool:
    """Whether a cluster of the samples of a class names the artifact; both arrays are over that class.

    At least half of its members carry it and that is twice the base rate of the class; or the split that it names
    separates carriers from the rest at a balanced accuracy of 0.9, either way round.
    """
    base, size = artifact.mean(), inside.sum()
    if size == 0 or base in (0, 1):
        return False
    precision = artifact[inside].mean()
    balanced = (inside[artifact].mean() + (~inside[~artifact]).mean()) / 2
    return bool(
        (precision >= HIT_PRECISION and precision >= HIT_RATIO * base) or abs(balanced - 0.5) >= HIT_SPLIT - 0.5
    )


def is_neuron_hit(activation: np.ndarray, artifact: Bool[np.ndarray, " n"]) -> bool:
    """Whether the pooled activation of a set of neurons separates carriers at an AUROC of 0.9, either way round."""
    if len(np.unique(artifact)) < 2:
        return False
    return bool(abs(auroc(activation, artifact) - 0.5) >= HIT_AUROC - 0.5)


def pooled_activation(activations: Mapping[str, np.ndarray], neurons: pd.DataFrame, name: str) -> np.ndarray:
    """Mean standardised activation, with signs, of the neurons of a listed set, over the given samples of its class."""
    own = neurons[neurons["name"] == name]
    columns = [activations[layer][:, neuron] for layer, neuron in zip(own["layer"], own["neuron"])]
    x = np.stack(columns, axis=1).astype(np.float64)
    spread = x.std(0)
    return ((x - x.mean(0)) / np.where(spread > 0, spread, 1) * own["sign"].to_numpy()).mean(1)
