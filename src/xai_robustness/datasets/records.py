"""Data sets of one file a sample: the table of what there is, before any file is opened."""

import csv
import json
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from jaxtyping import Int64

from xai_robustness.datasets.base import DatasetInfo
from xai_robustness.registry import Registry
from xai_robustness.types import InputError

if TYPE_CHECKING:
    from xai_robustness.datasets.params import DataParams


@dataclass(frozen=True)
class Records:
    """The samples of a data set as its tables list them.

    Attributes:
        info: the data set.
        files: path of each sample's file.
        names: name of each sample, as artifact labels and people call it.
        labels: int64 (N,), or (N,L) in {0,1} for multi-label tasks.
        sample_ids: int64 (N,), each once: the row of the official table, whatever is kept of it.
        groups: patient or lesion of each sample, str (N,), "" where unknown; None where nothing is known.
        splits: "train", "val", "test" or "" (undecided) of each sample; None where no split is official.
        artifacts: real artifact -> bool (N,), whether the sample is labelled with it.
        tables: files that all this was read from.
        shape: (1,T,C) of a signal; None for images, whose size is a parameter.
        decode: what reads a file of another kind than an image.
        store: array store that holds all samples instead of files; `files` then name its rows.
        peaks: R peaks of ECG as the tables list them, int64 (N,P), -1 behind the last; None: to be found.
        notes: what was left out and why, with counts, for the log.
        beside: suffixes of further files of each sample, which lie beside it.
    """

    info: DatasetInfo
    files: tuple[Path, ...]
    names: tuple[str, ...]
    labels: np.ndarray
    sample_ids: Int64[np.ndarray, " n"]
    groups: np.ndarray | None = None
    splits: np.ndarray | None = None
    artifacts: Mapping[str, np.ndarray] = field(default_factory=dict)
    tables: tuple[Path, ...] = ()
    shape: tuple[int, int, int] | None = None
    decode: Callable[[Path], np.ndarray] | None = None
    store: Path | None = None
    peaks: np.ndarray | None = None
    notes: tuple[str, ...] = ()
    beside: tuple[str, ...] = ()

    def __len__(self) -> int:
        return len(self.files)

    def all_files(self) -> list[Path]:
        """Paths of all files that the samples are read from."""
        return [path.with_suffix(s) for path in self.files for s in (path.suffix, *self.beside)]

    def rows(self, rows: np.ndarray) -> "Records":
        """The samples at `rows`, an index or boolean array."""
        rows = np.flatnonzero(rows) if rows.dtype == bool else rows
        return replace(
            self,
            files=tuple(self.files[i] for i in rows),
            names=tuple(self.names[i] for i in rows),
            labels=self.labels[rows],
            sample_ids=self.sample_ids[rows],
            groups=None if self.groups is None else self.groups[rows],
            splits=None if self.splits is None else self.splits[rows],
            peaks=None if self.peaks is None else self.peaks[rows],
            artifacts={name: values[rows] for name, values in self.artifacts.items()},
        )


Reader = Callable[["DataParams", Path], Records]
READERS: Registry[Reader] = Registry("data set")
"""Data set -> function from parameters and folder to its records; each also has a `folder`, where it is looked for."""


def read_table(path: Path, required: Iterable[str], key: str | None = None) -> list[dict[str, str]]:
    """Read a CSV file with a header.

    Args:
        path: the file.
        required: columns that it must have.
        key: column whose values must differ.

    Raises:
        InputError: no such file, not UTF-8 text, no rows, a missing column, or a value of `key` twice.
    """
    if not path.is_file():
        raise InputError(f"The table {path} does not exist. Put the data set's files there, or set data.folder.")
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            reader = csv.DictReader(file)
            columns = list(reader.fieldnames or [])
            rows = list(reader)
    except (UnicodeDecodeError, csv.Error) as error:
        raise InputError(f"The table {path} must be CSV in UTF-8. Got an error instead: {error}.") from error
    missing = [column for column in required if column not in columns]
    if missing:
        raise InputError(f"The table {path} must have the column '{missing[0]}'. Got {', '.join(columns)} instead.")
    if not rows:
        raise InputError(f"The table {path} must have at least one row. Got 0 instead.")
    if key is not None:
        check_unique([row[key] for row in rows], f"column '{key}' of {path}")
    return rows


def check_unique(names: Sequence[str], where: str) -> None:
    """Raise InputError, with a count and examples, if a name stands twice."""
    twice = [name for name, count in Counter(names).items() if count > 1]
    if twice:
        raise InputError(
            f"The {where} must name each sample once. Got {len(twice)} names twice or more instead: {_some(twice)}."
        )


def check_files(records: Records, skip: bool) -> Records:
    """Drop samples without a file if `skip`, else refuse them; raises InputError with a count and examples."""
    if records.store is not None:
        return records
    listings: dict[Path, set[str]] = {}

    def there(path: Path) -> bool:
        if path.parent not in listings:
            names = path.parent.iterdir() if path.parent.is_dir() else ()
            listings[path.parent] = {entry.name for entry in names}
        return path.name in listings[path.parent]

    files = records.all_files()
    exists = np.array([there(path) for path in files], bool)
    found = np.all(exists.reshape(len(records), -1), axis=1)
    if found.all():
        return records
    absent = [str(path) for path, is_there in zip(files, exists) if not is_there]
    if not skip:
        raise InputError(
            f"Every sample of {records.info.name} must have a file. Got {len(absent)} of {len(records)} without one "
            f"instead: {_some(absent)}. Add them, or leave them out with data.skip_bad: true."
        )
    note = f"{len(absent)} samples without a file were left out: {_some(absent)}"
    return replace(records.rows(found), notes=(*records.notes, note))


