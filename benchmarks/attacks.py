"""Attacks measured on real images: `python benchmarks/attacks.py explanations` (or predictions, training).

Needs breastmnist and pneumoniamnist below `$XAI_DATA_ROOT/medmnist`. Every finished case is kept in
`results/attacks.json`, so an interrupted run goes on; `--fresh` measures again.

explanations: top-k attack of ResNet18's saliency and SmoothGrad beside random noise at the same epsilon.
predictions: PGD beside foolbox and the Adversarial Robustness Toolbox, same model, budget, steps and step length.
training: standard and adversarially trained ResNet18 over seeds: clean and robust accuracy, sharpness of saliency.
transfer: the adversarially trained ones trained on without attacks, frozen up to each depth (after `training`).
"""

import argparse
import json
import platform
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from xai_robustness.attacks.budget import make_budget
from xai_robustness.attacks.evaluate import robust_accuracy, robustness_table
from xai_robustness.attacks.explanation import ExplanationAttack
from xai_robustness.attacks.pgd import PGD
from xai_robustness.attacks.stability import attack_explanations, stability_table
from xai_robustness.attacks.training import training_attack
from xai_robustness.datasets.base import ImageSet
from xai_robustness.datasets.load import DataParams, load_dataset, raw_root
from xai_robustness.models.adversarial import AdversarialParams
from xai_robustness.models.checkpoint import load_model
from xai_robustness.models.training import TrainingJob, TrainingParams
from xai_robustness.models.zoo import ModelParams
from xai_robustness.robustness.sharpness import sharpness_table

RESULTS = Path(__file__).parent / "results" / "attacks.json"
EPOCHS = {"breastmnist": 20, "pneumoniamnist": 6}
EPS = 4 / 255
STEM = "standard"
"""Of the models of `predictions` and `training`: a quarter of the cost of the small stem at 28 pixels."""


def sets(name: str) -> dict[str, ImageSet]:
    """The official splits."""
    raw = load_dataset(DataParams(name=name, n_train=None, n_val=None, n_test=None), 0, raw_root())
    return {k: ImageSet(v.images, v.labels, v.sample_ids, v.info) for k, v in raw.items()}


def train(
    name: str, folder: Path, seed: int, data: dict[str, ImageSet], epochs: int, stem: str = "auto", **options: Any
) -> nn.Sequential:
    """Train ResNet18, or load what an earlier run has trained."""
    place = folder / name
    if not (place / "model.safetensors").exists() or (place / ".state.pt").exists():
        params = TrainingParams(epochs=epochs, batch_size=32, scheduler="one_cycle", augment=True, **options)
        attack = training_attack(params.adversarial)
        TrainingJob(ModelParams(stem=stem), data["train"], data["val"], params, seed, "cpu", attack).write(place)
    return load_model(place)


def explanations(given: argparse.Namespace) -> Any:
    """Yield one case for each data set, method and epsilon."""
    for name in EPOCHS:
        data = sets(name)
        for method in ("saliency", "smooth_grad", "smooth_grad_squared"):
            case = f"explanations/{name}/{method}/linf_{EPS:.4g}"
            if case in given.done:
                continue
            model = train(name, given.models, 0, data, EPOCHS[name])
            rows = np.sort(np.random.default_rng(0).permutation(len(data["test"]))[: given.images])
            attack = ExplanationAttack(make_budget("linf", EPS), method, steps=given.steps)
            found = attack_explanations(model, data["test"].subset(rows), attack, batch_size=24)
            table = stability_table(found, "test").replace({np.nan: None})
            curve = [round(float(v), 4) for v in found.curves.mean(0)]
            yield case, {"steps": given.steps, "curve": curve, "rows": table.to_dict("records")}


def predictions(given: argparse.Namespace) -> Any:
    """Yield robust accuracies of three implementations."""
    import foolbox
    from art.attacks.evasion import ProjectedGradientDescentPyTorch
    from art.estimators.classification import PyTorchClassifier

    data = sets("breastmnist")
    x, y = data["test"].tensor(slice(0, None)), torch.from_numpy(data["test"].labels)
    for norm, eps in (("linf", 1 / 255), ("linf", 2 / 255), ("linf", 4 / 255), ("l2", 0.25)):
        case = f"predictions/breastmnist/{norm}_{eps:.4g}"
        if case in given.done:
            continue
        model = train("standard_0", given.models, 0, data, given.epochs, STEM)
        steps, length = 10, eps / 4
        ours = robust_accuracy(model, data["test"], PGD(make_budget(norm, eps), steps, length), batch_size=156)
        torch.manual_seed(0)
        kind: Any = foolbox.attacks.LinfPGD if norm == "linf" else foolbox.attacks.L2PGD
        peer = kind(abs_stepsize=length, rel_stepsize=None, steps=steps)
        fool = peer(foolbox.PyTorchModel(model, (0, 1)), x, y, epsilons=eps)[1]
        estimator = PyTorchClassifier(
            model, nn.CrossEntropyLoss(), x.shape[1:], 2, clip_values=(0, 1), device_type="cpu"
        )
        order = np.inf if norm == "linf" else 2
        art = ProjectedGradientDescentPyTorch(
            estimator, order, eps, length, max_iter=steps, num_random_init=1, batch_size=156, verbose=False
        )
        arts = torch.from_numpy(art.generate(x.numpy(), y.numpy()))
        with torch.no_grad():
            still = {
                key: int((model(images).argmax(1) == y).sum()) for key, images in (("foolbox", fool), ("art", arts))
            }
        counts = {"clean": int(ours.correct.sum()), "ours": int(ours.robust.sum()), **still, "n": len(y)}
        yield case, {"steps": steps, **counts}


