"""What a person answered: tables of reviewed samples and of ticked neurons, read and checked."""

from collections.abc import Iterable
from pathlib import Path

import numpy as np
import pandas as pd

from xai_robustness.types import InputError

LARGEST_ID = 2**53
"""Largest whole number up to which a column that was read as floats is exact."""


def read_table(path: Path) -> pd.DataFrame:
    """Read a person's CSV file; raises InputError where it is none, or has not even a line of column names."""
    try:
        return pd.read_csv(path, dtype={"model": str})
    except pd.errors.EmptyDataError:
        raise InputError(f"The table {path.name} must begin with a line of column names. It is empty.") from None
    except (pd.errors.ParserError, UnicodeDecodeError) as error:
        said = " ".join(str(error).split())
        raise InputError(f"The table {path.name} must be a CSV file in UTF-8. Got instead: {said}") from None


def read_review(path: Path) -> pd.DataFrame:
    """Read a person's review: columns sample_id (integer, each once) and artifact (0, 1, true, false).

    A row whose artifact is empty was not looked at and is left out.

    Raises:
        InputError: no such file, an empty one, missing columns, other values, or a sample that is named twice.
    """
    if not path.is_file():
        raise InputError(
            f"No review table at {path}. Write one with the columns sample_id and artifact, or name another in csv."
        )
    said = read_table(path)
    if missing := [name for name in ("sample_id", "artifact") if name not in said]:
        raise InputError(f"The table {path.name} must have the columns sample_id and artifact. It lacks {missing}.")
    said = said[said["artifact"].notna()]
    values = said["artifact"].astype(str).str.strip().str.lower()
    known = {"0": False, "1": True, "0.0": False, "1.0": True, "false": False, "true": True}
    ids = pd.to_numeric(said["sample_id"], errors="coerce")
    bad = (~values.isin(known) | ~(ids.abs() <= LARGEST_ID) | (ids % 1 != 0) | ids.duplicated()).to_numpy()
    if bad.any():
        raise InputError(
            f"Each row of {path.name} must hold an integer sample_id, once, and an artifact of 0 or 1. "
            f"Got {int(bad.sum())} other rows (first in line {int(said.index[bad][0]) + 2}). Correct them."
        )
    read = pd.DataFrame({"sample_id": ids.astype(np.int64), "artifact": values.map(known).astype(bool)})
    return read.reset_index(drop=True)


def read_reviews(paths: Iterable[Path], known_ids: np.ndarray) -> pd.DataFrame:
    """Read several rounds of a review; the later file's answer to a sample wins.

    Args:
        paths: files of `read_review`, the first round first.
        known_ids: ids (N,) that may be named.

    Returns:
        sample_id and artifact, each sample once.

    Raises:
        InputError: as `read_review`, or a file names samples that are not known.
    """
    rounds = []
    for path in paths:
        said = read_review(path)
        unknown = said.loc[~said["sample_id"].isin(known_ids), "sample_id"]
        if len(unknown):
            raise InputError(
                f"{len(unknown)} of {len(said)} sample ids in {path.name} are not in train or val (first: "
                f"{unknown.iloc[0]}). Use the ids of the suspects' members."
            )
        rounds.append(said)
    return pd.concat(rounds).drop_duplicates("sample_id", keep="last", ignore_index=True)
