"""25,000 generated images read from files and explained with bounded memory: `make bench-ingest`.

Ours: a folder of JPEG files with a CSV table goes through the reader of data sets, each file is decoded once into the
kept uint8 store, the splits are stored and looked through for leaks, and the latents are computed from the store. Peer:
the same latents of images that are read from their files twice, once for the image and once for its label, as the
published code does [Pahde2025]; its decoding is Pillow's without shortcuts. The network, the LRP pass and the batches
are the same.

Memory is the high-water mark of a process that does all of this for n samples, and of another one for 4 n; the same for
electrocardiograms as WFDB records. One thread; seconds are processor time. Each part is kept on disk, so that an
interrupted benchmark goes on where it stopped: give `--folder` a place that stays.
"""

import argparse
import csv
import json
import platform
import subprocess
import sys
import tempfile
import time
from importlib.metadata import version
from pathlib import Path

import numpy as np
from PIL import Image

RESULTS = Path(__file__).parent / "results" / "ingest.json"
LIMIT_MB = 2048
SIDE, FILE_SIZE = 64, (600, 450)
CLASSES = ("a", "b", "c")
LIBRARIES = ("torch", "zarr", "pillow", "numpy", "wfdb")


def _table(path: Path, rows: list[dict[str, object]]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)


def make_images(folder: Path, n: int, sizes: tuple[int, ...]) -> None:
    """n JPEG files of 600 x 450 pixels, two a patient, and a table of the first of them for each size."""
    rows: list[dict[str, object]] = []
    for i in range(n):
        name = f"images/{i // 1000:03d}/{i:06d}.jpg"
        rows.append({"image": name, "label": CLASSES[i % len(CLASSES)], "patient": i // 2})
        path = folder / name
        if not path.exists():
            path.parent.mkdir(parents=True, exist_ok=True)
            coarse = np.random.default_rng(i).integers(60, 220, (45, 60, 3), dtype=np.uint8)
            partial = path.with_suffix(".part")
            Image.fromarray(coarse).resize(FILE_SIZE, Image.Resampling.BICUBIC).save(partial, "JPEG", quality=90)
            partial.replace(path)
    for size in sizes:
        _table(folder / f"labels_{size}.csv", rows[:size])


def make_ecg(folder: Path, n: int, sizes: tuple[int, ...]) -> None:
    """n records of 12 leads, 10 s at 100 Hz, in the layout of PTB-XL, and a folder with tables for each size."""
    import wfdb

    from xai_robustness.datasets.ptbxl import LEADS

    codes, rows = ("{'NORM': 100.0}", "{'IMI': 80.0}"), []
    (folder / "records").mkdir(parents=True, exist_ok=True)
    for i in range(n):
        name = f"{i:05d}"
        row = {"ecg_id": i + 1, "patient_id": i // 2, "scp_codes": codes[i % 2], "strat_fold": 1 + i // 2 % 10}
        rows.append({**row, "filename_lr": f"../records/{name}", "filename_hr": "", "r_peaks": "[60 140 220]"})
        if not (folder / "records" / f"{name}.hea").exists():
            values = np.random.default_rng(i).normal(0, 0.3, (1000, 12)).cumsum(0)
            options = {"fs": 100, "units": ["mV"] * 12, "sig_name": list(LEADS), "fmt": ["16"] * 12}
            wfdb.wrsamp(name, p_signal=values - values.mean(0), write_dir=str(folder / "records"), **options)
    statements: list[dict[str, object]] = [
        {"": code, "diagnostic": "1.0", "diagnostic_class": group, "diagnostic_subclass": code}
        for code, group in (("NORM", "NORM"), ("IMI", "MI"))
    ]
    for size in sizes:
        _table(folder / f"ecg_{size}" / "ptbxl_database.csv", rows[:size])
        _table(folder / f"ecg_{size}" / "scp_statements.csv", statements)


class TwiceRead:
    """Images (N,H,W,C) that are decoded from their files twice whenever they are asked for."""

    dtype = np.dtype(np.uint8)

    def __init__(self, files: tuple[Path, ...]) -> None:
        self.files, self.shape = files, (len(files), SIDE, SIDE, 3)

    def __getitem__(self, rows: slice) -> np.ndarray:
        return np.stack([(_decoded(path), _decoded(path))[0] for path in self.files[rows]])


def _decoded(path: Path) -> np.ndarray:
    with Image.open(path) as image:
        return np.asarray(image.convert("RGB").resize((SIDE, SIDE), Image.Resampling.BICUBIC))


def _latents_job(sets, model_name):  # type: ignore[no-untyped-def]
    import torch

    from xai_robustness.attribution.latents import PreprocessingParams, latents_job
    from xai_robustness.models.zoo import ModelParams, build

    torch.set_num_threads(1)
    first = next(iter(sets.values()))
    channels = first.image_shape[0]
    statistics = [0.5] * channels
    model = build(
        ModelParams(name=model_name), first.info.n_classes, first.image_shape, statistics, statistics, seed=0
    ).eval()
    return latents_job(model, sets, PreprocessingParams(batch_size=64, chunk=256), "cpu", "benchmark")


def ours(kind: str, folder: Path, n: int, scratch: Path) -> dict[str, float]:
    """Processor seconds of each stage, and the high-water mark of this process."""
    from xai_robustness.datasets.load import DataParams, load_dataset
    from xai_robustness.io.stores import ImagesDataset
    from xai_robustness.pipelines.data_ingest.images import raw_job
    from xai_robustness.pipelines.data_ingest.nodes import check_leakage

    images = DataParams(
        name="folder", folder=str(folder), table=f"labels_{n}.csv", group_column="patient", size=SIDE, workers=1
    )
    signals = DataParams(name="ptbxl", folder=str(folder / f"ecg_{n}"), workers=1)
    params = images if kind == "images" else signals
    seconds: dict[str, float] = {}
    clock = time.process_time()

    def lap(name: str) -> None:
        nonlocal clock
        seconds[name], clock = time.process_time() - clock, time.process_time()

    splits = load_dataset(params, 0, scratch, cache=scratch / "decoded")
    lap("decode")
    raw_job(splits).write(scratch / "raw")
    lap("store")
    load_dataset(params, 0, scratch, cache=scratch / "decoded")
    lap("decode again")
    sets = ImagesDataset(str(scratch / "raw")).load()
    job = _latents_job(sets, "resnet18" if kind == "images" else "xresnet1d_small")
    clock = time.process_time()
    job.write(scratch / "latents")
    lap("latents")
    if kind == "images":
        check_leakage(sets)
        lap("leaks")
    return {**seconds, "n": n, "peak_mb": _peak_mb()}


def peer(kind: str, folder: Path, n: int, scratch: Path) -> dict[str, float]:
    """Processor seconds of the latents of n images that are read twice, and of reading alone."""
    from xai_robustness.datasets.base import DatasetInfo, ImageSet

    assert kind == "images"
    files = tuple(folder / f"images/{i // 1000:03d}/{i:06d}.jpg" for i in range(n))
    labels = np.arange(n) % len(CLASSES)
    part = ImageSet(TwiceRead(files), labels, np.arange(n), DatasetInfo("peer", "multi-class", CLASSES, ""))
    job = _latents_job({"all": part}, "resnet18")
    started = time.process_time()
    job.write(scratch / "latents")
    whole = time.process_time() - started
    started = time.process_time()
    for start in range(0, n, 64):
        part.images[start : start + 64]
    return {"latents": whole, "read": time.process_time() - started, "n": n, "peak_mb": _peak_mb()}


def _peak_mb() -> float:
    status = Path("/proc/self/status")
    if status.exists():
        line = next(line for line in status.read_text().splitlines() if line.startswith("VmHWM"))
        return int(line.split()[1]) / 1024
    import resource

    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (2**20 if sys.platform == "darwin" else 2**10)


SIDES = {"ours": ours, "peer": peer}


def measured(side: str, kind: str, folder: Path, n: int) -> dict[str, float]:
    """The result of a part from a process of its own; kept in the folder."""
    kept = folder / f"{side}_{kind}_{n}.json"
    if not kept.exists():
        with tempfile.TemporaryDirectory(dir=folder) as scratch:
            command = [sys.executable, __file__, "--part", side, kind, str(n), scratch, "--folder", str(folder)]
            done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
        kept.write_text(done.stdout.splitlines()[-1] + "\n")
    return json.loads(kept.read_text())


def rows(folder: Path, n: int, n_ecg: int, n_peer: int) -> list[dict[str, object]]:
    """Throughput against the peer, and memory for n and 4 n."""
    make_images(folder, 4 * n, (n, 4 * n))
    make_ecg(folder, 4 * n_ecg, (n_ecg, 4 * n_ecg))
    large, peers = measured("ours", "images", folder, 4 * n), measured("peer", "images", folder, n_peer)
    found = []
    once, again = large["decode"] + large["store"], large["decode again"] + large["store"]
    for case, own, other in (
        ("files to stored arrays, read once", once, peers["read"]),
        ("files to latents, the first study", once + large["latents"], peers["latents"]),
        ("files to latents, each further study", again + large["latents"], peers["latents"]),
    ):
        a, b = large["n"] / own, peers["n"] / other
        unit = "images/processor s"
        found.append({"case": case, "ours": round(a, 1), "peer": round(b, 1), "unit": unit, "ratio": round(a / b, 2)})
    for kind, count in (("images", n), ("ecg", n_ecg)):
        small, four = (measured("ours", kind, folder, size)["peak_mb"] for size in (count, 4 * count))
        found.append(
            {"case": f"peak memory, {kind}, n = {count} and 4 n", "n": round(small), "4n": round(four)}
            | {"unit": "MB", "ratio": round(four / small, 2), "limit": LIMIT_MB}
        )
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--folder", type=Path, help="where files and parts stay; a temporary one by default")
    parser.add_argument("--n", type=int, default=6250, help="images; the large part has four times as many")
    parser.add_argument("--n-ecg", type=int, default=1000, help="records; the large part has four times as many")
    parser.add_argument("--n-peer", type=int, default=4000, help="images that the peer reads")
    parser.add_argument("--part", nargs=4, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.part:
        side, kind, n, scratch = given.part
        print(json.dumps(SIDES[side](kind, given.folder, int(n), Path(scratch))))
        return
    with tempfile.TemporaryDirectory() as temporary:
        folder = (given.folder or Path(temporary)).resolve()
        found = rows(folder, given.n, given.n_ecg, given.n_peer)
        parts = {path.stem: json.loads(path.read_text()) for path in sorted(folder.glob("*_*.json"))}
    machine = {"processor": platform.processor() or platform.machine(), "threads": 1}
    versions = {name: version(name) for name in LIBRARIES} | {"python": platform.python_version()}
    files = {"files": f"JPEG {FILE_SIZE[0]} x {FILE_SIZE[1]}", "size": SIDE, "network": "resnet18, xresnet1d_small"}
    RESULTS.write_text(
        json.dumps({"machine": machine, "versions": versions, **files, "rows": found, "parts": parts}, indent=1) + "\n"
    )
    for line in found:
        print("  ".join(f"{key} {value}" for key, value in line.items()))


if __name__ == "__main__":
    main()