def under_pgd(model: nn.Sequential, images: ImageSet, seed: int) -> dict[str, Any]:
    """Ten steps of L-infinity PGD at half of EPS and at EPS."""
    radii = (EPS / 2, EPS)
    return {f"pgd_linf_{e:.4g}": robust_accuracy(model, images, PGD(make_budget("linf", e), 10), seed) for e in radii}


def training(given: argparse.Namespace) -> Any:
    """Yield clean and robust accuracy and sharpness for each seed."""
    data = sets("breastmnist")
    for seed in range(given.seeds):
        case = f"training/breastmnist/seed_{seed}"
        if case in given.done:
            continue
        adversarial = AdversarialParams(method=given.method, eps=EPS, steps=3, step_size=0.5, fade_in=2)
        models = {
            "vanilla": train(f"standard_{seed}", given.models, seed, data, given.epochs, STEM),
            "adversarial": train(
                f"adversarial_{seed}", given.models, seed, data, given.epochs, STEM, adversarial=adversarial
            ),
        }
        found: dict[str, Any] = {"method": given.method, "epochs": given.epochs, "stem": STEM, "eps": EPS}
        for key, model in models.items():
            attacks = under_pgd(model, data["test"], seed)
            found[key] = robustness_table(attacks).to_dict("records")
            labels = data["test"].labels
            right = next(iter(attacks.values())).correct
            found[f"{key}_balanced_accuracy"] = float(np.mean([right[labels == c].mean() for c in np.unique(labels)]))
        found["sharpness"] = sharpness_table(models, data["test"]).to_dict("records")
        yield case, found


def transfer(given: argparse.Namespace) -> Any:
    """Yield what is left of robustness when an adversarially trained model is trained on, from each depth upwards."""
    data = sets("breastmnist")
    for seed in range(given.seeds):
        robust = given.models / f"adversarial_{seed}"
        depths = {"robust": load_model(robust)}
        kept = robustness_table(under_pgd(depths["robust"], data["test"], seed)).to_dict("records")
        for frozen_to in ("avgpool", "layer3", "layer2", "layer1", None):
            case = f"transfer/breastmnist/seed_{seed}/from_{frozen_to or 'input'}"
            if case in given.done:
                continue
            start = str(robust / "model.safetensors")
            options = {"start": start, "frozen_to": frozen_to, "lr": given.lr, "weight_decay": 5e-4}
            name = f"transfer_{seed}_{frozen_to}"
            depths["transfer"] = train(name, given.models, seed, data, given.epochs, STEM, **options)
            moved = robustness_table(under_pgd(depths["transfer"], data["test"], seed)).to_dict("records")
            found: dict[str, Any] = {"epochs": given.epochs, "lr": given.lr, "robust": kept, "transfer": moved}
            found["sharpness"] = sharpness_table(depths, data["test"], reference="robust").to_dict("records")
            yield case, found


TOPICS = {"explanations": explanations, "predictions": predictions, "training": training, "transfer": transfer}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("topics", nargs="*", default=[], help=f"of {', '.join(TOPICS)}; all by default")
    parser.add_argument("--models", type=Path, default=Path("data/bench_models"), help="folder of trained models")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--epochs", type=int, default=8, help="of each model of `training` and `predictions`")
    parser.add_argument("--lr", type=float, default=1e-4, help="of `transfer`")
    parser.add_argument("--method", default="fgsm_rs", help="of adversarial training: pgd, fgsm_rs, free")
    parser.add_argument("--images", type=int, default=48, help="explained in `explanations`")
    parser.add_argument("--steps", type=int, default=20, help="of the attack in `explanations`")
    parser.add_argument("--fresh", action="store_true")
    given = parser.parse_args()
    record = json.loads(RESULTS.read_text()) if RESULTS.exists() and not given.fresh else {"cases": {}}
    torch.set_num_threads(1)
    libraries = ("torch", "foolbox", "adversarial-robustness-toolbox")
    record["versions"] = {name: version(name) for name in libraries} | {"python": platform.python_version()}
    given.done = record["cases"]
    for topic in given.topics or TOPICS:
        for case, values in TOPICS[topic](given):
            record["cases"][case] = values
            RESULTS.parent.mkdir(exist_ok=True)
            RESULTS.write_text(json.dumps(record, indent=1) + "\n")
            print(case, json.dumps(values)[:300], flush=True)


if __name__ == "__main__":
    main()
