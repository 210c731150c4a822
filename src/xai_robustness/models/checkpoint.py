"""Classifiers on disk: safetensors weights beside a JSON file that says what built them. No pickle is executed."""

import json
import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from xai_robustness.models.exported import SUFFIX, exported_state
from xai_robustness.models.foreign_keys import to_zoo
from xai_robustness.models.insertions import INSERTIONS
from xai_robustness.models.layers import Normalize
from xai_robustness.models.zoo import ModelParams, build, insert_after
from xai_robustness.types import InputError

WEIGHTS, DESCRIPTION = "model.safetensors", "model.json"
WRAPPERS = ("model_state_dict", "state_dict", "model", "net")
"""Keys under which published checkpoints hold their state dict."""

log = logging.getLogger(__name__)


def describe(
    params: ModelParams, n_classes: int, image_shape: Sequence[int], mean: Sequence[float], std: Sequence[float]
) -> dict[str, Any]:
    """What `build_from` needs, as JSON values: model parameters, number of logits, image shape, channel statistics."""
    return {
        "model": params.model_dump(),
        "n_classes": int(n_classes),
        "image_shape": [int(side) for side in image_shape],
        "mean": [float(value) for value in mean],
        "std": [float(value) for value in std],
    }


def build_from(description: Mapping[str, Any], seed: int = 0) -> nn.Sequential:
    """Build the model of a description, with random weights and with its insertions.

    Args:
        description: from `describe` or a `model.json`; further keys are ignored.
        seed: run seed of the weights.

    Raises:
        InputError: a key is missing or its value impossible.
    """
    missing = [key for key in ("model", "n_classes", "image_shape", "mean", "std") if key not in description]
    if missing:
        raise InputError(
            f"The description of a model must have the key '{missing[0]}'. Got {sorted(description)} instead."
        )
    params = ModelParams(**description["model"])
    shape, mean, std = description["image_shape"], description["mean"], description["std"]
    return _insert(build(params, description["n_classes"], shape, mean, std, seed), description)


def _insert(model: nn.Sequential, description: Mapping[str, Any]) -> nn.Sequential:
    for entry in description.get("insertions", []):
        module = INSERTIONS[entry["kind"]].from_config(entry["config"])
        model = insert_after(model, entry["layer"], module, entry["name"])
    return model


def insertions_of(model: nn.Sequential) -> list[dict[str, Any]]:
    """Registered insertions in a model, in order: layer before them, name, kind and config."""
    found = []
    for path, container in model.named_modules():
        if not isinstance(container, nn.Sequential):
            continue
        previous = ""
        for name, child in container.named_children():
            kind = type(child).__name__
            if kind in INSERTIONS and isinstance(child, INSERTIONS[kind]):
                layer = f"{path}.{previous}" if path else previous
                found.append({"layer": layer, "name": name, "kind": kind, "config": child.config()})
            previous = name
    return found


def save_model(model: nn.Sequential, description: Mapping[str, Any], folder: Path) -> None:
    """Write `model.safetensors` and `model.json` into `folder`; each file appears whole or not at all.

    Args:
        model: the classifier; its insertions are recorded.
        description: from `describe`; further JSON values are kept.
        folder: made if absent.
    """
    folder.mkdir(parents=True, exist_ok=True)
    state = {key: value.detach().cpu().contiguous() for key, value in model.state_dict().items()}
    save_tensors(state, folder / WEIGHTS)
    full = {**description, "insertions": insertions_of(model)}
    write_atomically(folder / DESCRIPTION, json.dumps(full, indent=2, sort_keys=True) + "\n")


def save_tensors(state: dict[str, Tensor], path: Path) -> None:
    """Write tensors as safetensors under a temporary name, then rename."""
    partial = path.with_name(path.name + ".part")
    save_file(state, partial)
    partial.replace(path)


def write_atomically(path: Path, text: str) -> None:
    """Write a text file under a temporary name, then rename."""
    partial = path.with_name(path.name + ".part")
    partial.write_text(text, encoding="utf-8")
    partial.replace(path)


def load_description(folder: Path) -> dict[str, Any]:
    """Read `model.json`; raises InputError if `folder` holds no model."""
    path = folder / DESCRIPTION
    if not path.is_file() or not (folder / WEIGHTS).is_file():
        raise InputError(
            f"The folder parameter of load_model must hold {WEIGHTS} and {DESCRIPTION}. Got {folder} instead."
        )
    return json.loads(path.read_text(encoding="utf-8"))


