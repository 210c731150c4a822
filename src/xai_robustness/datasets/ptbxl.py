"""PTB-XL electrocardiograms [Wagner2020] in their official layout: 12 leads, 10 s, 100 or 500 Hz."""

import ast
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from jaxtyping import Float, Int64
from scipy import ndimage, signal

from xai_robustness.datasets.base import DatasetInfo
from xai_robustness.datasets.decode import BadFileError
from xai_robustness.datasets.records import READERS, Records, read_table
from xai_robustness.types import InputError

if TYPE_CHECKING:
    from xai_robustness.datasets.params import DataParams

LEADS = ("I", "II", "III", "AVR", "AVL", "AVF", "V1", "V2", "V3", "V4", "V5", "V6")
SUPERCLASSES = ("NORM", "MI", "STTC", "CD", "HYP")
TARGETS = {"superclass": "diagnostic_class", "subclass": "diagnostic_subclass", "diagnostic": ""}
SECONDS = 10
LICENCE = "CC BY 4.0"
MOST_PEAKS = 64


@READERS.register("ptbxl")
def read_ptbxl(params: "DataParams", folder: Path) -> Records:
    """Read `ptbxl_database.csv` and `scp_statements.csv`; the signals are WFDB records.

    Labels are the diagnostic SCP codes of a record, or their classes, `data.target`: superclass (5), subclass (23) or
    diagnostic (44). The split is the official one: folds 1 to 8 train, 9 validate, 10 test; no patient is in two folds.
    R peaks are taken from a column `r_peaks` (`[12 95 …]`) where there is one, else they are found in the signal.

    Raises:
        InputError: a file or column is missing, or an unknown target.
    """
    target = params.target or "superclass"
    if target not in TARGETS:
        raise InputError(f"Unknown target '{target}' in data.target. Choose from: {', '.join(TARGETS)}.")
    table = folder / "ptbxl_database.csv"
    column = "filename_lr" if params.rate == 100 else "filename_hr"
    rows = read_table(table, ["ecg_id", "patient_id", "scp_codes", "strat_fold", column], key="ecg_id")
    coded = folder / "scp_statements.csv"
    statements = read_table(coded, ["", "diagnostic", "diagnostic_class", "diagnostic_subclass"])
    classes, labels = _labels([row["scp_codes"] for row in rows], statements, TARGETS[target])
    if isinstance(params.classes, list):
        labels = labels[:, [classes.index(name) for name in _known(params.classes, classes)]]
        classes = tuple(params.classes)
    folds = np.array([int(float(row["strat_fold"])) for row in rows])
    samples = params.rate * SECONDS
    return Records(
        info=DatasetInfo("ptbxl", "multi-label", classes, LICENCE),
        files=tuple(folder / f"{row[column]}.hea" for row in rows),
        names=tuple(row["ecg_id"] for row in rows),
        labels=labels,
        sample_ids=np.array([int(row["ecg_id"]) for row in rows], np.int64),
        groups=np.array([row["patient_id"] for row in rows]),
        splits=np.select([folds == 9, folds == 10], ["val", "test"], "train"),
        tables=(table, coded),
        shape=(1, samples, len(LEADS)),
        beside=(".dat",),
        decode=partial(read_record, samples=samples),
        peaks=_listed_peaks(rows),
    )


def _known(wanted: list[str], classes: tuple[str, ...]) -> list[str]:
    unknown = [name for name in wanted if name not in classes]
    if unknown:
        raise InputError(f"Unknown class '{unknown[0]}' in data.classes. Choose from: {', '.join(classes)}.")
    return wanted


def _labels(codes: list[str], statements: list[dict[str, str]], column: str) -> tuple[tuple[str, ...], np.ndarray]:
    of_code = {s[""]: s[column] if column else s[""] for s in statements if s["diagnostic"].strip() in ("1", "1.0")}
    found = set(of_code.values()) - {""}
    classes = SUPERCLASSES if found == set(SUPERCLASSES) else tuple(sorted(found))
    place = {name: i for i, name in enumerate(classes)}
    labels = np.zeros((len(codes), len(classes)), np.int64)
    for i, text in enumerate(codes):
        try:
            listed = ast.literal_eval(text)
        except (ValueError, SyntaxError) as error:
            raise InputError(f"The scp_codes of PTB-XL must be dictionaries. Got {text[:60]!r} instead.") from error
        for code in listed:
            if of_code.get(code):
                labels[i, place[of_code[code]]] = 1
    return classes, labels


def _listed_peaks(rows: list[dict[str, str]]) -> np.ndarray | None:
    if "r_peaks" not in rows[0]:
        return None
    peaks = np.full((len(rows), MOST_PEAKS), -1, np.int64)
    for i, row in enumerate(rows):
        found = [int(word) for word in row["r_peaks"].strip("[] ").replace(",", " ").split()][:MOST_PEAKS]
        peaks[i, : len(found)] = found
    return peaks


def read_record(path: Path, samples: int) -> Float[np.ndarray, "1 t c"]:
    """Read one WFDB record.

    Args:
        path: its `.hea` file.
        samples: samples a lead must have.

    Returns:
        float32 (1,T,12) in mV, leads in the order of LEADS.

    Raises:
        BadFileError: not a record, a lead is missing or short, or a value is not finite.
    """
    import wfdb  # heavy, and for electrocardiograms alone

    try:
        record = wfdb.rdrecord(str(path.with_suffix("")))
        values = np.asarray(record.p_signal, np.float32)
    except Exception as error:  # wfdb raises errors of many types
        raise BadFileError(str(error) or type(error).__name__) from error
    names = [name.strip().upper() for name in record.sig_name]
    missing = [lead for lead in LEADS if lead not in names]
    if missing:
        raise BadFileError(f"it lacks lead {', '.join(missing)}")
    if len(values) != samples:
        raise BadFileError(f"it has {len(values)} samples, not {samples}")
    values = values[:, [names.index(lead) for lead in LEADS]]
    if not np.isfinite(values).all():
        raise BadFileError("it holds values that are not finite")
    return values[None]


def find_r_peaks(values: Float[np.ndarray, "t c"], rate: int) -> Int64[np.ndarray, " p"]:
    """Find R peaks: maxima of the energy between 5 and 15 Hz over all leads, after Pan and Tompkins [Pan1985].

    Args:
        values: (T,C), any unit.
        rate: sampling rate in Hz.

    Returns:
        Sample numbers, ascending.
    """
    sections = signal.butter(2, [5, 15], "bandpass", fs=rate, output="sos")
    slope = np.gradient(signal.sosfiltfilt(sections, values, axis=0), axis=0)
    scale = np.median(np.abs(slope), axis=0) + 1e-9
    energy = ndimage.uniform_filter1d(((slope / scale) ** 2).mean(1), max(1, int(0.12 * rate)))
    peaks, _ = signal.find_peaks(energy, height=0.3 * np.percentile(energy, 98), distance=int(0.3 * rate))
    return peaks.astype(np.int64)
