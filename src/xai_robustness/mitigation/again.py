"""Reveal, run again on a corrected model: does it still list the artifact as a suspect?"""

import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from torch import nn

from xai_robustness.attribution.latents import Latents, PreprocessingParams, latents_job
from xai_robustness.chunks import open_arrays
from xai_robustness.concepts.spectral import RevealParams, find_suspects
from xai_robustness.concepts.suspicion import is_cluster_hit
from xai_robustness.mitigation.sensitivity import Labelled, Loader


def suspected(
    model: nn.Sequential, labelled: Labelled, params: RevealParams, seed: int, device: str
) -> dict[str, Any] | None:
    """Whether reveal lists a cluster that names the labelled artifact, in this model's own relevances.

    Args:
        model: classifier, insertions included; left as it was.
        labelled: training images of the classes with a confirmed artifact, with their labels.
        params: as in the study; the layout of the figures is left out.
        seed: seed of the run.
        device: where to compute.

    Returns:
        `listed`; `place` (from 1), `score` and `p_value` of the first suspect that is a hit (see
        `suspicion.is_cluster_hit`), null where none is; `suspects` and `images`, their numbers. None where there are
        too few images for any cluster.
    """
    if len(labelled.images) < 2 * params.min_size:
        return None
    quick = params.model_copy(update={"layout": "eigenvectors"})
    with tempfile.TemporaryDirectory() as folder:
        explained = PreprocessingParams(layers=list(params.layers), batch_size=128)
        latents_job(model, {"train/biased": labelled.images}, explained, device, "").write(Path(folder) / "latents")
        suspects, members, _ = find_suspects(Latents(open_arrays(Path(folder) / "latents")), quick, seed)
    found: dict[str, Any] = {"listed": False, "place": None, "score": None, "p_value": None}
    found |= {"suspects": len(suspects), "images": len(labelled.images)}
    for place, (_, row) in enumerate(suspects.sort_values("rank").iterrows(), 1):
        own = labelled.images.labels == row["class"]
        inside = np.isin(labelled.images.sample_ids, members.loc[members["suspect"] == row["suspect"], "sample_id"])
        if is_cluster_hit(inside[own], labelled.artifact[own]):
            hit = {"place": place, "score": float(row["score"]), "p_value": float(row["p_value"])}
            return found | {"listed": True, **hit}
    return found


def suspected_before_and_after(
    models: Mapping[str, Loader], labelled: Labelled | None, params: RevealParams, seed: int, device: str
) -> dict[str, dict[str, Any] | None]:
    """`suspected` for each of the models, on the same images; None for all where no artifact was confirmed."""
    if labelled is None or labelled.images.labels.ndim > 1:
        return dict.fromkeys(models)
    return {name: suspected(load(), labelled, params, seed, device) for name, load in models.items()}
