"""The corruptions of three tables of MedMNIST-C at 224 pixels against medmnistc, image by image as it does.

The three tables hold all 18 corruptions. medmnistc runs in an environment of its own below `data/bench_peers`, which is
made here (or in the one whose interpreter MEDMNISTC_PYTHON names); what it shares with this project (torch, NumPy,
Pillow, scikit-image, SciPy) it takes from there, so that both sides use the same versions. Motion blur needs
ImageMagick (`apt-get install libmagickwand-6.q16-6`) and is left out of both sides without it.

`python benchmarks/corruptions.py` compares the two in law: pixel statistics of 1,000 images for each corruption and
severity. Finished cases are kept, so an interrupted run goes on; `--minutes` ends one early.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
import venv
from importlib.metadata import version
from pathlib import Path

import numpy as np
import torch
from medmnistc_peer import COLUMNS, SEVERITY, gray, measure

from xai_robustness.corruptions import corrupt
from xai_robustness.corruptions.tables import corruptions_of
from xai_robustness.datasets.phantom import make_phantom

TABLES = ("pathmnist", "dermamnist", "chestmnist")
GRAY = ("chestmnist",)
IMAGES, IN_LAW = 16, 1000
PEERS = Path(__file__).parents[1] / "data" / "bench_peers"
RESULTS = Path(__file__).parent / "results" / "corruptions_law.json"
FIXTURE = Path(__file__).parents[1] / "tests" / "fixtures" / "medmnist_c_law.json"
FIRST = 4
PINNED = ("medmnistc==0.1.0", "Wand>=0.6.13", "opencv-python-headless", "scikit-image", "tqdm")


def interpreter() -> str:
    """The Python that has medmnistc; its environment is made if there is none."""
    if "MEDMNISTC_PYTHON" in os.environ:
        return os.environ["MEDMNISTC_PYTHON"]
    folder = PEERS / "medmnistc"
    python = folder / "bin" / "python"
    if not (folder / "complete").exists():
        venv.create(folder, with_pip=True, clear=True)
        site = folder / "lib" / f"python{sys.version_info.major}.{sys.version_info.minor}" / "site-packages"
        (site / "zz_shared.pth").write_text(f"{Path(np.__file__).parents[1]}\n")
        installed = subprocess.run([python, "-m", "pip", "install", "--quiet", "--no-deps", *PINNED])
        if installed.returncode != 0:
            raise SystemExit("medmnistc cannot be installed. Set MEDMNISTC_PYTHON to an interpreter that has it.")
        (folder / "complete").touch()
    return str(python)


def peer(*arguments: str) -> str:
    """Output of medmnistc_peer.py in its environment."""
    command = [interpreter(), str(Path(__file__).with_name("medmnistc_peer.py")), *arguments]
    environment = {k: v for k, v in os.environ.items() if k != "PYTHONPATH"}
    return subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True, env=environment).stdout


def phantom(n: int) -> np.ndarray:
    """Images (N,224,224,3) uint8."""
    images: np.ndarray = make_phantom(224, {"train": 1, "val": 1, "test": n}, 2024)["test_images"]
    return images


def tensor(pixels: np.ndarray) -> torch.Tensor:
    """Images (N,C,H,W) in [0,1]."""
    pixels = pixels[..., None] if pixels.ndim == 3 else pixels
    return torch.from_numpy(pixels).permute(0, 3, 1, 2).contiguous().float() / 255


def run(runs: int) -> list[dict[str, object]]:
    """CPU seconds for 16 images at severity 3: each corruption, each table, all of them; one thread on both sides."""
    torch.set_num_threads(1)
    pixels = phantom(IMAGES)
    given = {False: tensor(pixels), True: tensor(gray(pixels))}
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "images.npy"
        np.save(path, pixels)
        theirs = json.loads(peer("seconds", str(path), ",".join(TABLES), str(runs)).splitlines()[-1])
    rows: list[dict[str, object]] = []
    for table in TABLES:
        ours = {name: _seconds(name, given[table in GRAY], table, runs) for name in theirs[table]}
        rows += [_row(f"{table}, {name}", ours[name], theirs[table][name]) for name in ours]
        rows.append(_row(f"{table}, all of them", sum(ours.values()), sum(theirs[table].values())))
    totals = [[row[key] for row in rows if str(row["case"]).endswith("all of them")] for key in ("ours", "peer")]
    without = [f"{table}, {name}" for table in TABLES for name in set(corruptions_of(table)) - set(theirs[table])]
    left_out = f" without {', '.join(without)}" if without else ""
    return [*rows, _row(f"all corruptions of the three tables{left_out}", *(sum(t) for t in totals))]  # type: ignore[arg-type]


def _seconds(name: str, images: torch.Tensor, table: str, runs: int) -> float:
    taken = []
    for run_ in range(-1, runs):
        started = time.process_time()
        corrupt(name, images, range(len(images)), SEVERITY, 0, table)
        if run_ >= 0:
            taken.append(time.process_time() - started)
    return statistics.median(taken)


def _row(case: str, ours: float, peer: float) -> dict[str, object]:
    return {
        "case": case,
        "ours": round(ours, 4),
        "peer": round(peer, 4),
        "unit": "CPU s",
        "ratio": round(peer / ours, 2),
    }


def law_cases() -> list[str]:
    """Each corruption once at each severity, noise also on gray images; the slow ones of medmnistc last."""
    chosen = {(name, "dermamnist") for name in corruptions_of("dermamnist")}
    chosen |= {(name, "pathmnist") for name in ("saturate", "stain_deposit", "bubble")}
    chosen |= {(name, "chestmnist") for name in corruptions_of("chestmnist") if name.endswith("noise")}
    chosen |= {(name, "chestmnist") for name in ("gaussian_blur", "gamma_corr_up", "gamma_corr_down")}
    ordered = sorted(chosen, key=lambda pair: (pair[0] in ("saturate", "zoom_blur"), pair))
    return [f"{table}/{name}/{severity}" for name, table in ordered for severity in range(1, 6)]


def law(minutes: float) -> None:
    """Pixel statistics of both sides; writes the result and the tests' fixture once every case is there."""
    folder = PEERS / "law"
    folder.mkdir(parents=True, exist_ok=True)
    path, end = folder / "images.npy", time.monotonic() + 60 * minutes
    if not path.exists():
        np.save(path, phantom(IN_LAW))
    missing = [case for case in law_cases() if not (folder / f"{case.replace('/', '_')}.npy").exists()]
    for start in range(0, len(missing), 5):
        if time.monotonic() > end:
            sys.stdout.write(f"{len(missing) - start} cases are left.\n")
            return
        peer("statistics", str(path), ",".join(missing[start : start + 5]), str(folder))
    pixels = np.load(path)
    given = {False: pixels, True: gray(pixels)}
    cases, kept = {}, {}
    for case in law_cases():
        source = folder / f"{case.replace('/', '_')}.npy"
        if source.exists():
            theirs = np.load(source)
            cases[case] = _compared(_ours(case, given), theirs)
            first = theirs[:FIRST].round(5).tolist()
            kept[case] = {key: cases[case][key] for key in ("theirs", "deviation")} | {"first": first}
            sys.stdout.write(f"{case} {cases[case]}\n")
    record = {"columns": COLUMNS, "n": IN_LAW, "versions": {k: version(k) for k in ("torch", "numpy", "pillow")}}
    RESULTS.write_text(json.dumps({**record, "cases": cases}, indent=1) + "\n")
    said = f"medmnistc 0.1.0 on {IN_LAW} test images of the phantom at 224 pixels; of the first {FIRST} each"
    FIXTURE.write_text(json.dumps({"source": said, **record, "cases": kept}) + "\n")


def _ours(case: str, given: dict[bool, np.ndarray]) -> np.ndarray:
    table, name, severity = case.split("/")
    pixels, parts = given[table in GRAY], []
    for start in range(0, len(pixels), 50):
        part = pixels[start : start + 50]
        made = corrupt(name, tensor(part), range(start, start + len(part)), int(severity), 0, table)
        cut = (made * 255 + 1e-3).to(torch.uint8).permute(0, 2, 3, 1).numpy()  # medmnistc cuts, it does not round
        parts.append(measure(cut[..., 0] if table in GRAY else cut, part))
    return np.concatenate(parts)


def _compared(ours: np.ndarray, theirs: np.ndarray) -> dict[str, list[float]]:
    """Means, deviation between images of theirs, and the paired difference with its standard error."""
    gap = ours - theirs
    columns = {
        "ours": ours.mean(0),
        "theirs": theirs.mean(0),
        "deviation": theirs.std(0, ddof=1),
        "difference": gap.mean(0),
        "standard_error": gap.std(0, ddof=1) / len(gap) ** 0.5,
    }
    return {key: np.round(value.astype(float), 6).tolist() for key, value in columns.items()}


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=float("inf"))
    law(parser.parse_args().minutes)
