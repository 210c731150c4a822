"""Files from the web, whole and with the right hash, or not at all."""

import hashlib
import urllib.request
from pathlib import Path
from typing import Any

from xai_robustness.progress import progress
from xai_robustness.types import InputError

_BLOCK = 1 << 20


def download(url: str, path: Path, algorithm: str, digest: str, advice: str) -> None:
    """Fetch `url` into `path` through a `.part` file, which is renamed only when its hash is right.

    Args:
        url: where the file is.
        path: where it goes; its folder is made.
        algorithm: "md5" or "sha256".
        digest: what its hash must begin with.
        advice: what to do where there is no network.

    Raises:
        InputError: no network, or another file than the one wanted; neither leaves a file.
    """
    part = path.with_name(path.name + ".part")
    try:
        with urllib.request.urlopen(url, timeout=20) as response:
            path.parent.mkdir(parents=True, exist_ok=True)
            found = _fetch(response, part, algorithm)
    except OSError as error:
        part.unlink(missing_ok=True)
        raise InputError(
            f"The file {path.name} ({algorithm} {digest}) is missing in {path.parent}, and {url} cannot be downloaded "
            f"({error}). {advice}"
        ) from error
    if not found.startswith(digest):
        part.unlink()
        raise InputError(
            f"The download of {url} must have the {algorithm} {digest}. Got {found} instead. Try again later."
        )
    part.replace(path)


def _fetch(response: Any, part: Path, algorithm: str) -> str:
    digest = hashlib.new(algorithm, usedforsecurity=False)
    total = int(response.headers.get("Content-Length") or 0)
    with part.open("wb") as file, progress(total, f"download {part.stem}", unit="B") as bar:
        while block := response.read(_BLOCK):
            file.write(block)
            digest.update(block)
            bar.update(len(block))
    return digest.hexdigest()
