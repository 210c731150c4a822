"""The corruptions again: one image (C,H,W) in float64 at a time, pixel by pixel, as their formulas are written."""

import math
from io import BytesIO

import numpy as np
from matplotlib.colors import hsv_to_rgb, rgb_to_hsv
from PIL import Image


def gaussian_noise(image: np.ndarray, deviation: float, noise: np.ndarray) -> np.ndarray:
    return np.clip(image + deviation * noise, 0, 1)


def contrast(image: np.ndarray, factor: float) -> np.ndarray:
    return np.stack([np.clip((channel - channel.mean()) * factor + channel.mean(), 0, 1) for channel in image])


def brightness(image: np.ndarray, shift: float) -> np.ndarray:
    if len(image) == 1:
        return np.clip(image + shift, 0, 1)
    hsv = rgb_to_hsv(image.transpose(1, 2, 0))
    hsv[..., 2] = np.clip(hsv[..., 2] + shift, 0, 1)
    return np.clip(hsv_to_rgb(hsv).transpose(2, 0, 1), 0, 1)


def motion_blur(image: np.ndarray, radius: int, sigma: float, degrees: float) -> np.ndarray:
    width = 2 * radius + 1
    kernel = [math.exp(-(i**2) / (2 * sigma**2)) for i in range(width)]
    channels, height, length = image.shape
    blurred = np.zeros_like(image)
    for c in range(channels):
        for y in range(height):
            for x in range(length):
                for i in range(width):
                    row = y + math.floor(i * math.sin(math.radians(degrees)) + 0.5)
                    column = x + math.floor(i * math.cos(math.radians(degrees)) + 0.5)
                    source = image[c, min(max(row, 0), height - 1), min(max(column, 0), length - 1)]
                    blurred[c, y, x] += kernel[i] / sum(kernel) * source
    return blurred


def jpeg_compression(image: np.ndarray, quality: int) -> np.ndarray:
    pixels = np.round(image * 255).astype(np.uint8)
    mode = Image.fromarray(pixels[0]) if len(image) == 1 else Image.fromarray(np.moveaxis(pixels, 0, -1))
    buffer = BytesIO()
    mode.save(buffer, format="jpeg", quality=quality)
    decoded = np.atleast_3d(np.array(Image.open(buffer)))
    return np.moveaxis(decoded, -1, 0) / 255
