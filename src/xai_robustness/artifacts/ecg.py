"""Artifacts of electrocardiograms: a lead that starts defective, a beat that is amplified."""

from abc import ABC, abstractmethod
from typing import NamedTuple, final

import numpy as np
from jaxtyping import Bool, Float, Int64

from xai_robustness.registry import Registry
from xai_robustness.types import InputError


class SignalInsertion(NamedTuple):
    """A signal with an artifact and the time that the artifact may have changed.

    Attributes:
        signal: float32 (T,C).
        mask: bool (T,).
    """

    signal: Float[np.ndarray, "t c"]
    mask: Bool[np.ndarray, " t"]


class SignalArtifact(ABC):
    """Base class of artifacts in signals; a call inserts one and keeps what `artifacts.base.Artifact` promises.

    Args:
        leads: numbers of the leads that are changed, counted from 0; empty: all.
        samples: length of the change where the artifact has a fixed one.
        factor: how much larger an amplified beat is.
    """

    def __init__(self, leads: list[int], samples: int, factor: float) -> None:
        self.leads, self.samples, self.factor = leads, samples, factor

    @abstractmethod
    def insert(self, signal: np.ndarray, peaks: np.ndarray, rng: np.random.Generator) -> SignalInsertion:
        """Change a copy of `signal` (T,C); all randomness comes from `rng`."""

    @final
    def __call__(
        self, signal: Float[np.ndarray, "t c"], peaks: Int64[np.ndarray, " p"], rng: np.random.Generator
    ) -> SignalInsertion:
        """Insert the artifact.

        Args:
            signal: float32 (T,C); not changed.
            peaks: R peaks, sample numbers, ascending.
            rng: source of all randomness.

        Raises:
            InputError: leads that the signal does not have, or a length beyond its end.
            ValueError: the subclass broke a promise.
        """
        name = type(self).__name__
        outside = [lead for lead in self.leads if lead >= signal.shape[1]]
        if outside or self.samples > len(signal):
            raise InputError(
                f"The leads and samples parameters of {name} must fit signals of {signal.shape[1]} leads and "
                f"{len(signal)} samples. Got {self.leads} and {self.samples} instead."
            )
        changed, mask = self.insert(signal.copy(), peaks, rng)
        if changed.shape != signal.shape or changed.dtype != signal.dtype or mask.shape != signal.shape[:1]:
            raise ValueError(f"{name} must keep shape and dtype.")
        if not mask.any() or (changed != signal)[~mask].any():
            raise ValueError(f"{name} must change samples inside of its mask alone, which must not be empty.")
        return SignalInsertion(changed, mask)

    def chosen(self, signal: np.ndarray) -> list[int]:
        """The leads that are changed."""
        return self.leads or list(range(signal.shape[1]))


SIGNAL_ARTIFACTS: Registry[type[SignalArtifact]] = Registry("artifact of signals")


@SIGNAL_ARTIFACTS.register("defective_lead")
class DefectiveLead(SignalArtifact):
    """The first samples of a lead are a constant, twice their largest value [Pahde2025]."""

    def insert(self, signal: np.ndarray, peaks: np.ndarray, rng: np.random.Generator) -> SignalInsertion:
        """Flatten the start of the leads."""
        mask = np.zeros(len(signal), bool)
        mask[: self.samples] = True
        for lead in self.chosen(signal):
            signal[: self.samples, lead] = 2 * signal[: self.samples, lead].max()
        return SignalInsertion(signal, mask)


@SIGNAL_ARTIFACTS.register("amplified_beat")
class AmplifiedBeat(SignalArtifact):
    """One beat, from the middle before its R peak to the middle after it, is amplified: 1, `factor` at the peak, 1.

    The beat is drawn among those with neighbours on both sides; a signal with fewer than three peaks is amplified in
    its middle fifth.
    """

    def insert(self, signal: np.ndarray, peaks: np.ndarray, rng: np.random.Generator) -> SignalInsertion:
        """Amplify one beat."""
        if len(peaks) >= 3:
            p = int(rng.integers(1, len(peaks) - 1))
            start, peak, stop = (peaks[p - 1] + peaks[p]) // 2, peaks[p], (peaks[p] + peaks[p + 1]) // 2
        else:
            start, peak, stop = (int(share * len(signal)) for share in (0.4, 0.5, 0.6))
        gain = np.interp(np.arange(len(signal)), [start, peak, stop], [1, self.factor, 1], left=1, right=1)
        leads = self.chosen(signal)
        signal[:, leads] = (signal[:, leads] * gain[:, None]).astype(signal.dtype)
        mask = np.zeros(len(signal), bool)
        mask[start : stop + 1] = True
        return SignalInsertion(signal, mask)
