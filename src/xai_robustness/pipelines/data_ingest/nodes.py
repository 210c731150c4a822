"""Nodes of data_ingest."""

import logging
import os
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from xai_robustness.artifacts.insertion import ArtifactParams
from xai_robustness.chunks import ArraysJob
from xai_robustness.datasets.base import ImageSet, take
from xai_robustness.datasets.load import DataParams, load_dataset, raw_root
from xai_robustness.datasets.splits import leakage_report, leakage_sentences
from xai_robustness.figures.data import contact_sheet
from xai_robustness.pipelines.data_ingest.images import (
    CONTROL,
    FIT,
    REPORT,
    SELECT,
    mask_job,
    raw_job,
    truth_table,
    version_job,
)
from xai_robustness.types import SPLITS

logger = logging.getLogger(__name__)

Sets = dict[str, ImageSet]
SHOWN = 6


def load_images(params: DataParams, seed: int) -> ArraysJob:
    """Read or draw the data set."""
    return raw_job(load_dataset(params, seed, raw_root(Path(os.environ.get("XAI_PROJECT", ".")))))


def check_leakage(raw: Sets) -> dict[str, Any]:
    """Look for patients and for images that lie in two splits; what is found is warned of with counts."""
    parts = {split: raw[f"{split}/raw"] for split in SPLITS}
    report = leakage_report(
        {split: part.images for split, part in parts.items()},
        {split: part.extras.get("group") for split, part in parts.items()},
    )
    for sentence in leakage_sentences(report):
        logger.warning("%s: %s", parts["train"].info.name, sentence)
    return report


def insert_artifacts(
    raw: Sets, params: ArtifactParams, seed: int
) -> tuple[ArraysJob, ArraysJob, ArraysJob, ArraysJob, ArraysJob, pd.DataFrame]:
    """Make the clean, biased and attacked version of every split, the true masks and the truth table."""
    return (
        version_job(raw, FIT, params, seed, told=False),
        version_job(raw, SELECT, params, seed, told=True),
        version_job(raw, REPORT, params, seed, told=True),
        version_job(raw, CONTROL, params, seed, told=True),
        mask_job(raw, params, seed),
        truth_table(raw, params, seed),
    )


def plot_images(images_report: Sets) -> Figure:
    """Draw samples of every class, clean and attacked."""
    clean, attacked = images_report["test/clean"], images_report["test/attacked"]
    sheet = {}
    for index, name in enumerate(clean.info.class_names):
        member = clean.labels == index if clean.labels.ndim == 1 else clean.labels[:, index] == 1
        rows = np.flatnonzero(member)[:SHOWN]
        sheet[name] = {"clean": take(clean.images, rows), "attacked": take(attacked.images, rows)}
    return contact_sheet(sheet)
