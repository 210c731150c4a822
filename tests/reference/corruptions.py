"""The corruptions again: one image (C,H,W) in float64 at a time, pixel by pixel, as their formulas are written."""

import math
from io import BytesIO

import numpy as np
from matplotlib.colors import hsv_to_rgb, rgb_to_hsv
from PIL import Image, ImageEnhance
from scipy.ndimage import correlate, gaussian_filter, zoom
from skimage.color import hsv2rgb, rgb2hsv
from skimage.util import random_noise


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


def speckle_noise(image: np.ndarray, deviation: float, noise: np.ndarray) -> np.ndarray:
    return np.clip(image + image * deviation * noise, 0, 1)


def impulse_noise(image: np.ndarray, amount: float, rng: np.random.Generator) -> np.ndarray:
    return random_noise(image, mode="s&p", amount=amount, rng=rng)


def shot_noise(image: np.ndarray, photons: float, rng: np.random.Generator) -> np.ndarray:
    return np.clip(rng.poisson(image * photons) / photons, 0, 1)


def _pillow(image: np.ndarray) -> Image.Image:
    pixels = np.round(image * 255).astype(np.uint8)
    return Image.fromarray(pixels[0]) if len(image) == 1 else Image.fromarray(np.moveaxis(pixels, 0, -1))


def _array(image: Image.Image) -> np.ndarray:
    return np.moveaxis(np.atleast_3d(np.array(image)), -1, 0) / 255


def pixelate(image: np.ndarray, share: float) -> np.ndarray:
    source = _pillow(image)
    width, height = source.size
    small = source.resize((int(width * share), int(height * share)), Image.BOX)
    return _array(small.resize((width, height), Image.BOX))


def brightness_factor(image: np.ndarray, factor: float) -> np.ndarray:
    return _array(ImageEnhance.Brightness(_pillow(image)).enhance(factor))


def contrast_factor(image: np.ndarray, factor: float) -> np.ndarray:
    return _array(ImageEnhance.Contrast(_pillow(image)).enhance(factor))


brightness_up = brightness_down = brightness_factor
contrast_up = contrast_down = contrast_factor


def gamma_corr(image: np.ndarray, power: float) -> np.ndarray:
    return np.clip(image**power, 0, 1)


gamma_corr_up = gamma_corr_down = gamma_corr


def saturate(image: np.ndarray, shift: float) -> np.ndarray:
    if len(image) == 1:
        return image
    hsv = rgb2hsv(image.transpose(1, 2, 0))
    hsv[..., 1] = np.clip(hsv[..., 1] + shift, 0, 1)
    return hsv2rgb(hsv).transpose(2, 0, 1)


def gaussian_blur(image: np.ndarray, window: int) -> np.ndarray:
    sigma = 0.3 * ((window - 1) * 0.5 - 1) + 0.8
    return np.stack([gaussian_filter(c, sigma, mode="mirror", radius=window // 2) for c in image])


def defocus_blur(image: np.ndarray, radius: float, deviation: float) -> np.ndarray:
    y, x = np.mgrid[-8:9, -8:9]
    disk = (x**2 + y**2 <= radius**2).astype(float)
    disk = gaussian_filter(disk / disk.sum(), deviation, mode="mirror", radius=1)
    return np.stack([correlate(c, disk, mode="mirror") for c in image])


def zoom_blur(image: np.ndarray, *factors: float) -> np.ndarray:
    total, size = image.copy(), image.shape[1]
    for factor in factors:
        side = math.ceil(size / factor)
        top = (size - side) // 2
        large = zoom(image[:, top : top + side, top : top + side], (1, factor, factor), order=1)
        cut = (large.shape[1] - size) // 2
        total = total + large[:, cut : cut + size, cut : cut + size]
    return np.clip(total / (len(factors) + 1), 0, 1)
