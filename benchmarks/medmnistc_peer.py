"""What runs in the environment of medmnistc 0.1.0, image by image as it does: CPU seconds, or pixel statistics.

    <python> medmnistc_peer.py seconds <images.npy> <tables,> <runs>
    <python> medmnistc_peer.py statistics <images.npy> <table/corruption/severity,> <folder>

The current libraries have dropped three things that medmnistc still uses; they are put back here.
"""

import json
import os
import statistics
import sys
import time
import types
from pathlib import Path
from typing import Any

import numpy as np

COLUMNS = ("mean", "standard deviation", "mean absolute difference", "share changed by more than 5 grey levels")
SEVERITY = 3


def measure(made: np.ndarray, given: np.ndarray) -> np.ndarray:
    """COLUMNS of each uint8 image (N,H,W[,3]), in [0,1]; used on both sides."""
    axes = tuple(range(1, made.ndim))
    made, given = made.astype(np.float32) / 255, given.astype(np.float32) / 255
    change = np.abs(made - given)
    columns = made.mean(axes), made.std(axes), change.mean(axes), (change > 0.02).mean(axes)
    return np.stack(columns, axis=1)


def motion_blur_works() -> bool:
    """Whether ImageMagick is there; without it, stand-ins let the rest of medmnistc be imported."""
    try:
        import wand.image  # noqa: F401
    except ImportError:
        for name in ("wand", "wand.image", "wand.api"):
            sys.modules[name] = types.ModuleType(name)
        sys.modules["wand.image"].Image = object  # type: ignore[attr-defined]
        sys.modules["wand.api"].library = types.SimpleNamespace()  # type: ignore[attr-defined]
        return False
    return True


def prepared() -> tuple[dict[str, dict[str, Any]], dict[str, bool]]:
    """Every table's corruptions, ready for `apply`, and whether a table's images have colours."""
    import cv2
    import torch

    torch.set_num_threads(1)
    cv2.setNumThreads(1)
    with_motion = motion_blur_works()
    from medmnistc.corruptions.registry import CORRUPTIONS_DS, DATASET_RGB

    np.random.seed(0)  # noqa: NPY002  the stream that medmnistc draws from
    np.fromstring = lambda data, dtype: np.frombuffer(data, dtype)  # type: ignore[assignment]
    tables = {}
    for table, corruptions in CORRUPTIONS_DS.items():
        tables[table] = {name: c for name, c in corruptions.items() if with_motion or name != "motion_blur"}
        for name, corruption in corruptions.items():
            if name == "impulse_noise":
                corruption.rng = np.random.default_rng(0)
            if name == "stain_deposit":  # NumPy 2 refuses its product of 8 and 64 bits
                corruption._inks = {k: v.astype(np.uint8) for k, v in corruption.inks.items()}
    return tables, DATASET_RGB


def corrupted(corruption: Any, image: np.ndarray, severity: int, rgb: bool) -> np.ndarray:
    """As its DatasetManager does: a gray image as a colour image, and the luma of the result."""
    from PIL import Image

    given = Image.fromarray(image)
    if rgb:
        return np.asarray(corruption.apply(given, severity - 1), np.uint8)
    made = corruption.apply(given.convert("RGB"), severity - 1)
    return np.array(Image.fromarray(np.asarray(made, np.uint8)).convert("L"))


def gray(images: np.ndarray) -> np.ndarray:
    """Pillow's luma of colour images."""
    from PIL import Image

    return np.stack([np.array(Image.fromarray(image).convert("L")) for image in images])


def seconds(path: str, names: str, runs: str) -> None:
    """Print the median CPU seconds of each corruption of the tables."""
    tables, rgb = prepared()
    images = np.load(path)
    given = {True: images, False: gray(images)}
    found: dict[str, dict[str, float]] = {}
    for table in names.split(","):
        found[table] = {}
        for name, corruption in tables[table].items():
            taken = []
            for run in range(-1, int(runs)):
                started = time.process_time()
                for image in given[rgb[table]]:
                    corrupted(corruption, image, SEVERITY, rgb[table])
                if run >= 0:
                    taken.append(time.process_time() - started)
            found[table][name] = statistics.median(taken)
    sys.stdout.write(json.dumps(found) + "\n")


def statistics_of(path: str, cases: str, folder: str) -> None:
    """Write COLUMNS of every image as `<folder>/<table>_<corruption>_<severity>.npy`, the cases that are missing."""
    tables, rgb = prepared()
    images = np.load(path, mmap_mode="r")
    given: dict[bool, np.ndarray] = {}
    for case in cases.split(","):
        table, name, severity = case.split("/")
        target = Path(folder) / f"{case.replace('/', '_')}.npy"
        if target.exists() or name not in tables[table]:
            continue
        colours = rgb[table]
        if colours not in given:
            given[colours] = images if colours else gray(images)
        rows = [
            measure(corrupted(tables[table][name], image, int(severity), colours)[None], image[None])
            for image in given[colours]
        ]
        partial = target.with_suffix(f".{os.getpid()}.npy")
        np.save(partial, np.concatenate(rows))
        partial.replace(target)


if __name__ == "__main__":
    {"seconds": seconds, "statistics": statistics_of}[sys.argv[1]](*sys.argv[2:])
