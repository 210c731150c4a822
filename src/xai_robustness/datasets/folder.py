"""Any folder of images: with a CSV table, or with one folder a class."""

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from xai_robustness.datasets.arrays import is_store, read_store
from xai_robustness.datasets.base import DatasetInfo
from xai_robustness.datasets.records import READERS, Records, check_unique, keep_classes, read_table
from xai_robustness.types import SPLITS, InputError

if TYPE_CHECKING:
    from xai_robustness.datasets.params import DataParams

SUFFIXES = (".jpg", ".jpeg", ".png", ".bmp", ".tif", ".tiff", ".dcm", ".nii", ".nii.gz")
LICENCE = "the user's own data"
IMAGENET_LICENCE = "ImageNet terms of access: non-commercial research"


@READERS.register("folder")
def read_folder(params: "DataParams", folder: Path) -> Records:
    """Read a table of images, a folder a class, with `train`, `val`, `test` above the classes if there are, or Zarr.

    Raises:
        InputError: no folder, no images, an unknown column, an empty label, or a split that is none.
    """
    if is_store(folder):
        return read_store(params, folder, LICENCE)
    if not folder.is_dir():
        raise InputError(f"The folder {folder} of data.folder does not exist. Correct it, or put the images there.")
    return _from_table(params, folder, folder / params.table) if params.table else _from_folders(params, folder)


def _from_table(params: "DataParams", folder: Path, table: Path) -> Records:
    asked = [params.image_column, params.label_column, params.split_column, params.group_column]
    rows = read_table(table, [column for column in asked if column], key=params.image_column)
    names = tuple(row[params.image_column] for row in rows)
    raw = [row[params.label_column].strip() for row in rows]
    raw = ["" if label.lower() == "nan" else label for label in raw]  # as tables are written where a label is missing
    task, classes, labels = _labels(raw, params, table)
    records = Records(
        info=DatasetInfo(folder.name, task, classes, LICENCE),
        files=tuple(_inside(folder, name) for name in names),
        names=names,
        labels=labels,
        sample_ids=np.arange(len(rows), dtype=np.int64),
        groups=np.array([row[params.group_column] for row in rows]) if params.group_column else None,
        splits=_splits([row[params.split_column] for row in rows], table) if params.split_column else None,
        tables=(table,),
    )
    return records.rows(labels >= 0) if labels.ndim == 1 else records


def _labels(raw: list[str], params: "DataParams", table: Path):  # type: ignore[no-untyped-def]
    several = any("|" in label for label in raw)
    if several:
        parts = [[part for part in label.split("|") if part] for label in raw]
        found = sorted({part for members in parts for part in members})
        wanted = params.classes if isinstance(params.classes, list) else found
        labels = np.array([[name in members for name in wanted] for members in parts], np.int64)
        return "multi-label", tuple(wanted), labels
    empty = sum(not label for label in raw)
    if empty:
        raise InputError(f"The column '{params.label_column}' of {table} must not be empty. Got {empty} empty labels.")
    found = sorted(set(raw))
    classes, labels = keep_classes(raw, found, params.classes, found)
    return ("binary" if len(classes) == 2 else "multi-class"), classes, labels


def _splits(values: list[str], table: Path) -> np.ndarray:
    words = {"train": "train", "training": "train", "val": "val", "valid": "val", "validation": "val", "test": "test"}
    unknown = sorted({value for value in values if value.strip().lower() not in words and value.strip()})
    if unknown:
        raise InputError(f"The splits of {table} must be train, val or test. Got '{unknown[0]}' instead.")
    return np.array([words.get(value.strip().lower(), "") for value in values])


def _inside(folder: Path, name: str) -> Path:
    path = (folder / name).resolve()
    if not path.is_relative_to(folder.resolve()):
        raise InputError(f"The images of {folder} must lie inside of it. Got '{name}' instead.")
    return folder / name


@READERS.register("imagenet")
def read_imagenet(params: "DataParams", folder: Path) -> Records:
    """Read `train/<wnid>/*.JPEG` and `val/<wnid>/*.JPEG`, or a Zarr store with these groups or without groups.

    The official validation images are the test split here; where nothing else is there, all splits are drawn from them.

    Raises:
        InputError: no such folder or store, or validation images that are not sorted into folders of classes.
    """
    if is_store(folder):
        records = read_store(params, folder, IMAGENET_LICENCE)
    elif (folder / "val").is_dir():
        records = _from_folders(params, folder)
    else:
        raise InputError(f"The folder {folder} must hold val/, and train/ if used, with a folder a class. Got no val/.")
    info = replace(records.info, name="imagenet", licence=IMAGENET_LICENCE)
    if records.splits is None or set(records.splits) == {"val"}:
        return replace(records, info=info, splits=None)
    return replace(records, info=info, splits=np.where(records.splits == "val", "test", records.splits))


def _from_folders(params: "DataParams", folder: Path) -> Records:
    tops = sorted(entry.name for entry in folder.iterdir() if entry.is_dir() and not entry.name.startswith("."))
    split_of = {"train": "train", "val": "val", "valid": "val", "validation": "val", "test": "test"}
    nested = bool(tops) and all(top in split_of for top in tops)
    bases = {top: folder / top for top in tops} if nested else {"": folder}
    found = [
        (path, member.name, split_of.get(top, ""))
        for top, base in bases.items()
        for member in sorted(entry for entry in base.iterdir() if entry.is_dir() and not entry.name.startswith("."))
        for path in sorted(member.rglob("*"))
        if path.name.lower().endswith(SUFFIXES)
    ]
    if not found:
        raise InputError(f"The folder {folder} must hold a folder of images a class. Got none; or set data.table.")
    official = sorted({name for _, name, _ in found})
    classes, labels = keep_classes([name for _, name, _ in found], official, params.classes, official)
    names = tuple(str(path.relative_to(folder)) for path, _, _ in found)
    check_unique(names, f"folder {folder}")
    splits = np.array([split for _, _, split in found])
    records = Records(
        info=DatasetInfo(folder.name, "binary" if len(classes) == 2 else "multi-class", classes, LICENCE),
        files=tuple(path for path, _, _ in found),
        names=names,
        labels=labels,
        sample_ids=np.arange(len(found), dtype=np.int64),
        splits=splits if nested and set(SPLITS) & set(splits) else None,
    )
    return records.rows(labels >= 0)
