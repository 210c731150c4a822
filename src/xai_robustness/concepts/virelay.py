"""SpRAy results as a ViRelAy project: four kinds of files that its server reads [Anders2021].

project.yaml           what belongs together; names the files below
label_map.json         index, name and key of every class
dataset.h5             data uint8 (N,H,W,3), label uint16 (N,)
attribution.h5         attribution float32 (N,1,H,W), prediction float32 (N,K), label uint16 (N,), index uint32 (N,)
analysis_<view>.h5     a group a class, named by its key: index uint32 (M,), the rows of the samples in dataset.h5;
                       embedding/<name> float32 (M,E), with the attribute eigenvalue (E,) for `spectral`;
                       cluster/<name> int32 (M,), -1 for noise
"""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from xai_robustness.concepts.embedding import CLUSTERINGS, eigengap, spectral_embedding, two_dimensional
from xai_robustness.concepts.samples import LatentsReader
from xai_robustness.concepts.spectral import RevealParams, class_views
from xai_robustness.datasets.base import ImageSet, rows_of_ids
from xai_robustness.types import InputError

IMAGES_AT_ONCE = 256
SPECTRAL = "spectral"


@dataclass(frozen=True, eq=False)
class VirelayJob:
    """Lazy write of a ViRelAy project of the training samples; see this module for the files.

    Attributes:
        latents: of the biased train split, with logits.
        images: the same samples.
        suspects: of `find_suspects`.
        members: of `find_suspects`; written as the clustering `suspects`, -1 for samples of none.
        params: views, neighbours, clusterings and layout; where `virelay` is off, nothing is written.
        seed: the run's seed.
    """

    latents: LatentsReader
    images: ImageSet
    suspects: pd.DataFrame
    members: pd.DataFrame
    params: RevealParams
    seed: int

    def write(self, folder: Path) -> None:
        """Write the project.

        Raises:
            InputError: signals, which ViRelAy does not show, or no h5py.
        """
        if not self.params.virelay:
            return
        if self.images.is_signal:
            raise InputError("The reveal.virelay parameter must be false for signals: ViRelAy shows images. Got true.")
        h5py = _h5py()
        ids = self.latents.sample_ids("train")
        with h5py.File(folder / "dataset.h5", "w") as file:
            self._write_images(file, ids)
        with h5py.File(folder / "attribution.h5", "w") as file:
            self._write_heatmaps(file, ids)
        sources: dict[str, Any] = {}
        for c, view, own, features in class_views(self.latents, self.params, self.seed):
            name = f"analysis_{view}.h5"
            with h5py.File(folder / name, "a" if view in sources else "w") as file:
                self._write_analysis(file.create_group(class_key(c)), features, own, rows_of_ids(ids, own))
            sources[view] = {"analysis_method": f"SpRAy, {view}", "sources": [name]}
        _write_json(folder / "label_map.json", label_map(self.images.info.class_names))
        _write_json(folder / "project.yaml", self._project(list(sources.values())))  # JSON is YAML

    def _write_images(self, file: Any, ids: np.ndarray) -> None:
        _, h, w = self.images.image_shape
        data = file.create_dataset("data", (len(ids), h, w, 3), np.uint8, chunks=(1, h, w, 3))
        for start in range(0, len(ids), IMAGES_AT_ONCE):
            found = self.images.pictures_of(ids[start : start + IMAGES_AT_ONCE])
            data[start : start + len(found)] = np.broadcast_to(found[..., :3], (len(found), h, w, 3))
        file["label"] = self.latents.targets("train").astype(np.uint16)

    def _write_heatmaps(self, file: Any, ids: np.ndarray) -> None:
        file["attribution"] = self.latents.heatmaps("train").astype(np.float32)[:, None]
        file["prediction"] = self.latents.logits("train").astype(np.float32)
        file["label"] = self.latents.targets("train").astype(np.uint16)
        file["index"] = np.arange(len(ids), dtype=np.uint32)

    def _write_analysis(self, group: Any, features: np.ndarray, ids: np.ndarray, rows: np.ndarray) -> None:
        params = self.params
        values, embedding = spectral_embedding(features, params.n_neighbors, params.n_eigen, self.seed)
        group["index"] = rows.astype(np.uint32)
        group[f"embedding/{SPECTRAL}"] = embedding.astype(np.float32)
        group[f"embedding/{SPECTRAL}"].attrs["eigenvalue"] = values.astype(np.float32)
        if params.layout != "eigenvectors":
            points = two_dimensional(embedding, params.layout, self.seed)
            group[f"embedding/{params.layout}"] = points.astype(np.float32)
            group[f"embedding/{params.layout}"].attrs["embedding"] = SPECTRAL
        for name, labels in clusterings(values, embedding, params, self.seed):
            group[f"cluster/{name}"] = labels.astype(np.int32)
        first = self.members.drop_duplicates("sample_id").set_index("sample_id")["suspect"]
        group["cluster/suspects"] = pd.Series(ids).map(first).fillna(-1).to_numpy(np.int32)

    def _project(self, analyses: list[dict[str, Any]]) -> dict[str, Any]:
        info = self.images.info
        dataset = {"name": info.name, "type": "hdf5", "path": "dataset.h5"}
        attributions = {
            "attribution_method": "LRP",
            "attribution_strategy": "true_label",
            "sources": ["attribution.h5"],
        }
        described = {"name": f"{info.name}, training samples", "model": f"classifier {self.latents.model[:12]}"}
        files = {"label_map": "label_map.json", "dataset": dataset, "attributions": attributions, "analyses": analyses}
        return {"project": described | files}


def _h5py() -> Any:
    try:
        return import_module("h5py")
    except ImportError:
        raise InputError(
            "The reveal.virelay parameter must be false where h5py is not installed. Got true. "
            "Install it with: pip install 'xai_robustness[virelay]'."
        ) from None


def class_key(c: int) -> str:
    """Key of a class, by which ViRelAy finds its name.

    Example:
        >>> class_key(3)
        'class_003'
    """
    return f"class_{c:03d}"


def label_map(class_names: tuple[str, ...]) -> list[dict[str, Any]]:
    """Index, key and name of every class, as ViRelAy's label map lists them."""
    return [{"index": c, "word_net_id": class_key(c), "name": name} for c, name in enumerate(class_names)]


def clusterings(
    eigenvalues: np.ndarray, embedding: np.ndarray, params: RevealParams, seed: int
) -> Iterator[tuple[str, np.ndarray]]:
    """Every clustering of an embedding with its name: `kmeans-02` (clusters), `dbscan-0.2` (radius), `hdbscan`.

    `<name>-eigengap` has as many clusters as the eigengap says.
    """
    count, _ = eigengap(eigenvalues, max(params.n_clusters, default=8))
    for name in params.clusterings:
        tried = [k for k in params.n_clusters if k < len(embedding)]
        found = CLUSTERINGS[name](embedding, tried, params.min_size, seed)
        if name == "hdbscan":
            yield name, found[0]
            continue
        yield from ((f"{name}-{k / 10:g}" if name == "dbscan" else f"{name}-{k:02d}", f) for k, f in zip(tried, found))
        if name != "dbscan":
            yield f"{name}-eigengap", CLUSTERINGS[name](embedding, [count], params.min_size, seed)[0]


def _write_json(path: Path, content: Any) -> None:
    path.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
