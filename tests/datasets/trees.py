"""Tiny data sets in official layouts."""

import csv
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
import wfdb
from medmnist import INFO
from PIL import Image

from xai_robustness.datasets.ptbxl import LEADS


def picture(path: Path, seed: int, side: int = 24) -> None:
    """A photograph-like JPEG or PNG: smooth colours that depend on the seed."""
    rng = np.random.default_rng(seed)
    small = rng.integers(60, 220, (4, 4, 3), dtype=np.uint8)
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(small).resize((side, side), Image.Resampling.BICUBIC).save(path, quality=95)


def table(path: Path, rows: list[dict]) -> Path:
    """A CSV with the keys of the first row as its header."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    return path


def isic2019(root: Path, n: int = 30, images: str = "ISIC_2019_Training_Input") -> Path:
    """Ground truth of n images whose classes alternate between MEL, NV and BKL, with a lesion for each pair."""
    folder = root / "isic2019"
    columns = ("MEL", "NV", "BCC", "AK", "BKL", "DF", "VASC", "SCC", "UNK")
    truth, metadata = [], []
    for i in range(n):
        name, label = f"ISIC_{i:07d}", ("MEL", "NV", "BKL")[i // 2 % 3]
        picture(folder / images / f"{name}.jpg", i)
        truth.append({"image": name, **{column: float(column == label) for column in columns}})
        metadata.append({"image": name, "lesion_id": f"L{i // 2}"})
    table(folder / "ISIC_2019_Training_GroundTruth.csv", truth)
    table(folder / "ISIC_2019_Training_Metadata.csv", metadata)
    return folder


def ham10000(root: Path, n: int = 40) -> Path:
    """n images of 7 classes in two parts, two images a lesion."""
    folder, rows = root / "ham10000", []
    for i in range(n):
        name = f"ISIC_{i:07d}"
        picture(folder / f"HAM10000_images_part_{1 + i % 2}" / f"{name}.jpg", i)
        dx = ("akiec", "bcc", "bkl", "df", "mel", "nv", "vasc")[i // 2 % 7]
        rows.append({"lesion_id": f"HAM_{i // 2:07d}", "image_id": name, "dx": dx, "dx_type": "histo"})
    table(folder / "HAM10000_metadata", rows)
    return folder


def chexpert(root: Path, n: int = 40) -> Path:
    """n X-rays of n/2 patients, and labels of pacemakers for all but the last two."""
    folder, rows, labels = root / "chexpert", [], []
    for i in range(n):
        place = f"train/patient{i // 2:05d}/study1/view{1 + i % 2}_frontal.jpg"
        picture(folder / place, i)
        findings = {"Atelectasis": "", "Cardiomegaly": ("1.0", "0.0", "-1.0", "")[i // 2 % 4], "Consolidation": "1.0"}
        rows.append({"Path": f"CheXpert-v1.0-small/{place}", **findings, "Edema": "", "Pleural Effusion": "0.0"})
        named = f"patient{i // 2:05d}_study1_view{1 + i % 2}_frontal.jpg"
        labels.append(
            {"img_name": named, "Cardiomegaly": int(i // 2 % 4 == 0), "PM": int(i % 5 == 0), "split": "train"}
        )
    table(folder / "train.csv", rows)
    table(folder / "pm.csv", labels[:-2])
    return folder


def hyper_kvasir(root: Path, n: int = 40) -> Path:
    """n frames of two findings that are a disease and two that are none."""
    folder, rows = root / "hyper_kvasir", []
    for i in range(n):
        organ, group, finding = (
            ("Lower GI", "pathological-findings", "polyps"),
            ("Lower GI", "anatomical-landmarks", "cecum"),
            ("Upper GI", "pathological-findings", "barretts"),
            ("Upper GI", "anatomical-landmarks", "z-line"),
        )[i % 4]
        tract = "lower-gi-tract" if organ == "Lower GI" else "upper-gi-tract"
        picture(folder / tract / group / finding / f"video{i}.jpg", i)
        rows.append({"Video file": f"video{i}", "Organ": organ, "Finding": finding, "Classification": group})
    table(folder / "image-labels.csv", rows)
    return folder


def imagenet(root: Path, n: int = 32) -> Path:
    """n images of two classes, a quarter of them in val."""
    for i in range(n):
        split = "val" if i % 4 == 3 else "train"
        picture(root / "imagenet" / split / f"n0{1 + i // 4 % 2}" / f"{split}_{i}.JPEG", i)
    return root / "imagenet"


def isic2020(root: Path, n: int = 40, folder: str = "isic2020") -> Path:
    """n images of n/2 patients."""
    rows = []
    for i in range(n):
        name, words = f"ISIC_{100 + i:07d}", ("nevus", "melanoma", "solar lentigo", "unknown")
        picture(root / folder / "train" / f"{name}.jpg", i)
        rows.append({"image_name": name, "patient_id": f"IP_{i // 2}", "diagnosis": words[i // 2 % 4], "target": 0})
    table(root / folder / "train.csv", rows)
    return root / folder


def isic2024(root: Path, n: int = 40) -> Path:
    """n images of n/2 patients, a fifth of them malignant."""
    rows = []
    for i in range(n):
        picture(root / "isic2024" / "train-image" / "image" / f"ISIC_{i:07d}.jpg", i)
        rows.append({"isic_id": f"ISIC_{i:07d}", "target": int(i % 5 == 0), "patient_id": f"IP_{i // 2}"})
    table(root / "isic2024" / "train-metadata.csv", rows)
    return root / "isic2024"


def dicom(path: Path, values: np.ndarray, kind: str = "MONOCHROME2", **tags: object) -> None:
    """A 16-bit image with one sample a pixel."""
    pydicom = pytest.importorskip("pydicom")
    from pydicom.dataset import FileDataset, FileMetaDataset
    from pydicom.uid import ExplicitVRLittleEndian, SecondaryCaptureImageStorage, generate_uid

    meta = FileMetaDataset()
    meta.TransferSyntaxUID, meta.MediaStorageSOPClassUID = ExplicitVRLittleEndian, SecondaryCaptureImageStorage
    meta.MediaStorageSOPInstanceUID = generate_uid()
    data = FileDataset(str(path), {}, file_meta=meta, preamble=b"\0" * 128)
    data.Rows, data.Columns = values.shape[:2]
    data.SamplesPerPixel, data.PhotometricInterpretation, data.PixelRepresentation = 1, kind, 0
    data.BitsAllocated, data.BitsStored, data.HighBit = 16, 16, 15
    data.PixelData = values.astype(np.uint16).tobytes()
    for tag, value in tags.items():
        setattr(data, tag, value)
    path.parent.mkdir(parents=True, exist_ok=True)
    pydicom.dcmwrite(path, data, enforce_file_format=True)


def ecg(rate: int = 100, seed: int = 0, seconds: int = 10) -> tuple[np.ndarray, np.ndarray]:
    """Beats as narrow peaks at known times on a drifting baseline: values (T,12) in mV and sample numbers of R."""
    rng = np.random.default_rng(seed)
    times = np.arange(0.6 + 0.2 * rng.random(), seconds - 0.4, 0.8 + 0.1 * rng.random())
    t = np.arange(seconds * rate) / rate
    beat = sum(np.exp(-(((t - at) / 0.02) ** 2)) for at in times)
    beat = beat + sum(0.2 * np.exp(-(((t - at - 0.25) / 0.06) ** 2)) for at in times)
    gains = rng.uniform(0.4, 1.2, 12)
    drift = 0.3 * np.sin(2 * np.pi * 0.2 * t)
    return beat[:, None] * gains + drift[:, None] + rng.normal(0, 0.01, (len(t), 12)), np.round(times * rate).astype(
        int
    )


def write_record(path: Path, values: np.ndarray, leads: Sequence[str] = LEADS, rate: int = 100) -> None:
    """A WFDB record of as many leads as are named."""
    path.parent.mkdir(parents=True, exist_ok=True)
    wfdb.wrsamp(
        path.name, fs=rate, units=["mV"] * len(leads), sig_name=list(leads), p_signal=values[:, : len(leads)],
        fmt=["16"] * len(leads), write_dir=str(path.parent),
    )  # fmt: skip


CODES = ["{'NORM': 100.0, 'SR': 0.0}", "{'IMI': 80.0}", "{'LVH': 50.0, 'NDT': 100.0}", "{'SR': 0.0}"]


def ptbxl(root: Path, n: int = 20) -> Path:
    """n records of n/2 patients, three fifths of them for training."""
    folder = root / "ptbxl"
    rows = []
    for i in range(n):
        name = f"records100/00000/{i + 1:05d}_lr"
        write_record(folder / name, ecg(seed=i)[0])
        fold = 9 if i % 5 == 3 else 10 if i % 5 == 4 else 1 + i % 8
        hr = name.replace("100", "500", 1)
        rows.append(
            {"ecg_id": i + 1, "patient_id": i // 2, "scp_codes": CODES[i % 4], "strat_fold": fold}
            | {"filename_lr": name, "filename_hr": hr}
        )
    table(folder / "ptbxl_database.csv", rows)
    of = {
        "NORM": ("NORM", "NORM"),
        "IMI": ("MI", "IMI"),
        "LVH": ("HYP", "LVH"),
        "NDT": ("STTC", "STTC"),
        "CLBBB": ("CD", "CLBBB"),
    }
    statements = [
        {"": code, "diagnostic": "1.0", "diagnostic_class": c, "diagnostic_subclass": s} for code, (c, s) in of.items()
    ]
    statements.append({"": "SR", "diagnostic": "", "diagnostic_class": "", "diagnostic_subclass": ""})
    table(folder / "scp_statements.csv", statements)
    return folder


def xrays(root: Path, n: int = 40) -> Path:
    """n DICOM files in two folders, one a class, of 12-bit values."""
    for i in range(n):
        values = np.random.default_rng(i).integers(0, 4096, (4, 4)).repeat(6, 0).repeat(6, 1)
        dicom(
            root / "xrays" / ("healthy", "ill")[i % 2] / f"{i}.dcm", values, ("MONOCHROME2", "MONOCHROME1")[i % 3 == 0]
        )
    return root / "xrays"


def scans(root: Path, n: int = 40) -> Path:
    """n NIfTI volumes in two folders, one a class."""
    nibabel = pytest.importorskip("nibabel")
    for i in range(n):
        place = root / "scans" / ("healthy", "ill")[i % 2] / f"{i}.nii.gz"
        place.parent.mkdir(parents=True, exist_ok=True)
        volume = np.random.default_rng(i).random((4, 4, 3), np.float32).repeat(6, 0).repeat(6, 1)
        nibabel.save(nibabel.Nifti1Image(volume, np.eye(4)), place)
    return root / "scans"


def medmnist(root: Path, flag: str, n: int = 40) -> Path:
    """The npz file of a flag with n images for training and a third of it for each of the others."""
    info = INFO[flag]
    rng, arrays = np.random.default_rng(0), {}
    for split, count in (("train", n), ("val", n // 3), ("test", n // 3)):
        shape = (count, 28, 28, 3) if info["n_channels"] == 3 else (count, 28, 28)
        arrays[f"{split}_images"] = rng.integers(0, 256, shape, dtype=np.uint8)
        arrays[f"{split}_labels"] = (np.arange(count) % len(info["label"])).astype(np.uint8)[:, None]
    path = root / "medmnist" / f"{flag}.npz"
    path.parent.mkdir(parents=True)
    np.savez(path, **arrays)
    return path
