"""ISIC dermoscopy of 2019 [Codella2018, Tschandl2018, Combalia2019], 2020 [Rotemberg2021] and 2024 [Kurtansky2024]."""

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from xai_robustness.datasets.base import DatasetInfo
from xai_robustness.datasets.records import READERS, Records, keep_classes, read_table
from xai_robustness.randomness import numpy_rng
from xai_robustness.types import InputError

if TYPE_CHECKING:
    from xai_robustness.datasets.params import DataParams

CLASSES_2019 = ("MEL", "NV", "BCC", "AK", "BKL", "DF", "VASC", "SCC", "UNK")
LICENCE = "CC BY-NC 4.0"
IMAGE_FOLDERS = ("ISIC_2019_Training_Input", "Train")
BENIGN_2024 = 10_000
DIAGNOSES_2020 = {
    "nevus": "NV",
    "melanoma": "MEL",
    "seborrheic keratosis": "BKL",
    "lentigo NOS": "BKL",
    "lichenoid keratosis": "BKL",
    "solar lentigo": "BKL",
}
METADATA = "ISIC_2019_Training_Metadata.csv"


@READERS.register("isic2019")
def read_isic2019(params: "DataParams", folder: Path) -> Records:
    """Read `ISIC_2019_Training_GroundTruth.csv` and the images of `ISIC_2019_Training_Input/` or `Train/`.

    Where `ISIC_2019_Training_Metadata.csv` is there, images of one lesion stay in one split. By default all classes but
    UNK are kept.

    Raises:
        InputError: a file is missing, or a row has not exactly one class.
    """
    table = folder / "ISIC_2019_Training_GroundTruth.csv"
    rows = read_table(table, ["image", *CLASSES_2019], key="image")
    values = np.array([[float(row[name] or 0) for name in CLASSES_2019] for row in rows])
    unclear = np.flatnonzero((values == 1).sum(1) != 1)
    if len(unclear):
        raise InputError(
            f"The table {table} must give each image one class. Got {len(unclear)} rows with none or several instead, "
            f"the first is {rows[unclear[0]]['image']}."
        )
    official = [CLASSES_2019[i] for i in values.argmax(1)]
    classes, labels = keep_classes(official, CLASSES_2019, params.classes, CLASSES_2019[:-1])
    images = image_folder(folder, IMAGE_FOLDERS)
    names = tuple(row["image"] for row in rows)
    return Records(
        info=DatasetInfo("isic2019", "binary" if len(classes) == 2 else "multi-class", classes, LICENCE),
        files=tuple(images / f"{name}.jpg" for name in names),
        names=names,
        labels=labels,
        sample_ids=np.arange(len(rows), dtype=np.int64),
        groups=_lesions(folder / METADATA, names),
        tables=(table, *(path for path in (folder / METADATA,) if path.is_file())),
    )


def image_folder(folder: Path, choices: tuple[str, ...]) -> Path:
    """The first of the folders that exists; raises InputError if none does."""
    for choice in choices:
        if (folder / choice).is_dir():
            return folder / choice
    raise InputError(f"The folder {folder} must hold the images in one of: {', '.join(choices)}. Got none of them.")


def _lesions(path: Path, names: tuple[str, ...]) -> np.ndarray | None:
    if not path.is_file():
        return None
    lesions = {row["image"]: row["lesion_id"] for row in read_table(path, ["image", "lesion_id"])}
    return np.array([lesions.get(name) or "" for name in names])


@READERS.register("isic2020")
def read_isic2020(params: "DataParams", folder: Path) -> Records:
    """Read `train.csv` and `train/<image_name>.jpg`; no patient is in two splits.

    Diagnoses become ISIC 2019's classes: nevus NV, melanoma MEL, four keratoses and lentigines BKL, all others UNK. By
    default NV, MEL and BKL are kept.

    Raises:
        InputError: a file or column is missing.
    """
    table = folder / "train.csv"
    rows = read_table(table, ["image_name", "patient_id", "diagnosis"], key="image_name")
    official = [DIAGNOSES_2020.get(row["diagnosis"].strip(), "UNK") for row in rows]
    classes, labels = keep_classes(official, CLASSES_2019, params.classes, ("NV", "MEL", "BKL"))
    images = image_folder(folder, ("train", "jpeg/train"))
    return Records(
        info=DatasetInfo("isic2020", "binary" if len(classes) == 2 else "multi-class", classes, LICENCE),
        files=tuple(images / f"{row['image_name']}.jpg" for row in rows),
        names=tuple(row["image_name"] for row in rows),
        labels=labels,
        sample_ids=np.arange(len(rows), dtype=np.int64),
        groups=np.array([row["patient_id"] for row in rows]),
        tables=(table,),
    )


@READERS.register("isic2019_2020")
def read_isic_merged(params: "DataParams", folder: Path) -> Records:
    """Read `isic2019/` and `isic2020/` below the folder as one data set; an image in both counts once, as of 2020.

    Raises:
        InputError: as the two readers.
    """
    chosen = params.model_copy(update={"classes": params.classes or ["NV", "MEL", "BKL"]})
    first, second = read_isic2019(chosen, folder / "isic2019"), read_isic2020(chosen, folder / "isic2020")
    later = {_same(name) for name in second.names}
    first = first.rows(np.array([_same(name) not in later for name in first.names], bool))
    lesions = first.groups if first.groups is not None else np.full(len(first), "")
    assert second.groups is not None
    return Records(
        info=DatasetInfo("isic2019_2020", first.info.task, first.info.class_names, LICENCE),
        files=first.files + second.files,
        names=first.names + second.names,
        labels=np.concatenate([first.labels, second.labels]),
        sample_ids=np.concatenate([first.sample_ids, second.sample_ids + 1_000_000]),
        groups=np.concatenate([lesions, second.groups]),
        tables=first.tables + second.tables,
    )


def _same(name: str) -> str:
    return name.removesuffix("_downsampled")


@READERS.register("isic2024")
def read_isic2024(params: "DataParams", folder: Path) -> Records:
    """Read `train-metadata.csv` and `train-image/image/<isic_id>.jpg`: all malignant and 10,000 benign lesions.

    The benign ones are drawn without replacement by `data.split_seed`; no patient is in two splits.

    Raises:
        InputError: a file or column is missing.
    """
    table = folder / "train-metadata.csv"
    rows = read_table(table, ["isic_id", "patient_id", "target"], key="isic_id")
    labels = np.array([row["target"] in ("1", "1.0") for row in rows], np.int64)
    benign = numpy_rng(params.split_seed, "isic2024").permutation(np.flatnonzero(labels == 0))[:BENIGN_2024]
    records = Records(
        info=DatasetInfo("isic2024", "binary", ("benign", "malignant"), LICENCE),
        files=tuple(folder / "train-image" / "image" / f"{row['isic_id']}.jpg" for row in rows),
        names=tuple(row["isic_id"] for row in rows),
        labels=labels,
        sample_ids=np.arange(len(rows), dtype=np.int64),
        groups=np.array([row["patient_id"] for row in rows]),
        tables=(table,),
    )
    return records.rows(np.sort(np.concatenate([np.flatnonzero(labels == 1), benign])))
