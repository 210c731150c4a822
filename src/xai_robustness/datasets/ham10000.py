"""HAM10000 dermoscopy [Tschandl2018] in its official layout."""

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from xai_robustness.datasets.base import DatasetInfo
from xai_robustness.datasets.records import READERS, Records, keep_classes, read_table

if TYPE_CHECKING:
    from xai_robustness.datasets.params import DataParams

CLASSES = ("akiec", "bcc", "bkl", "df", "mel", "nv", "vasc")
LICENCE = "CC BY-NC 4.0"
IMAGE_FOLDERS = ("HAM10000_images_part_1", "HAM10000_images_part_2", "HAM10000_images")


@READERS.register("ham10000")
def read_ham10000(params: "DataParams", folder: Path) -> Records:
    """Read `HAM10000_metadata` (or `.csv`) and the images; all images of a lesion stay in one split.

    Raises:
        InputError: a file or column is missing, or an unknown class.
    """
    plain = folder / "HAM10000_metadata"
    table = plain if plain.is_file() else plain.with_suffix(".csv")
    rows = read_table(table, ["image_id", "lesion_id", "dx"], key="image_id")
    classes, labels = keep_classes([row["dx"] for row in rows], CLASSES, params.classes, CLASSES)
    place = {
        entry.name: entry for name in IMAGE_FOLDERS if (folder / name).is_dir() for entry in (folder / name).iterdir()
    }
    names = tuple(row["image_id"] for row in rows)
    return Records(
        info=DatasetInfo("ham10000", "binary" if len(classes) == 2 else "multi-class", classes, LICENCE),
        files=tuple(place.get(f"{name}.jpg", folder / IMAGE_FOLDERS[0] / f"{name}.jpg") for name in names),
        names=names,
        labels=labels,
        sample_ids=np.arange(len(rows), dtype=np.int64),
        groups=np.array([row["lesion_id"] for row in rows]),
        tables=(table,),
    )
