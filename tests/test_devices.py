"""What is computed on an accelerator agrees with the CPU; skipped where there is none."""

from pathlib import Path

import numpy as np
import pytest
import torch
from tests.contracts.test_attributors import TARGETS, build, create
from tests.mitigation.toys import image_set
from tests.models.tiny import images, tiny_model, tiny_stages

from xai_robustness.attacks.budget import make_budget
from xai_robustness.attacks.explanation import ExplanationAttack
from xai_robustness.attacks.params import AttackParams
from xai_robustness.attacks.stability import attack_explanations
from xai_robustness.attacks.training import training_attack
from xai_robustness.attribution import ATTRIBUTORS
from xai_robustness.attribution.latents import PreprocessingParams, latents_job
from xai_robustness.attribution.lrp import Lrp
from xai_robustness.attribution.probe import free_memory, is_out_of_memory
from xai_robustness.chunks import open_arrays
from xai_robustness.corruptions import CORRUPTIONS, corrupt
from xai_robustness.models.training import TrainingJob, TrainingParams, predict_logits
from xai_robustness.models.zoo import MODELS, ModelParams
from xai_robustness.robustness.layerwise import layerwise_samples
from xai_robustness.robustness.sharpness import sharpness_values


def close(found: torch.Tensor, expected: torch.Tensor, tolerance: float = 1e-4) -> None:
    """Equal to a share of the largest value."""
    scale = float(expected.abs().max())
    torch.testing.assert_close(found.cpu(), expected, rtol=0, atol=tolerance * scale)


@pytest.mark.parametrize("name", ATTRIBUTORS)
def test_attributions(name: str, accelerator: str) -> None:
    expected = create(name, build(name))(images(5), TARGETS)
    found = create(name, build(name).to(accelerator))(images(5).to(accelerator), TARGETS.to(accelerator))
    assert found.device.type == accelerator
    close(found, expected, 1e-3 if name in ("shapley_sampling", "kernel_shap") else 1e-4)


def test_relevance_of_layers(accelerator: str) -> None:
    layers = ("layer1", "layer3")
    with Lrp(tiny_model()) as lrp:
        expected = lrp.run(images(5), TARGETS, layers)
    with Lrp(tiny_model().to(accelerator)) as lrp:
        found = lrp.run(images(5).to(accelerator), TARGETS.to(accelerator), layers)
    close(found.attribution, expected.attribution)
    for layer in layers:
        close(found.relevances[layer], expected.relevances[layer])


@pytest.mark.parametrize("name", CORRUPTIONS)
def test_corruptions(name: str, accelerator: str) -> None:
    x = images(4, 28)
    expected = corrupt(name, x, range(4), severity=3, seed=0)
    found = corrupt(name, x.to(accelerator), range(4), severity=3, seed=0)
    close(found, expected, 1 / 255 + 1e-4)


@pytest.mark.parametrize("kind", ["fgsm", "pgd", "estimated_pgd", "noise", "autoattack"])
@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_attacks(kind: str, norm: str, accelerator: str) -> None:
    asked = AttackParams(kind=kind, norm=norm, eps=0.1 if norm == "linf" else 0.9, steps=3, queries=10)
    x, model = images(6).to(accelerator), tiny_model().to(accelerator)
    labels = model(x).argmax(1)
    attack = asked.make()
    found = attack(model, x, labels, 0, list(range(6)))
    assert found.images.device.type == accelerator
    assert not attack.budget.exceeded(found.images, x)
    if kind in ("fgsm", "noise"):
        close(found.images, asked.make()(tiny_model(), x.cpu(), labels.cpu(), 0, list(range(6))).images, 1e-3)


@pytest.mark.parametrize("method", ["saliency", "integrated_gradients", "grad_cam"])
def test_attacks_on_explanations(method: str, accelerator: str) -> None:
    data = image_set(12, 0)
    attack = ExplanationAttack(make_budget("linf", 0.05), method, steps=2)
    found = attack_explanations(tiny_model(), data, attack, 0, accelerator)
    assert np.isfinite(found.samples["spearman"]).all()


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"adversarial": {"method": "pgd", "steps": 2}},
        {"adversarial": {"method": "free", "steps": 2}},
        {"adversarial": {"method": "fgsm_rs"}},
        {"policy": "rand_augment", "mixup": 0.2, "cutmix": 0.2, "label_smoothing": 0.1},
        {"corruptions": {"table": "standard", "names": ["gaussian_noise", "jpeg_compression"]}},
    ],
)
def test_training(changes: dict, accelerator: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(MODELS._entries, "tiny", tiny_stages)
    params = TrainingParams.model_validate({"epochs": 2, "batch_size": 16, **changes})
    attack = training_attack(params.adversarial) if params.adversarial.active else None
    data = image_set(48, 0), image_set(24, 1, first_id=100)
    found = []
    for device in ("cpu", accelerator):
        TrainingJob(ModelParams(name="tiny"), *data, params, 0, device, attack).write(tmp_path / device)
        found.append((tmp_path / device / "history.csv").read_text().count("\n"))
    assert found[0] == found[1] and sorted(p.name for p in (tmp_path / accelerator).iterdir()) == sorted(
        p.name for p in (tmp_path / "cpu").iterdir()
    )


def test_latents_and_predictions(accelerator: str, tmp_path: Path) -> None:
    data, stores = image_set(24, 0), []
    for device in ("cpu", accelerator):
        latents_job(tiny_model(), {"train/biased": data}, PreprocessingParams(), device, "m").write(tmp_path / device)
        stores.append(open_arrays(tmp_path / device))
    expected, found = stores
    arrays = [path for path, member in expected.members(max_depth=None) if hasattr(member, "shape")]
    assert len(arrays) > 5
    for name in arrays:
        a, b = (np.asarray(store[name][:]) for store in (expected, found))
        np.testing.assert_allclose(b, a, rtol=0, atol=2e-3 * float(np.abs(a).max()), err_msg=name)
    a, b = (predict_logits(tiny_model(), data, 8, device) for device in ("cpu", accelerator))
    np.testing.assert_allclose(b, a, atol=1e-4)


def test_sharpness_and_layers(accelerator: str) -> None:
    data = image_set(12, 0)
    expected, found = (sharpness_values(tiny_model(), data, "saliency", device) for device in ("cpu", accelerator))
    for name, values in expected.items():
        np.testing.assert_allclose(found[name], values, rtol=1e-2, err_msg=name)
    layerwise_samples(tiny_model(), data, ["layer1", "layer3"], 0, accelerator)


def test_memory_is_asked_of_the_device(accelerator: str) -> None:
    device = torch.device(accelerator)
    assert free_memory(device) > 0
    with pytest.raises(RuntimeError) as raised:
        torch.empty(1 << 50, dtype=torch.uint8, device=device)
    assert is_out_of_memory(raised.value)
