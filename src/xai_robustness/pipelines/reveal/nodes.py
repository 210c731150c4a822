"""Nodes of reveal."""

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from xai_robustness.attribution.latents import Latents
from xai_robustness.concepts.spectral import RevealParams, evaluate_suspects, find_suspects
from xai_robustness.datasets.base import ImageSet, take
from xai_robustness.figures.reveal import embedding_figure

THUMBNAILS = 6


def reveal_suspects(
    latents: Latents, params: RevealParams, seed: int
) -> tuple[pd.DataFrame, pd.DataFrame, pd.DataFrame]:
    """Embed, cluster and rank the relevances of every class and view."""
    suspects, members, embeddings = find_suspects(latents, params, seed)
    tables = [
        pd.DataFrame(
            {
                "class": e.class_index,
                "view": e.view,
                "sample_id": e.sample_ids,
                "x": e.points[:, 0],
                "y": e.points[:, 1],
            }
        )
        for e in embeddings.values()
    ]
    empty = pd.DataFrame(columns=["class", "view", "sample_id", "x", "y"])
    return suspects, members, pd.concat(tables, ignore_index=True) if tables else empty


def score_suspects(suspects: pd.DataFrame, suspect_members: pd.DataFrame, artifact_truth: pd.DataFrame) -> pd.DataFrame:
    """Precision and recall of every suspect where the truth is known; reported, never used."""
    return evaluate_suspects(suspects, suspect_members, artifact_truth)


def plot_embedding(
    suspects: pd.DataFrame,
    suspect_members: pd.DataFrame,
    embeddings: pd.DataFrame,
    images_fit: dict[str, ImageSet],
    artifact_truth: pd.DataFrame,
) -> Figure:
    """Draw the embedding in which the first suspect lies, its suspects in colour, with images of their members."""
    if suspects.empty:
        none = np.zeros(0, int)
        return embedding_figure(np.zeros((0, 2)), none, {}, np.zeros((0, 1, 1, 3), np.uint8), none)
    first = suspects.sort_values("rank").iloc[0]
    same = suspects[(suspects["class"] == first["class"]) & (suspects["view"] == first["view"])].sort_values("rank")
    points = embeddings[(embeddings["class"] == first["class"]) & (embeddings["view"] == first["view"])]
    ids = points.sample_id.to_numpy()
    groups, shown = np.full(len(points), -1), []
    for suspect in same.sort_values("size", ascending=False).suspect:  # smaller suspects stay visible
        members = suspect_members.sample_id[suspect_members.suspect == suspect].to_numpy()
        at = np.flatnonzero(np.isin(ids, members))
        groups[at] = suspect
    for suspect in same.suspect:
        members = suspect_members.sample_id[suspect_members.suspect == suspect].to_numpy()
        own = members[np.isin(members, ids[groups == suspect])][:THUMBNAILS]
        shown += [int(np.flatnonzero(ids == member)[0]) for member in own]
    images = images_fit["train/biased"]
    rows = np.searchsorted(images.sample_ids, ids[shown])
    names = {int(row.suspect): f"suspect {row.suspect}, rank {row['rank']}" for _, row in same.iterrows()}
    title = f"{images.info.class_names[int(first['class'])]}, view {first['view']}"
    truth = artifact_truth.set_index("sample_id").artifact.loc[ids].to_numpy(bool)
    layout, thumbnails = points[["x", "y"]].to_numpy(), take(images.images, rows)
    return embedding_figure(layout, groups, names, thumbnails, np.array(shown), truth, title)