def load_model(folder: Path, device: str | torch.device = "cpu") -> nn.Sequential:
    """Rebuild a saved classifier, insertions included, in evaluation mode.

    Raises:
        InputError: no model there, or weights that do not fit its description.
    """
    description = load_description(folder)
    with torch.device("meta"):
        model = build_from({**description, "insertions": []})
    model = _insert(model, description)
    state = load_file(folder / WEIGHTS)
    _check_keys(state, model, folder / WEIGHTS)
    # Copies: safetensors hands out unaligned views of its file, for which torch may take kernels that round otherwise.
    model.load_state_dict({name: values.clone() for name, values in state.items()}, assign=True)
    for name, module in model.named_children():
        if isinstance(module, Normalize):
            model._modules[name] = Normalize(description["mean"], description["std"])
    return model.to(device).eval()


def load_weights(path: Path | str, model: nn.Module, new_head: bool = False) -> None:
    """Load a foreign checkpoint into a model, in place.

    Args:
        path: `.safetensors`, or `.pt`/`.pth` (read with `weights_only=True`): a bare state dict, or one under
            one of WRAPPERS; `module.` prefixes are stripped, and torchvision's and timm's names replaced.
        model: the architecture that the weights must fit.
        new_head: to fine-tune: a head for other classes, or none, is no error; the model's own stays.

    Raises:
        InputError: no such file, no tensors in it, or keys and shapes that differ from the model's.
    """
    path = Path(path)
    state = _read_state(path)
    state = to_zoo({key.removeprefix("module."): value for key, value in state.items()})
    if new_head:
        state = _with_own_head(state, model, path)
    _check_keys(state, model, path)
    model.load_state_dict(state)


def _with_own_head(state: dict[str, Tensor], model: nn.Module, path: Path) -> dict[str, Tensor]:
    """The last linear layer's weights from the model where the checkpoint has none, or some for other classes."""
    head = [name for name, module in model.named_modules() if isinstance(module, nn.Linear)][-1:]
    own = {key: value for key, value in model.state_dict().items() if head and key.rpartition(".")[0] == head[0]}
    if all(key in state and state[key].shape == value.shape for key, value in own.items()):
        return state
    log.info("The classes of %s are others: its last layer is not used, '%s' begins anew.", path, *head)
    return {**state, **own}


def _read_state(path: Path) -> dict[str, Tensor]:
    if path.suffix == SUFFIX:
        return exported_state(path)
    if not path.is_file() or path.suffix not in (".safetensors", ".pt", ".pth"):
        raise InputError(
            f"The checkpoint parameter of training must be an existing .safetensors, .pt or .pth file. "
            f"Got {path} instead."
        )
    try:
        if path.suffix == ".safetensors":
            return load_file(path)
        content = torch.load(path, map_location="cpu", weights_only=True)
    except (SafetensorError, RuntimeError, EOFError, ValueError, KeyError, OSError) as error:
        raise InputError(f"The checkpoint {path} cannot be read as weights: {error}") from error
    except Exception as error:  # unpickling errors are of many types
        raise InputError(f"The checkpoint {path} holds more than weights and is refused: {error}") from error
    for key in WRAPPERS:
        if isinstance(content, Mapping) and isinstance(content.get(key), Mapping):
            content = content[key]
    if not isinstance(content, Mapping) or not content or not all(isinstance(v, Tensor) for v in content.values()):
        raise InputError(
            f"The checkpoint {path} must hold a state dict, bare or under one of {', '.join(WRAPPERS)}. "
            f"Got {type(content).__name__} instead."
        )
    return dict(content)


def _check_keys(state: Mapping[str, Tensor], model: nn.Module, path: Path) -> None:
    wanted = model.state_dict()
    optional = {key for key in wanted if key.endswith("num_batches_tracked")}
    problems = [
        ("missing", [key for key in wanted if key not in state and key not in optional]),
        ("unexpected", [key for key in state if key not in wanted]),
        ("mis-shaped", [_shapes(k, state, wanted) for k in wanted if k in state and state[k].shape != wanted[k].shape]),
    ]
    found = [f"{len(keys)} {word} ({', '.join([*keys[:3], '…'][: len(keys)])})" for word, keys in problems if keys]
    if found:
        raise InputError(f"The checkpoint {path} does not fit the model, its keys are: {'; '.join(found)}.")
    if any(not torch.isfinite(value).all() for value in state.values() if value.is_floating_point()):
        raise InputError(f"The checkpoint {path} holds values that are not finite.")


def _shapes(key: str, state: Mapping[str, Tensor], wanted: Mapping[str, Tensor]) -> str:
    return f"{key} is {tuple(state[key].shape)}, wanted {tuple(wanted[key].shape)}"
