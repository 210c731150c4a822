"""ImageNet weights of torchvision's architectures: a local file first, else a download."""

import hashlib
from pathlib import Path
from urllib.parse import urlparse

import torch
import torchvision

from xai_robustness.datasets.download import download
from xai_robustness.datasets.load import raw_root
from xai_robustness.types import InputError

IMAGENET = "imagenet"
"""What `training.start` and `training.checkpoint` name in place of a file."""


def weights_url(model: str) -> str:
    """Address of the weights that torchvision calls IMAGENET1K_V1, for normalised RGB images and the standard stem.

    Args:
        model: a name of MODELS.

    Raises:
        InputError: torchvision publishes none for this architecture.

    Example:
        >>> weights_url("resnet18")
        'https://download.pytorch.org/models/resnet18-f37072fd.pth'
    """
    try:
        return str(torchvision.models.get_model_weights(model).IMAGENET1K_V1.url)
    except ValueError as error:
        raise InputError(
            f"torchvision has no ImageNet weights for '{model}'. Put a .safetensors or .pth file in place of "
            f"'{IMAGENET}'."
        ) from error


def weights_name(model: str) -> str:
    """The file's name, which ends in the beginning of its sha256.

    Example:
        >>> weights_name("vgg16")
        'vgg16-397923af.pth'
    """
    return Path(urlparse(weights_url(model)).path).name


def weights_file(given: str, model: str) -> Path:
    """The file that `given` names: itself, or the ImageNet weights of a model.

    These are looked for in the folder `weights` of the raw data and in torch's own cache, and downloaded into the first
    where both lack them.

    Args:
        given: a path, or IMAGENET.
        model: a name of MODELS.

    Raises:
        InputError: no such weights, a local file of other content, or no network; the sentence says which file goes
            where.
    """
    if given != IMAGENET:
        return Path(given)
    name = weights_name(model)
    digest = Path(name).stem.rpartition("-")[2]
    wanted, cached = raw_root() / "weights" / name, Path(torch.hub.get_dir()) / "checkpoints" / name
    for path in (wanted, cached):
        if path.is_file():
            return _checked(path, digest)
    advice = "Put the file into that folder, or give training.start another file."
    download(weights_url(model), wanted, "sha256", digest, advice)
    return wanted


def _checked(path: Path, digest: str) -> Path:
    """A local file whose sha256 begins as its name says, which is what a run's fingerprint knows of it."""
    with path.open("rb") as file:
        found = hashlib.file_digest(file, "sha256").hexdigest()
    if not found.startswith(digest):
        raise InputError(
            f"The file {path} must have the sha256 {digest}. Got {found} instead. "
            "Delete it, and the next run downloads it again."
        )
    return path
