"""The whole chain on tiny trees in the layouts of data sets that are not here, one study each."""

import hashlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from medmnist import INFO
from tests.datasets import trees
from tests.models.tiny import tiny_stages

from xai_robustness.models.zoo import MODELS

LAYERS = {"layers": ["layer2"]}
SMALL: dict[str, Any] = {
    "training__epochs": 1,
    "training__checkpoint": None,
    "training__start": None,
    "model__name": "tiny",
    "sample_retrieval__review": {"reviewer": "csv", "csv": "reviewed.csv"},
    "mitigation__rrr__lambdas": [10.0],
    "mitigation__rr_clarc": LAYERS | {"lambdas": [100.0]},
    "mitigation__p_clarc": LAYERS,
    "mitigation__reactive_p_clarc": LAYERS,
}
ALL = {f"data__n_{split}": None for split in ("train", "val", "test")}
DRAWN = ALL | {"data__val_share": 0.25, "data__test_share": 0.25, "data__size": 24}
RULER = {"artifact__kind": "ruler", "artifact__attacked_classes": [0], "artifact__rate": 0.5}
ECG = {
    "artifact": {"kind": "defective_lead", "attacked_classes": [1], "rate": 0.6, "leads": [1], "samples": 100},
    "model__name": "xresnet1d_small",
    "training__augment": False,
}
CASES: dict[str, tuple[Callable[[Path, int], Path], str, dict[str, Any]]] = {
    "chexpert": (trees.chexpert, "chexpert_brightness", DRAWN | {"artifact__rate": 0.5}),
    "hyper_kvasir": (trees.hyper_kvasir, "hyper_kvasir_timestamp", DRAWN | {"artifact__rate": 0.5}),
    "imagenet": (trees.imagenet, "imagenet_attribution", DRAWN | {"attribution_sets__methods": ["saliency"]} | RULER),
    "isic2019": (trees.isic2019, "isic_microscope", DRAWN | {"artifact__rate": 0.5}),
    "isic2020": (trees.isic2020, "smoke", DRAWN | {"data__name": "isic2020"}),
    "isic2024": (trees.isic2024, "smoke", DRAWN | {"data__name": "isic2024"}),
    "ham10000": (trees.ham10000, "ham10000_adversarial", DRAWN | {"training__preset": None}),
    "dicom": (trees.xrays, "smoke", DRAWN | {"data__name": "folder", "data__folder": "xrays"}),
    "nifti": (trees.scans, "smoke", DRAWN | {"data__name": "folder", "data__folder": "scans"}),
    "ptbxl": (trees.ptbxl, "ptbxl_defective_lead", ECG | {"data__folder": "ptbxl"}),
}


@pytest.mark.slow
@pytest.mark.parametrize("layout", CASES)
def test_the_chain_runs_on(layout: str, fresh: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    make, env, changes = CASES[layout]
    make(fresh.folder / "data" / "01_raw", 120)
    chain(fresh, monkeypatch, env, changes)


def chain(fresh: Any, monkeypatch: pytest.MonkeyPatch, env: str, changes: dict[str, Any]) -> None:
    """Ingest, let a person label the artifact, and run to the verdict; a tiny network, one epoch, no tracking."""
    (fresh.folder / "conf" / "base" / "mlflow.yml").write_text("enabled: false\n")
    monkeypatch.setitem(MODELS._entries, "tiny", tiny_stages)
    monkeypatch.chdir(fresh.folder)
    Path("reviewed.csv").write_text("sample_id,artifact\n")
    whole = {"env": env, **SMALL, **changes}
    ingest, _ = fresh.run(selection={"to_outputs": ["artifact_truth"]}, **whole)
    truth = ingest.load_context().catalog.load("artifact_truth")
    truth[["sample_id", "artifact"]].to_csv("reviewed.csv", index=False)
    session, ran = fresh.run(selection={"to_outputs": ["verdict"]}, **whole)  # without figures
    assert {"train_classifier", "compute_latents", "fit_cavs", "localize_artifacts", "state_verdict"} <= set(ran)
    catalog = session.load_context().catalog
    clean = catalog.load("images_report")["test/clean"]
    assert len(clean) and np.isin(clean.labels, range(clean.info.n_classes)).all()
    judged = catalog.load("correction_metrics")
    assert set(judged["method"]) == {"vanilla", "rrr", "rr_clarc", "p_clarc", "reactive_p_clarc"}
    assert catalog.load("verdict")["sentence"]


@pytest.mark.slow
@pytest.mark.parametrize("flag", ["bloodmnist", "dermamnist", "octmnist"])
def test_the_chain_runs_on_a_set_of_medmnist(flag: str, fresh: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    path = trees.medmnist(fresh.folder / "data" / "01_raw", flag, 120)
    monkeypatch.setitem(INFO[flag], "MD5", hashlib.md5(path.read_bytes()).hexdigest())
    chain(fresh, monkeypatch, flag, {})
