"""Neurons by what they share: representation activation vectors and their extreme-activation distance (DORA)."""

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from xai_robustness.models.modes import borrow
from xai_robustness.models.taps import Pooling, pool, tap
from xai_robustness.randomness import torch_rng
from xai_robustness.types import InputError

LEARNING_RATE, WEIGHT_DECAY, GRADIENT_NORM = 0.05, 1e-2, 1.0
SHIFT, TURN, SCALES = 0.015, 20.0, (0.75, 1.025)
SETTLED_OVER, SETTLED_GAIN = 32, 0.01
STARTS = (0.1, 1.0, 3.0)
"""Standard deviation of the start's logits at each attempt: near grey, then louder where the neuron was silent."""


def top_references(scores: Float[np.ndarray, "n k"], count: int) -> Int[np.ndarray, "k r"]:
    """Rows of the samples with the largest score of each neuron, best first: reference samples.

    Pooled activations give activation-maximising references, pooled relevances relevance-maximising ones.
    """
    return np.argsort(-np.asarray(scores), axis=0, kind="stable")[:count].T


def activation_vectors(
    activations: Float[np.ndarray, "n k"], references: Int[np.ndarray, "k r"]
) -> Float[np.ndarray, "k k"]:
    """Representation activation vectors: row i holds the mean activation of every neuron on the references of i."""
    return np.asarray(activations, np.float64)[references].mean(1)


def extreme_activation_distance(vectors: Float[np.ndarray, "k k"]) -> Float[np.ndarray, "k k"]:
    """Layer-wise distance sqrt((1 - cos(r_i, r_j)) / 2) in [0,1] of all pairs of neurons [Bykov2023].

    Symmetric, 0 on the diagonal; a neuron whose vector is zero has distance 0 from all (it shows nothing).
    """
    unit, alive = _unit(vectors)
    distance = np.sqrt(np.clip((1 - unit @ unit.T) / 2, 0, 1)) * np.outer(alive, alive)
    np.fill_diagonal(distance, 0)
    return (distance + distance.T) / 2


def pairwise_distance(vectors: Float[np.ndarray, "k k"]) -> Float[np.ndarray, "k k"]:
    """The pairwise variant: cos of the coordinates i and j alone, (m_ii, m_ij) and (m_ji, m_jj) [Bykov2023]."""
    own = np.diag(vectors)
    dot = own[:, None] * vectors.T + vectors * own[None, :]
    lengths = np.sqrt(own[:, None] ** 2 + vectors**2) * np.sqrt(vectors.T**2 + own[None, :] ** 2)
    cosine = np.divide(dot, lengths, out=np.ones_like(dot), where=lengths > 0)
    distance = np.sqrt(np.clip((1 - cosine) / 2, 0, 1))
    np.fill_diagonal(distance, 0)
    return (distance + distance.T) / 2


def directions_of(vectors: Float[np.ndarray, "k k"]) -> Float[np.ndarray, "k k"]:
    """Points whose Euclidean distances are the layer-wise extreme-activation distances, for outliers and layouts."""
    return _unit(vectors)[0] / 2


