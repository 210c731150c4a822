"""HyperKvasir endoscopy [Borgli2020] in its official layout."""

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from xai_robustness.datasets.base import DatasetInfo
from xai_robustness.datasets.records import READERS, Records, keep_classes, read_table
from xai_robustness.types import InputError

if TYPE_CHECKING:
    from xai_robustness.datasets.params import DataParams

_GRADES = tuple(f"ulcerative-colitis-grade-{grade}" for grade in ("0-1", "1-2", "2-3", "1", "2", "3"))
DISEASE = (
    *("barretts", "short-segment-barretts", "barretts-short-segment", "oesophagitis-a", "esophagitis-a"),
    *("oesophagitis-b-d", "esophagitis-b-d", "hemorrhoids", "hemorroids", "polyp", "polyps", *_GRADES),
    *("dyed-lifted-polyps", "impacted-stool"),
)
HEALTHY = (
    *("bbps-0-1", "bbps-2-3", "dyed-resection-margins", "ileum", "retroflex-rectum", "retroflex-stomach"),
    *("normal-cecum", "normal-pylorus", "normal-z-line", "cecum", "pylorus", "z-line"),
)
LICENCE = "CC BY 4.0"


@READERS.register("hyper_kvasir")
def read_hyper_kvasir(params: "DataParams", folder: Path) -> Records:
    """Read `image-labels.csv` (Video file, Organ, Finding, Classification) and `{lower,upper}-gi-tract/…/*.jpg`.

    The classes are Non-Disease and Disease by the published grouping of findings, or the findings themselves with
    `data.target: finding`. Samples are named by their path, as the published labels of insertion tubes name them.

    Raises:
        InputError: a file or column is missing, or findings that the grouping does not know.
    """
    table = folder / "image-labels.csv"
    rows = read_table(table, ["Organ", "Finding", "Video file", "Classification"])
    findings = [row["Finding"].strip().lower().replace(" ", "-") for row in rows]
    unknown = sorted(set(findings) - set(DISEASE) - set(HEALTHY))
    if unknown:
        count = sum(finding in unknown for finding in findings)
        raise InputError(
            f"The findings of {table} must be known. Got {count} rows of {len(unknown)} others instead: "
            f"{', '.join(unknown[:5])}. Correct the table."
        )
    if params.target == "finding":
        official = sorted(set(findings))
        classes, labels = keep_classes(findings, official, params.classes, official)
    else:
        classes, labels = ("Non-Disease", "Disease"), np.array([f in DISEASE for f in findings], np.int64)
    paths = [_place(row) for row in rows]
    return Records(
        info=DatasetInfo("hyper_kvasir", "binary" if len(classes) == 2 else "multi-class", classes, LICENCE),
        files=tuple(folder / path for path in paths),
        names=tuple(paths),
        labels=labels,
        sample_ids=np.arange(len(rows), dtype=np.int64),
        tables=(table,),
    )


def _place(row: dict[str, str]) -> str:
    organ = row["Organ"].strip().lower()
    tract = "lower-gi-tract" if organ.startswith("lower") else "upper-gi-tract"
    return f"{tract}/{row['Classification'].strip()}/{row['Finding'].strip()}/{row['Video file'].strip()}.jpg"
