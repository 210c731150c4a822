"""The corruptions of three tables of MedMNIST-C at 224 pixels against medmnistc, image by image as it does.

medmnistc needs old libraries, so it runs in an environment of its own, whose interpreter MEDMNISTC_PYTHON names:

    python -m venv peer && peer/bin/pip install --no-deps medmnistc
    peer/bin/pip install numpy pillow scikit-image scipy opencv-python-headless wand torchvision tqdm

Motion blur takes part where ImageMagick is installed there, and is left out of both sides otherwise.
"""

import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

TABLES = ("pathmnist", "dermamnist", "chestmnist")
IMAGES, SEVERITY = 16, 3


def run(runs: int) -> list[dict[str, object]]:
    """Seconds for 16 images at severity 3: each corruption, and each table as a whole."""
    import torch

    from xai_robustness.corruptions import corrupt
    from xai_robustness.datasets.phantom import make_phantom

    python = os.environ.get("MEDMNISTC_PYTHON")
    if python is None:
        raise SystemExit(
            "Set MEDMNISTC_PYTHON to the interpreter of an environment with medmnistc; see corruptions.py."
        )
    pixels = make_phantom(224, {"train": 1, "val": 1, "test": IMAGES}, 2024)["test_images"]
    images = torch.from_numpy(pixels).permute(0, 3, 1, 2).contiguous().float() / 255
    theirs = _peer(python, pixels, runs)
    rows: list[dict[str, object]] = []
    for table in TABLES:
        ours: dict[str, float] = {}
        given = images.mean(dim=1, keepdim=True) if table == "chestmnist" else images
        for name in theirs[table]:
            corrupt(name, given, range(IMAGES), SEVERITY, 0, table)
            seconds = []
            for _ in range(runs):
                started = time.perf_counter()
                corrupt(name, given, range(IMAGES), SEVERITY, 0, table)
                seconds.append(time.perf_counter() - started)
            ours[name] = statistics.median(seconds)
            rows.append(_row(f"{table}, {name}", ours[name], theirs[table][name]))
        rows.append(_row(f"{table}, all of them", sum(ours.values()), sum(theirs[table].values())))
    return rows


def _row(case: str, ours: float, peer: float) -> dict[str, object]:
    return {"case": case, "ours": round(ours, 4), "peer": round(peer, 4), "unit": "s", "ratio": round(peer / ours, 2)}


def _peer(python: str, pixels: np.ndarray, runs: int) -> dict[str, dict[str, float]]:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "images.npy"
        np.save(path, pixels)
        command = [python, __file__, str(path), str(runs)]
        environment = {k: v for k, v in os.environ.items() if k != "PYTHONPATH"}
        found = subprocess.run(command, check=True, capture_output=True, text=True, env=environment)
    measured: dict[str, dict[str, float]] = json.loads(found.stdout.splitlines()[-1])
    return measured


def peer(path: str, runs: int) -> dict[str, dict[str, float]]:
    """Runs in the peer's environment."""
    import types

    import cv2
    import torch

    torch.set_num_threads(1)
    cv2.setNumThreads(1)
    try:
        import wand.image  # noqa: F401
    except ImportError:
        for name in ("wand", "wand.image", "wand.api"):
            sys.modules[name] = types.ModuleType(name)
        sys.modules["wand.image"].Image = object  # type: ignore[attr-defined]
        sys.modules["wand.api"].library = types.SimpleNamespace()  # type: ignore[attr-defined]
    from medmnistc.corruptions.registry import CORRUPTIONS_DS, DATASET_RGB
    from PIL import Image

    np.random.seed(0)  # noqa: NPY002  the stream that medmnistc draws from
    images = np.load(path)
    found: dict[str, dict[str, float]] = {}
    for table in TABLES:
        found[table] = {}
        for name, corruption in CORRUPTIONS_DS[table].items():
            if name == "motion_blur" and sys.modules["wand.image"].Image is object:
                continue
            if name == "impulse_noise":
                corruption.rng = np.random.default_rng(0)
            if name == "stain_deposit":  # NumPy 2 refuses its product of 8 and 64 bits
                corruption._inks = {k: v.astype(np.uint8) for k, v in corruption.inks.items()}
            seconds = []
            for run_ in range(-1, runs):
                started = time.perf_counter()
                for image in images:
                    given = Image.fromarray(image)
                    if DATASET_RGB[table]:
                        corruption.apply(given, SEVERITY - 1)
                    else:
                        made = corruption.apply(given.convert("L").convert("RGB"), SEVERITY - 1)
                        np.array(Image.fromarray(made).convert("L"))
                if run_ >= 0:
                    seconds.append(time.perf_counter() - started)
            found[table][name] = statistics.median(seconds)
    return found


if __name__ == "__main__":
    sys.stdout.write(json.dumps(peer(sys.argv[1], int(sys.argv[2]))) + "\n")
