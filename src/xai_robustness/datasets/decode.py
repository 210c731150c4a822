"""One file becomes one array: photographs, DICOM, NIfTI, and ECG records."""

import importlib
import logging
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
from jaxtyping import UInt8
from PIL import Image, UnidentifiedImageError

from xai_robustness.types import InputError

logger = logging.getLogger(__name__)
MOST_PIXELS = 200_000_000


class BadFileError(ValueError):
    """A file that cannot be read as what it should be; the message says why, without the path."""


def optional(module: str, extra: str) -> ModuleType:
    """Import an optional dependency; raises InputError that says how to get it."""
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise InputError(
            f"This data set needs the package {module}. Run: pip install 'xai_robustness[{extra}]'."
        ) from (error)


def decode_image(path: Path, size: int, channels: int) -> UInt8[np.ndarray, "h w c"]:
    """Read an image file and resize it to a square, bicubic, its aspect ratio given up as in the published work.

    Args:
        path: JPEG, PNG, BMP, TIFF, DICOM (`.dcm`) or NIfTI (`.nii`, `.nii.gz`: the middle axial slice).
        size: side in pixels.
        channels: 1 or 3.

    Returns:
        uint8 (size, size, channels).

    Raises:
        BadFileError: truncated, not an image, or of a kind that has no agreed meaning.
    """
    name = path.name.lower()
    if name.endswith((".dcm", ".dicom")):
        return resize(_read_dicom(path), size, channels)
    if name.endswith((".nii", ".nii.gz")):
        return resize(_read_nifti(path), size, channels)
    try:
        with Image.open(path) as image:
            if image.width * image.height > MOST_PIXELS:
                raise BadFileError(f"{image.width} x {image.height} pixels are too many")
            image.draft("L" if channels == 1 else "RGB", (2 * size, 2 * size))
            if image.mode in ("I;16", "I;16B", "I", "F"):
                return resize(_stretch(np.asarray(image, np.float64)), size, channels)
            return _squared(image.convert("L" if channels == 1 else "RGB"), size, channels)
    except BadFileError:
        raise
    except (OSError, UnidentifiedImageError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise BadFileError(str(error).replace(f" '{path}'", "") or type(error).__name__) from error


def resize(gray: UInt8[np.ndarray, "h w"], size: int, channels: int) -> UInt8[np.ndarray, "h2 w2 c"]:
    """Resize a gray image, or (H,W,3), to a square of `channels` channels."""
    image = Image.fromarray(gray)
    return _squared(image.convert("L" if channels == 1 else "RGB"), size, channels)


def _squared(image: Image.Image, size: int, channels: int) -> np.ndarray:
    if image.size != (size, size):
        image = image.resize((size, size), Image.Resampling.BICUBIC)
    return np.asarray(image, np.uint8).reshape(size, size, channels)


def _stretch(values: np.ndarray) -> np.ndarray:
    """Map the finite range of an array linearly to 0..255."""
    low, high = float(np.nanmin(values)), float(np.nanmax(values))
    if not np.isfinite([low, high]).all():
        raise BadFileError("it holds values that are not finite")
    scaled = (np.nan_to_num(values, nan=low) - low) / (high - low) if high > low else np.zeros_like(values)
    return np.round(scaled * 255).astype(np.uint8)


def _read_dicom(path: Path) -> np.ndarray:
    """Pixels of a DICOM file as they are meant to be seen: VOI LUT or window applied, MONOCHROME1 inverted."""
    pydicom = optional("pydicom", "dicom")
    pixels = optional("pydicom.pixels", "dicom")
    try:
        data = pydicom.dcmread(path)
        kind = str(data.PhotometricInterpretation)
        if kind not in ("MONOCHROME1", "MONOCHROME2", "RGB"):
            raise BadFileError(f"its photometric interpretation is {kind}, not MONOCHROME1, MONOCHROME2 or RGB")
        values: Any = data.pixel_array
    except BadFileError:
        raise
    except Exception as error:  # pydicom and its decoders raise errors of many types
        raise BadFileError(str(error) or type(error).__name__) from error
    if str(getattr(data, "BurnedInAnnotation", "")).upper() == "YES":
        logger.warning("%s says that text is burned into its pixels: it may name a person or be a shortcut.", path.name)
    if kind == "RGB":
        return np.asarray(values, np.uint8)
    if values.ndim == 3:
        values = values[len(values) // 2]
    shown = pixels.apply_voi_lut(pixels.apply_modality_lut(values, data), data)
    gray = _stretch(np.asarray(shown, np.float64))
    return 255 - gray if kind == "MONOCHROME1" else gray


def _read_nifti(path: Path) -> np.ndarray:
    """The middle slice along the third axis of a NIfTI volume, stretched between its percentiles 1 and 99."""
    nibabel = optional("nibabel", "nifti")
    try:
        volume = nibabel.as_closest_canonical(nibabel.load(path))
        values = np.asarray(volume.dataobj, np.float64)
    except Exception as error:  # nibabel raises errors of many types
        raise BadFileError(str(error) or type(error).__name__) from error
    while values.ndim > 3:
        values = values[..., 0]
    if values.ndim == 3:
        values = values[:, :, values.shape[2] // 2]
    if values.ndim != 2 or not np.isfinite(values).any():
        raise BadFileError(f"it must be a volume of finite values, its shape is {values.shape}")
    low, high = np.nanpercentile(values, [1, 99])
    return np.ascontiguousarray(np.rot90(_stretch(np.clip(values, low, high))))
