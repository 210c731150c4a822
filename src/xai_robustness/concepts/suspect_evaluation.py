"""How well suspects name the known artifact, in controlled studies."""

from collections.abc import Mapping

import numpy as np
import pandas as pd
from jaxtyping import Bool, Int

from xai_robustness.concepts.samples import LatentsReader
from xai_robustness.concepts.suspicion import Lists, is_cluster_hit, is_neuron_hit, pooled_activation

EVALUATION_COLUMNS = ("suspect", "precision", "precision_low", "precision_high") + (
    "recall",
    "recall_low",
    "recall_high",
    "f1",
    "size",
    "n_artifact",
)
Z_95 = 1.959963984540054


def evaluate_suspects(suspects: pd.DataFrame, members: pd.DataFrame, truth: pd.DataFrame) -> pd.DataFrame:
    """Precision, recall and F1 of each suspect against the known artifacts, with 95 % Wilson intervals [Wilson1927].

    Args:
        suspects: the one list, of `suspicion.Lists`; single samples are left out.
        members: their samples, of `suspicion.Lists`.
        truth: sample_id and artifact; with a column split, its train rows count; with a column class, recall is over
            the suspect's class.

    Returns:
        `EVALUATION_COLUMNS`; recall and F1 are NaN where no sample of the class carries the artifact. A cluster holds
        none of the samples of a large class that were not drawn (`RevealParams.max_samples`): its recall counts them.
    """
    truth = truth[truth["split"] == "train"] if "split" in truth else truth
    artifact = truth["artifact"].astype(bool)
    rows = []
    several = suspects[suspects["kind"] != "sample"]
    for suspect, c in zip(several["name"], several["class"]):
        inside = truth["sample_id"].isin(members.loc[members["name"] == suspect, "sample_id"])
        reachable = artifact & (truth["class"] == c) if "class" in truth else artifact
        hits, size, total = int((inside & artifact).sum()), int(inside.sum()), int(reachable.sum())
        f1 = 2 * hits / (size + total) if total else float("nan")
        rows.append((suspect, *wilson_interval(hits, size), *wilson_interval(hits, total), f1, size, total))
    return pd.DataFrame(rows, columns=list(EVALUATION_COLUMNS))


def is_hit(
    suspect: pd.Series,
    listed: Lists,
    latents: LatentsReader,
    artifact: Bool[np.ndarray, " n"],
    searched: Mapping[int, Int[np.ndarray, " m"]],
) -> bool:
    """Whether a suspect of the list names the artifact: a cluster by its samples, a set of neurons by its activation.

    What is joined names both, so that either counts.

    Args:
        suspect: a row of `listed.suspects`; a single sample is never a hit.
        listed: the list.
        latents: of the biased train split.
        artifact: the truth over the samples of the latents.
        searched: of `spectral.rows_of_classes`: a cluster says nothing of the other samples of its class.
    """
    own, kind = np.flatnonzero(latents.targets("train") == suspect["class"]), suspect["kind"]
    named = listed.members.loc[listed.members["name"] == suspect["name"], "sample_id"]
    asked = searched[suspect["class"]] if kind == "cluster" else own
    inside = np.isin(latents.sample_ids("train")[asked], named)
    if kind in ("cluster", "joined") and is_cluster_hit(inside, artifact[asked]):
        return True
    if kind not in ("neurons", "joined"):
        return False
    x = {layer: latents.activations("train", layer, "max")[own] for layer in latents.layers}
    return is_neuron_hit(pooled_activation(x, listed.neurons, suspect["name"]), artifact[own])


def wilson_interval(hits: int, n: int) -> tuple[float, float, float]:
    """A share with its 95 % Wilson interval; all NaN where n is 0.

    Example:
        >>> [round(x, 3) for x in wilson_interval(9, 10)]
        [0.9, 0.596, 0.982]
    """
    if n == 0:
        return (float("nan"),) * 3
    share, z2 = hits / n, Z_95**2
    centre = (share + z2 / (2 * n)) / (1 + z2 / n)
    half = Z_95 * float(np.sqrt(share * (1 - share) / n + z2 / (4 * n * n))) / (1 + z2 / n)
    return share, max(0.0, centre - half), min(1.0, centre + half)
