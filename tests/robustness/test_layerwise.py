import numpy as np
import pytest
import torch
from scipy.stats import pearsonr, spearmanr
from sklearn.metrics import roc_auc_score
from torch import nn

from xai_robustness.robustness.layerwise import (
    LayerwiseSamples,
    eight_layers,
    grad_cam_pp_maps,
    layerwise_metrics,
    layerwise_samples,
)
from xai_robustness.types import InputError


def naive_map(model: nn.Sequential, image: torch.Tensor, target: int, layer: str) -> np.ndarray:
    """Grad-CAM++ of one image in float64, channel by channel."""
    kept = {}
    model = model.double()
    handle = model.get_submodule(layer).register_forward_hook(lambda m, i, out: kept.update(out=out))
    score = model(image.double().requires_grad_())[0, target]
    (gradient,) = torch.autograd.grad(score, kept["out"])
    handle.remove()
    activation, gradient = kept["out"][0].detach().numpy(), gradient[0].numpy()
    total = np.zeros(activation.shape[1:])
    for a, g in zip(activation, gradient):
        below = 2 * g**2 + g**3 * a.sum()
        alpha = np.divide(g**2, below, out=np.zeros_like(g), where=below != 0)
        total += (np.maximum(g, 0) * alpha).sum() * a
    model.float()
    return np.maximum(total, 0)


def test_eight_layers_of_a_resnet(model):
    assert eight_layers(model) == tuple(f"layer{i}.{j}.conv2" for i in range(1, 5) for j in (0, 1))
    with pytest.raises(InputError, match="must name module paths"):
        eight_layers(nn.Sequential(nn.Linear(2, 2)))


def test_maps_of_all_layers_in_one_pass_agree_with_the_naive_ones(images, model):
    x = images.tensor(slice(0, 3))
    layers = eight_layers(model)[-3:]
    maps, logits = grad_cam_pp_maps(model, x, None, layers)
    for layer in layers:
        for n in range(3):
            expected = naive_map(model, x[n : n + 1], int(logits[n].argmax()), layer)
            found = maps[layer][n].numpy()
            assert np.abs(found / found.max() - expected / expected.max()).max() < 1e-3


def test_every_version_passes_once(images, model):
    seen = []
    handle = model.fc.register_forward_hook(lambda m, inputs, out: seen.append(len(inputs[0])))
    samples = layerwise_samples(model, images.subset(np.arange(10)), eight_layers(model)[-1:], 0, "cpu")
    handle.remove()
    assert sum(seen) == 10 * 26 + 10  # and once to find the class
    assert samples.rmse.shape == (1, 25, 10) and samples.perturbed.shape == (25, 10, 3)
    rising = samples.image_rmse.reshape(5, 5, 10).mean(2)
    assert (rising[:, -1] > rising[:, 0]).all()


def samples_with_a_link() -> LayerwiseSamples:
    """RMSE rises with severity, and with it the errors."""
    rng = np.random.default_rng(0)
    labels = np.arange(40) % 2
    signal = np.linspace(4, 0.5, 25)[:, None, None] * (np.eye(2)[labels] - 0.5)
    perturbed = signal + rng.normal(size=(25, 40, 2))
    rmse = np.linspace(0.1, 0.6, 25)[:, None] + 0.05 * rng.random((25, 40))
    conditions = tuple((f"c{i}", s) for i in range(5) for s in range(1, 6))
    clean = 6 * np.eye(2)[labels] + rng.normal(size=(40, 2))
    return LayerwiseSamples(("layer4.1.conv2",), conditions, rmse[None], rmse, clean, perturbed, labels)


def test_correlations_and_losses_agree_with_scipy_and_scikit_learn():
    samples = samples_with_a_link()
    table = layerwise_metrics(samples, "binary")
    clean = roc_auc_score(samples.labels, samples.clean[:, 1] - samples.clean[:, 0])
    losses = [clean - roc_auc_score(samples.labels, p[:, 1] - p[:, 0]) for p in samples.perturbed]
    assert table[table.metric == "auroc_loss"].value.to_numpy() == pytest.approx(losses)
    means = samples.rmse[0].mean(1)
    values = table.set_index("metric").value
    assert values["pearson"] == pytest.approx(pearsonr(means, losses).statistic)
    assert values["spearman"] == pytest.approx(spearmanr(means, losses).statistic)
    wrong = (samples.perturbed.argmax(2) != samples.labels).ravel()
    assert values["misclassification_auroc"] == pytest.approx(roc_auc_score(wrong, samples.rmse[0].ravel()))
    rows = table[table.metric.isin(["pearson", "spearman", "misclassification_auroc"])]
    assert ((rows.ci_low < rows.value) & (rows.value <= rows.ci_high)).all()
    groups = table[(table.metric == "rmse") & (table.severity == 5)].groupby("group").n.sum()
    assert groups["correct"] + groups["incorrect"] == groups["all"]
