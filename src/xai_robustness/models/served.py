"""A classifier as MLflow's pyfunc loads it: from safetensors, without pickle, insertions included."""

from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float, UInt8
from torch import nn

from xai_robustness.models.checkpoint import load_model
from xai_robustness.types import InputError


class Served:
    """Predicts logits of images.

    Args:
        model: the classifier, in evaluation mode.
        image_shape: (C,H,W) of its images.
    """

    def __init__(self, model: nn.Sequential, image_shape: tuple[int, int, int]) -> None:
        self.model, self.image_shape = model, image_shape

    def predict(self, images: UInt8[np.ndarray, "n h w c"], batch_size: int = 256) -> Float[np.ndarray, "n k"]:
        """Logits float32 (N,K) of uint8 images (N,H,W,C); raises InputError for images of another shape."""
        images = np.asarray(images)
        c, h, w = self.image_shape
        if images.shape[1:] != (h, w, c) or images.dtype != np.uint8:
            raise InputError(
                f"The images parameter of predict must be uint8 of shape (N,{h},{w},{c}). "
                f"Got {images.dtype} of shape {images.shape} instead."
            )
        parts = []
        with torch.inference_mode():
            for start in range(0, len(images), batch_size):
                batch = torch.from_numpy(images[start : start + batch_size]).permute(0, 3, 1, 2).float().div(255)
                parts.append(self.model(batch.contiguous()))
        return torch.cat(parts).float().numpy()


def _load_pyfunc(path: str) -> Served:
    """What MLflow calls with the folder that was logged."""
    from xai_robustness.models.checkpoint import load_description

    folder = Path(path)
    c, h, w = load_description(folder)["image_shape"]
    return Served(load_model(folder), (c, h, w))
