"""Shared fixtures: threads and seed of torch, the folder of real data, the accelerator."""

import os
from pathlib import Path

import pytest
import torch

torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS") or min(2, os.cpu_count() or 1)))


@pytest.fixture(autouse=True)
def seeded() -> None:
    """Every test draws the same random numbers in every run, whatever ran before it."""
    torch.manual_seed(0)


@pytest.fixture(scope="session")
def data_root() -> Path:
    """Folder of real data; tests that need it are skipped where it is absent."""
    root = os.environ.get("XAI_DATA_ROOT")
    if not root or not (Path(root) / "medmnist").is_dir():
        pytest.skip("XAI_DATA_ROOT does not name a folder with medmnist/: real data are absent")
    return Path(root)


@pytest.fixture
def accelerator(monkeypatch: pytest.MonkeyPatch) -> str:
    """The kind of accelerator here, with float32 convolutions; tests that need one are skipped where there is none."""
    found = torch.accelerator.current_accelerator(check_available=True)
    if found is None:
        pytest.skip("torch.accelerator finds none")
    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", False)
    return found.type