def keep_classes(
    names: Sequence[str], available: Sequence[str], wanted: "list[str] | dict[str, list[str]] | None", default: object
) -> tuple[tuple[str, ...], np.ndarray]:
    """Join and choose classes.

    Args:
        names: official class of each sample.
        available: all official classes.
        wanted: classes kept, or name -> classes joined under it; None takes `default`.
        default: what None means.

    Returns:
        Class names, and the class of each sample as int64 (N,), -1 for samples that are not kept.

    Raises:
        InputError: an unknown class, or one wanted twice.
    """
    chosen = wanted if wanted is not None else default
    groups: dict[str, list[str]] = chosen if isinstance(chosen, dict) else {name: [name] for name in chosen}  # type: ignore[attr-defined]
    parts = [part for members in groups.values() for part in members]
    unknown = [part for part in parts if part not in available]
    if unknown:
        raise InputError(f"Unknown class '{unknown[0]}' in data.classes. Choose from: {', '.join(available)}.")
    if len(groups) < 2 or len(set(parts)) < len(parts):
        raise InputError(f"The classes parameter of DataParams must be two classes or more, each once. Got {chosen}.")
    place = {part: i for i, members in enumerate(groups.values()) for part in members}
    return tuple(groups), np.array([place.get(name, -1) for name in names], np.int64)


def with_artifacts(records: Records, path: Path, stem: Callable[[str], str] = str) -> Records:
    """Add labels of real artifacts from a file; names that match no sample are counted in the notes.

    Args:
        records: the samples, before any is dropped.
        path: JSON `{artifact: [name]}`, or CSV with a column `image` (or `img_name`) and a column `artifact`; or with
            one 0/1 column an artifact, and then samples that it does not list are left out, as nothing is known of
            them.
        stem: how a listed name becomes a sample's name.

    Raises:
        InputError: no such file, another format, or not one name that matches.
    """
    listed, known = _read_artifact_labels(path)
    rows = {name: i for i, name in enumerate(records.names)}
    artifacts, notes = dict(records.artifacts), list(records.notes)
    for artifact, names in listed.items():
        wanted = {stem(str(name)) for name in names}
        matched = [rows[name] for name in wanted if name in rows]
        values = np.zeros(len(records), bool)
        values[matched] = True
        artifacts[artifact] = values
        unmatched = sorted(wanted - rows.keys())
        if unmatched:
            notes.append(f"{artifact}: {len(unmatched)} of {len(wanted)} labels match no sample: {_some(unmatched)}")
    if not any(values.any() for values in artifacts.values()):
        raise InputError(f"The artifact labels {path} must name samples of {records.info.name}. Got none that match.")
    records = replace(records, artifacts=artifacts, tables=(*records.tables, path))
    if known is not None:
        stems = {stem(name) for name in known}
        inside = np.array([name in stems for name in records.names], bool)
        if not inside.all():
            notes.append(f"{int((~inside).sum())} samples that {path.name} does not list were left out")
        records = records.rows(inside)
    return replace(records, notes=tuple(notes))


def _read_artifact_labels(path: Path) -> tuple[dict[str, list[str]], set[str] | None]:
    """Artifact -> names that show it, and all names that were looked at, or None where that is not told."""
    if not path.is_file():
        raise InputError(f"The artifact labels {path} do not exist. Correct data.artifact_labels.")
    if path.suffix.lower() == ".json":
        try:
            content = json.loads(path.read_text(encoding="utf-8"))
        except ValueError as error:
            raise InputError(f"The artifact labels {path} must be JSON. Got an error instead: {error}.") from error
        if not isinstance(content, dict) or not all(isinstance(names, list) for names in content.values()):
            raise InputError(f"The artifact labels {path} must be an object of lists, {{artifact: [image]}}.")
        return content, None
    rows = read_table(path, [])
    key = next((name for name in ("image", "img_name") if name in rows[0]), None)
    if key is None:
        raise InputError(f"The artifact labels {path} must have the column 'image'. Got {', '.join(rows[0])} instead.")
    listed: dict[str, list[str]] = {}
    if "artifact" in rows[0]:
        for row in rows:
            listed.setdefault(row["artifact"], []).append(row[key])
        return listed, None
    words = {"0": False, "0.0": False, "false": False, "": False, "1": True, "1.0": True, "true": True}
    for column in (name for name in rows[0] if name != key):
        values = [words.get(row[column].strip().lower()) for row in rows]
        if None not in values:
            listed[column] = [row[key] for row, value in zip(rows, values) if value]
    return listed, {row[key] for row in rows}


def _some(names: Collection[str], most: int = 3) -> str:
    shown = list(names)[:most]
    return ", ".join(shown) + (", …" if len(names) > most else "")
