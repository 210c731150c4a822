"""Reveal, run again on a corrected model: does it still list the artifact as a suspect?"""

import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from torch import nn

from xai_robustness.attribution.latents import Latents, PreprocessingParams, latents_job
from xai_robustness.chunks import open_arrays
from xai_robustness.concepts.spectral import RevealParams, find_suspects, rows_of_classes
from xai_robustness.concepts.suspect_evaluation import is_hit
from xai_robustness.concepts.transplant_list import list_suspects
from xai_robustness.mitigation.sensitivity import Labelled, Loader


def suspected(
    model: nn.Sequential, labelled: Labelled, params: RevealParams, seed: int, device: str
) -> dict[str, Any] | None:
    """Whether reveal lists a suspect that names the labelled artifact, in this model's own relevances.

    Args:
        model: classifier, insertions included; left as it was.
        labelled: training images of the classes with a confirmed artifact, with their labels.
        params: as in the study.
        seed: seed of the run.
        device: where to compute.

    Returns:
        `listed`; `place` (from 1) and `transplant` of the first suspect that is a hit (see
        `suspect_evaluation.is_hit`), null where none is; `suspects` and `images`, their numbers. None where there are
        too few images for any cluster.
    """
    if len(labelled.images) < 2 * params.min_size:
        return None
    images = labelled.images
    found: dict[str, Any] = {"listed": False, "place": None, "transplant": None}
    with tempfile.TemporaryDirectory() as folder:
        explained = PreprocessingParams(layers=list(params.layers), batch_size=128)
        latents_job(model, {"train/biased": images}, explained, device, "").write(Path(folder) / "latents")
        latents = Latents(open_arrays(Path(folder) / "latents"))
        clusters, members, _ = find_suspects(latents, params, seed)
        listed = list_suspects(clusters, members, latents, model, images, params, seed, device)
        artifact = pd.Series(labelled.artifact, images.sample_ids).loc[latents.sample_ids("train")].to_numpy(bool)
        searched = rows_of_classes(latents, params, seed)
        named = [is_hit(row, listed, latents, artifact, searched) for _, row in listed.suspects.iterrows()]
        hits = listed.suspects[named]
    if len(hits):
        first = hits.iloc[0]
        travels = float(first["transplant"])
        found = {"listed": True, "place": int(first["place"]), "transplant": None if np.isnan(travels) else travels}
    return found | {"suspects": len(listed.suspects), "images": len(images)}


def suspected_before_and_after(
    models: Mapping[str, Loader], labelled: Labelled | None, params: RevealParams, seed: int, device: str
) -> dict[str, dict[str, Any] | None]:
    """`suspected` for each of the models, on the same images; None for all where no artifact was confirmed."""
    if labelled is None or labelled.images.labels.ndim > 1:
        return dict.fromkeys(models)
    return {name: suspected(load(), labelled, params, seed, device) for name, load in models.items()}
