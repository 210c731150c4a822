"""The bias score as a model's only output, so that any attribution method can say which pixels raise it."""

from collections import OrderedDict

import torch
from jaxtyping import Float
from torch import Tensor, nn

from xai_robustness.attribution import ATTRIBUTORS
from xai_robustness.attribution.heatmap import to_heatmap
from xai_robustness.concepts.cav import Cav
from xai_robustness.models.taps import Pooling, pool
from xai_robustness.models.zoo import split


class BiasScore(nn.Module):
    """v . pool(a), a logit without bias: what stands in for the head [Pahde2025].

    Args:
        cav: the concept vector v.
    """

    def __init__(self, cav: Cav) -> None:
        super().__init__()
        self.pooling: Pooling = "mean" if cav.pool == "mean" else "max"
        self.score = nn.Linear(len(cav.vector), 1, bias=False)
        with torch.no_grad():
            self.score.weight.copy_(torch.from_numpy(cav.vector)[None])

    def forward(self, activation: Float[Tensor, "b k *positions"]) -> Float[Tensor, "b 1"]:
        """Scores of a batch of activations."""
        return self.score(pool(activation, self.pooling))


def with_bias_score(model: nn.Sequential, cav: Cav) -> nn.Sequential:
    """The model up to the vector's layer, whose modules it shares, with `BiasScore` in place of the rest."""
    head = BiasScore(cav).to(next(model.parameters()).device)
    return nn.Sequential(OrderedDict(prefix=split(model, cav.layer)[0], bias_score=head)).eval()


def explain_score(
    model: nn.Sequential, cav: Cav, method: str, images: Float[Tensor, "n c h w"]
) -> Float[Tensor, "n h w"]:
    """Signed heatmaps of the bias score by a method of ATTRIBUTORS at its default options; transformers too."""
    attributor = ATTRIBUTORS.create(method, with_bias_score(model, cav))
    classes = torch.zeros(len(images), dtype=torch.int64, device=images.device)
    return to_heatmap(attributor(images, classes))
