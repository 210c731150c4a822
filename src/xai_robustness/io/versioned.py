"""Versioned, atomic, resumable Kedro data sets, each a thin shell around an unversioned one."""

import json
from copy import copy
from pathlib import Path, PurePosixPath
from typing import Any, ClassVar, Protocol, runtime_checkable

from kedro.io import AbstractDataset, AbstractVersionedDataset, Version

from xai_robustness.chunks import remove_folder

PROVENANCE = "provenance.json"
KEPT_VERSIONS = 3


@runtime_checkable
class Job(Protocol):
    """Lazy output of a node: `write(folder)` computes what `folder` lacks, so an interrupted write goes on."""

    def write(self, folder: Path) -> None:
        """Complete `folder`."""


class Versioned(AbstractVersionedDataset[Any, Any]):
    """A data set whose versions appear whole or not at all.

    `save` writes into `<filepath>/.partial-<fingerprint>/` (a dot folder, which Kedro takes for no version) and renames
    it to the run's version. A `Job` finds there what an interrupted run with the same fingerprint has finished. Beside
    the data lies `provenance.json`, by which later runs know what made them. The last three versions are kept.

    Args:
        filepath: file or folder below which the versions lie.
        version: given by Kedro for `versioned: true`, which is required.
        metadata: for Kedro plugins.
        arguments: passed to the inner data set.
    """

    inner: ClassVar[str]

    def __init__(
        self,
        *,
        filepath: str,
        version: Version | None = None,
        metadata: dict[str, Any] | None = None,
        **arguments: Any,
    ) -> None:
        super().__init__(PurePosixPath(filepath), version or Version(None, None))
        self.metadata = metadata
        self.provenance: dict[str, Any] | None = None
        self._arguments = arguments

    def _at(self, path: Path) -> AbstractDataset:
        return AbstractDataset.from_config(path.name, {"type": self.inner, "filepath": str(path), **self._arguments})

    def load(self) -> Any:
        """Load the version that the run asks for, or the newest."""
        return self._at(self.path()).load()

    def load_version(self, version: str) -> Any:
        """Load one of the versions that `provenances` lists."""
        pinned = copy(self)
        pinned._version = Version(version, None)
        return pinned.load()

    def save(self, data: Any) -> None:
        """Write one version; a `Job` is drained."""
        final = Path(self._get_save_path()).parent
        partial = final.parent / f".partial-{(self.provenance or {}).get('fingerprint', final.name)[:16]}"
        partial.mkdir(parents=True, exist_ok=True)
        target = partial / self._filepath.name
        if isinstance(data, Job):
            target.mkdir(exist_ok=True)
            data.write(target)
        else:
            self._at(target).save(data)
        (partial / PROVENANCE).write_text(json.dumps(self.provenance or {}, indent=1), encoding="utf-8")
        partial.replace(final)
        self._clear_version_cache()
        self._prune(final.parent)

    def _prune(self, folder: Path) -> None:
        versions = sorted(p for p in folder.iterdir() if p.is_dir() and not p.name.startswith("."))
        leftovers = [p for p in folder.iterdir() if p.name.startswith(".partial-")]
        for old in versions[:-KEPT_VERSIONS] + leftovers:
            remove_folder(old)

    def path(self) -> Path:
        """Path of the version that `load` reads."""
        return Path(self._get_load_path())

    def provenances(self) -> dict[str, dict[str, Any]]:
        """Version -> provenance of every whole version on disk, oldest first."""
        found = sorted(Path(self._filepath).glob(f"[!.]*/{PROVENANCE}"))
        return {p.parent.name: json.loads(p.read_text(encoding="utf-8")) for p in found}

    def _exists(self) -> bool:
        return any(Path(self._filepath).glob(f"[!.]*/{self._filepath.name}"))

    def _describe(self) -> dict[str, Any]:
        return {"filepath": self._filepath, "version": self._version}
