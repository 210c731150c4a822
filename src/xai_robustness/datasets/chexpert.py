"""CheXpert chest X-rays [Irvin2019] in their official layout."""

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from xai_robustness.datasets.base import DatasetInfo
from xai_robustness.datasets.records import READERS, Records, check_unique, read_table
from xai_robustness.types import InputError

if TYPE_CHECKING:
    from xai_robustness.datasets.params import DataParams

COMPETITION = ("Atelectasis", "Cardiomegaly", "Consolidation", "Edema", "Pleural Effusion")
LICENCE = "Stanford University Dataset Research Use Agreement: non-commercial research"


@READERS.register("chexpert")
def read_chexpert(params: "DataParams", folder: Path) -> Records:
    """Read `train.csv`, whose `Path` is `CheXpert-v1.0[-small]/train/patientNNN/studyK/viewX.jpg`.

    `data.target` is one finding (Cardiomegaly unless told otherwise: 1 is positive, all else negative), or
    `competition`, the five findings of the competition as a multi-label task. No patient is in two splits. Samples are
    named `patient_study_view.jpg`, as published labels of pacemakers name them.

    Raises:
        InputError: a file or column is missing, or paths of another kind.
    """
    table, target = folder / "train.csv", params.target or "Cardiomegaly"
    findings = COMPETITION if target == "competition" else (target,)
    rows = read_table(table, ["Path", *findings], key="Path")
    parts = [row["Path"].split("/") for row in rows]
    wrong = next((row["Path"] for row, part in zip(rows, parts) if len(part) < 4 or ".." in part), None)
    if wrong:
        raise InputError(f"The paths of {table} must end in patient/study/view.jpg. Got '{wrong}' instead.")
    positive = np.array([[row[name] in ("1", "1.0") for name in findings] for row in rows], np.int64)
    single = len(findings) == 1
    names = tuple("_".join(part[-3:]) for part in parts)
    check_unique(names, f"paths of {table}")
    classes = (f"no {target}", target) if single else findings
    return Records(
        info=DatasetInfo("chexpert", "binary" if single else "multi-label", classes, LICENCE),
        files=tuple(folder.joinpath(*part[1:]) for part in parts),
        names=names,
        labels=positive[:, 0] if single else positive,
        sample_ids=np.arange(len(rows), dtype=np.int64),
        groups=np.array([part[-3] for part in parts]),
        tables=(table,),
    )
