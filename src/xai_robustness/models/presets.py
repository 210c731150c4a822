"""Published training recipes by name: `training.preset` fills what a study's file does not set; docs/training.md.

A preset is a layer between the defaults and what a study says: it replaces the values of `conf/base`, and a study's own
values and those of the command line replace the preset's. What each recipe leaves out stands in docs/training.md.
"""

import difflib
from collections.abc import Mapping
from typing import Any

from xai_robustness.types import InputError

_PLAIN = {"patience": None, "augment": False, "class_weights": False, "weight_decay": 0.0, "head_epochs": 0}
_REVISE = {
    **_PLAIN,
    "epochs": 300,
    "batch_size": 128,
    "scheduler": "multistep",
    "milestones": [150, 250],
    "class_weights": True,
    "policy": "reveal_to_revise",
    "adam_eps": 1e-7,
}
_DERMOSCOPY = {
    **_PLAIN,
    "epochs": 50,
    "batch_size": 16,
    "lr": 3e-4,
    "optimizer": "adam",
    "scheduler": "plateau",
    "plateau_patience": 5,
    "weight_decay": 5e-4,
    "patience": 10,
    "class_weights": True,
    "head_epochs": 10,
    "head_lr": 1e-3,
    "policy": "dermoscopy",
}

PRESETS: dict[str, dict[str, Any]] = {
    # Reveal to Revise and its sequels [Pahde2025]: by architecture, and PTB-XL
    "revise_vgg": {**_REVISE, "optimizer": "sgd", "momentum": 0.9, "lr": 1e-3},
    "revise_resnet": {**_REVISE, "optimizer": "adam", "lr": 5e-4},
    "revise_vit": {**_REVISE, "optimizer": "sgd", "momentum": 0.9, "lr": 5e-3},
    "revise_ecg": {
        **_REVISE,
        "optimizer": "adam",
        "lr": 5e-4,
        "epochs": 100,
        "milestones": [50, 75],
        "policy": None,
    },
    # fine-tuning of DeiT and MedViT on MedMNIST [Touvron2021]
    "deit": {
        **_PLAIN,
        "epochs": 100,
        "batch_size": 8,
        "lr": 5e-4 * 8 / 512,
        "optimizer": "adamw",
        "weight_decay": 0.05,
        "scheduler": "cosine",
        "min_lr": 1e-5,
        "warmup_epochs": 5,
        "warmup_lr": 1e-6,
        "grad_clip": 5.0,
        "label_smoothing": 0.1,
        "mixup": 0.8,
        "cutmix": 1.0,
        "policy": "rand_augment",
        "random_erasing": 0.25,
    },
    # DenseNet121 from ImageNet weights, for ensembles of attributions [EnsembleStrategies]
    "densenet_medmnist": {
        **_PLAIN,
        "epochs": 100,
        "batch_size": 128,
        "lr": 1e-5,
        "optimizer": "adam",
        "scheduler": "none",
    },
    # small ResNet18 from scratch, for the layer-wise study
    "small_resnet": {
        **_PLAIN,
        "epochs": 10,
        "batch_size": 64,
        "lr": 1e-3,
        "optimizer": "sgd",
        "momentum": 0.9,
        "scheduler": "none",
        "patience": 7,
    },
    # HAM10000: standard, adversarial, robust transfer [Margeloiu2020]
    "dermoscopy": _DERMOSCOPY,
    "dermoscopy_adversarial": {
        **_DERMOSCOPY,
        "adversarial": {"method": "pgd", "norm": "l2", "eps": 3.0, "steps": 7, "step_size": 0.2, "fade_in": 0},
    },
    "robust_transfer": {**_DERMOSCOPY, "lr": 1e-5, "head_epochs": 0, "frozen_to": "layer3"},
}


def preset_values(name: str) -> dict[str, Any]:
    """Training parameters of a preset.

    Raises:
        InputError: no such preset; the error lists them.
    """
    if name not in PRESETS:
        close = difflib.get_close_matches(name, PRESETS, n=1)
        hint = f" Did you mean '{close[0]}'?" if close else ""
        raise InputError(f"Unknown preset '{name}' in training.preset.{hint} Choose from: {', '.join(PRESETS)}.")
    return PRESETS[name]


def over(values: Mapping[str, Any], explicit: Mapping[str, Any]) -> dict[str, Any]:
    """`values` with what is explicit in their place, group by group.

    Example:
        >>> over({"lr": 0.1, "adversarial": {"eps": 3.0, "steps": 7}}, {"adversarial": {"steps": 2}})
        {'lr': 0.1, 'adversarial': {'eps': 3.0, 'steps': 2}}
    """
    inner = {
        key: over(values[key], value)
        for key, value in explicit.items()
        if isinstance(value, Mapping) and isinstance(values.get(key), Mapping)
    }
    return {**values, **explicit, **inner}


def without_defaults(
    merged: Mapping[str, Any], explicit: Mapping[str, Any], preset: Mapping[str, Any]
) -> dict[str, Any]:
    """`merged` parameters less the defaults that a preset replaces: keys of the preset that are not explicit.

    Example:
        >>> without_defaults({"lr": 0.1, "epochs": 8}, {"epochs": 8}, {"lr": 0.5, "epochs": 99})
        {'epochs': 8}
    """
    kept: dict[str, Any] = {}
    for key, value in merged.items():
        if key in preset and isinstance(value, Mapping) and isinstance(preset[key], Mapping):
            kept[key] = without_defaults(value, explicit.get(key, {}), preset[key])
        elif key not in preset or key in explicit:
            kept[key] = value
    return kept