def _unit(vectors: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    lengths = np.linalg.norm(vectors, axis=1, keepdims=True)
    return vectors / np.where(lengths > 0, lengths, 1), lengths[:, 0] > 0


def pattern_similarity(pooled: Float[np.ndarray, "n k"]) -> tuple[Float[np.ndarray, "m m"], Int[np.ndarray, " m"]]:
    """Cosine of the patterns over samples of every pair of neurons, and the neurons: those that ever speak.

    Args:
        pooled: activations or relevances (N,K) of the samples of a class, pooled over positions [Achtibat2023].

    Returns:
        Similarities (M,M) in [-1,1] and the numbers (M,) of the neurons with a value other than 0.
    """
    x = np.asarray(pooled, np.float64)
    alive = np.flatnonzero(np.abs(x).max(0) > 0)
    unit, _ = _unit(x[:, alive].T)
    return unit @ unit.T, alive


def synthesize(
    model: nn.Sequential,
    layer: str,
    neurons: Int[np.ndarray, " m"],
    image_shape: tuple[int, int, int],
    seed: int,
    count: int = 5,
    how: Pooling = "max",
    most_iterations: int = 512,
    batch_size: int = 16,
) -> tuple[Float[np.ndarray, "m r c h w"], Float[np.ndarray, "m r t"], Bool[np.ndarray, "m r"]]:
    """Images that maximise the pooled activation of neurons, by gradient ascent, until they settle.

    Each step sees the image moved by up to 1.5 %, turned by up to 20 degrees and scaled by 0.75 to 1.025, so that the
    image does not rest on single pixels; Adam with decoupled weight decay on the logits of the pixels, gradients
    clipped. An image has settled when the mean activation of its last 32 steps gained less than 1 % on the 32 before.
    One for which the neuron had no gradient in 32 steps starts anew from a louder image (`STARTS`).

    Args:
        model: classifier; it is left as it was.
        layer: layer of the neurons.
        neurons: numbers of its channels.
        image_shape: (C,H,W).
        seed: the run's seed: start images and transformations.
        count: images a neuron.
        how: pooling of the activation over positions; max is the maximum.
        most_iterations: steps at most, of each start.
        batch_size: images at once.

    Returns:
        Images float32 in [0,1] (M,R,C,H,W); the pooled activation of the moved image at every step (M,R,T), NaN after
        it has ended, of the last start; and whether an image converged (M,R): it settled, and the neuron was not
        silent.

    Raises:
        InputError: an unknown layer or a neuron that it does not have.
    """
    jobs = [(int(k), r) for k in neurons for r in range(count)]
    images = np.zeros((len(jobs), *image_shape), np.float32)
    trace = np.full((len(jobs), most_iterations), np.nan)
    converged, spoke = np.zeros(len(jobs), bool), np.zeros(len(jobs), bool)
    with borrow(model):
        for attempt in range(len(STARTS)):
            silent = np.flatnonzero(~spoke)
            for start in range(0, len(silent), batch_size):
                rows = silent[start : start + batch_size]
                some = [jobs[row] for row in rows]
                found = _ascend(model, layer, some, image_shape, seed, how, most_iterations, attempt)
                images[rows], trace[rows], spoke[rows], converged[rows] = found
    shape = (len(neurons), count)
    return images.reshape(*shape, *image_shape), trace.reshape(*shape, most_iterations), converged.reshape(shape)


def _ascend(
    model: nn.Sequential,
    layer: str,
    jobs: list[tuple[int, int]],
    image_shape: tuple[int, int, int],
    seed: int,
    how: Pooling,
    most_iterations: int,
    attempt: int,
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Images, traces, whether the neuron ever had a gradient, and whether it had one and the image settled."""
    device = next(model.parameters()).device
    rngs = [torch_rng(seed, "dora", layer, k, r, *([attempt] if attempt else [])) for k, r in jobs]
    starts = torch.stack([STARTS[attempt] * torch.randn(image_shape, generator=rng) for rng in rngs])
    logits = starts.to(device).requires_grad_()
    optimizer = torch.optim.AdamW([logits], lr=LEARNING_RATE, weight_decay=WEIGHT_DECAY)
    wanted = torch.tensor([k for k, _ in jobs], device=device)
    images, values = np.zeros(starts.shape, np.float32), np.full((len(jobs), most_iterations), np.nan)
    spoke, settled = np.zeros(len(jobs), bool), np.zeros(len(jobs), bool)
    rows = np.arange(len(jobs))
    for step in range(most_iterations):
        moved = _moved(torch.sigmoid(logits[rows]), [rngs[row] for row in rows])
        with tap(model, [layer]) as outputs:
            model(moved)
            pooled = pool(outputs[layer], how)
        if int(wanted.max()) >= pooled.shape[1]:
            raise InputError(
                f"The neurons parameter of synthesize must be channels of layer '{layer}', 0 to {pooled.shape[1] - 1}. "
                f"Got {int(wanted.max())} instead."
            )
        reached = pooled[torch.arange(len(rows), device=device), wanted[rows]]
        (gradient,) = torch.autograd.grad(-reached.sum(), logits)
        norms = gradient.flatten(1).norm(dim=1)
        logits.grad = gradient / norms.clamp(min=GRADIENT_NORM).view(-1, 1, 1, 1)
        optimizer.step()
        values[rows, step] = reached.detach().cpu().numpy()
        spoke |= norms.cpu().numpy() > 0
        images[rows] = torch.sigmoid(logits[rows]).detach().cpu().numpy()
        settled[rows] = _settled(values[rows, : step + 1])
        rows = rows[~settled[rows] & (spoke[rows] | (step + 1 < SETTLED_OVER))]
        if len(rows) == 0:
            break
    return images, values, spoke, spoke & settled


def _settled(values: Float[np.ndarray, "b t"]) -> Bool[np.ndarray, " b"]:
    """Whether each image's last steps gained next to nothing on those before."""
    if values.shape[1] < 2 * SETTLED_OVER:
        return np.zeros(len(values), bool)
    before = values[:, -2 * SETTLED_OVER : -SETTLED_OVER].mean(1)
    return values[:, -SETTLED_OVER:].mean(1) - before <= SETTLED_GAIN * np.abs(before)


def _moved(images: Float[Tensor, "b c h w"], rngs: list[torch.Generator]) -> Float[Tensor, "b c h w"]:
    """Each image moved, turned and scaled by its own stream; what comes in from outside repeats the border."""
    draws = torch.stack([torch.rand(4, generator=rng) for rng in rngs]).to(images)
    angle = (2 * draws[:, 0] - 1) * TURN * torch.pi / 180
    scale = SCALES[0] + draws[:, 1] * (SCALES[1] - SCALES[0])
    shift = (2 * draws[:, 2:] - 1) * 2 * SHIFT
    cos, sin = torch.cos(angle) / scale, torch.sin(angle) / scale
    rows = [torch.stack([cos, -sin, shift[:, 0]], 1), torch.stack([sin, cos, shift[:, 1]], 1)]
    grid = nn.functional.affine_grid(torch.stack(rows, 1), list(images.shape), align_corners=False)
    return nn.functional.grid_sample(images, grid, padding_mode="border", align_corners=False)
