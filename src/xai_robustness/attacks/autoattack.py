"""AutoAttack, as the Adversarial Robustness Toolbox maintains it; an optional extra of this package."""

from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec

import numpy as np
import torch
from jaxtyping import Float, Shaped
from torch import Tensor, nn

from xai_robustness.attacks.base import ATTACKS, Attack
from xai_robustness.attacks.budget import Budget
from xai_robustness.attacks.criteria import Misclassified, agrees
from xai_robustness.attacks.streams import Streams
from xai_robustness.types import InputError


@ATTACKS.register("autoattack")
class AutoAttack(Attack):
    """An ensemble of parameter-free attacks [Croce2020], each on the samples that still stand.

    They are APGD on the cross entropy, APGD on the difference of logits ratio, which needs three classes and is left
    out for two, and Square. The attack is untargeted, for tasks with one label a sample. Its random draws are those of
    the toolbox, seeded by the first sample's stream: they are the same for the same seed and batches.

    Args:
        budget: L-infinity or L2.
        queries: queries of Square.
        steps: iterations of each APGD.
    """

    name = "autoattack"

    def __init__(self, budget: Budget, queries: int = 1000, steps: int = 50) -> None:
        super().__init__(budget, Misclassified())
        if budget.norm not in ("linf", "l2"):
            raise InputError(f"The norm parameter of AutoAttack must be linf or l2. Got {budget.norm} instead.")
        if find_spec("art") is None:
            raise InputError(
                "The autoattack attack needs the Adversarial Robustness Toolbox, which is not installed. "
                "Run: pip install 'xai_robustness[attacks]'."
            )
        self.queries, self.steps = queries, steps

    def run(
        self,
        model: nn.Module,
        origin: Float[Tensor, "n c h w"],
        labels: Shaped[Tensor, "n ..."],
        streams: Streams,
    ) -> tuple[Float[Tensor, "n c h w"], None]:
        """Attack the correctly predicted samples."""
        if labels.ndim != 1:
            raise InputError("The labels parameter of AutoAttack must be one class a sample. Got several instead.")
        with torch.no_grad():
            logits = model(origin)
        standing = agrees(logits, labels)
        images = origin.clone()
        if self.budget.eps == 0 or not bool(standing.any()):
            return images, None
        seed = int(streams.rows(torch.tensor([0])).uniform(origin[:1, 0, 0, 0]).item() * 2**31)
        found = self._toolbox(model, origin, logits.shape[1], origin[standing], labels[standing], seed)
        images[standing] = torch.from_numpy(found).to(origin)
        return images, None

    def _toolbox(self, model: nn.Module, origin: Tensor, n_classes: int, x: Tensor, y: Tensor, seed: int) -> np.ndarray:
        from art.attacks.evasion import AutoProjectedGradientDescent, SquareAttack  # heavy, and an extra
        from art.estimators.classification import PyTorchClassifier

        norm: float = np.inf if self.budget.norm == "linf" else 2
        estimator = PyTorchClassifier(
            model,
            nn.CrossEntropyLoss(),
            origin.shape[1:],
            n_classes,
            clip_values=(0.0, 1.0),
            device_type="cpu" if origin.device.type == "cpu" else "gpu",
        )
        eps, size = self.budget.eps, len(x)
        losses = ["cross_entropy"] + (["difference_logits_ratio"] if n_classes > 2 else [])
        attacks = [
            AutoProjectedGradientDescent(estimator, norm, eps, 2 * eps, self.steps, False, 1, size, loss, False)
            for loss in losses
        ]
        attacks.append(SquareAttack(estimator, norm, max_iter=self.queries, eps=eps, batch_size=size, verbose=False))
        found, labels = x.cpu().numpy(), y.cpu().numpy()
        standing = np.ones(size, dtype=bool)
        with _seeded(seed):
            for attack in attacks:
                if standing.any():
                    found[standing] = attack.generate(found[standing], labels[standing])
                    standing = estimator.predict(found).argmax(1) == labels
                    found[standing] = x.cpu().numpy()[standing]
        return found


@contextmanager
def _seeded(seed: int) -> Iterator[None]:
    """Seed the global states that the toolbox draws from, and give the old ones back."""
    before = np.random.get_state()  # noqa: NPY002
    try:
        np.random.seed(seed % 2**32)  # noqa: NPY002
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            yield
    finally:
        np.random.set_state(before)  # noqa: NPY002
