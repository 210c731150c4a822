"""A network saved by torch.export, made of modules again, so that it can be cut, explained and corrected."""

import os
from collections import OrderedDict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, fx, nn

from xai_robustness.models.layers import Add, Concatenate
from xai_robustness.models.rewrite import from_module
from xai_robustness.types import InputError

SUFFIX = ".pt2"
Given = tuple[Any, ...]
"""Arguments of an operation: weights as tensors, outputs of other operations as nodes."""


def _convolution(given: Given) -> nn.Module:
    _, weight, bias, stride, padding, dilation, groups = _filled(given, (None, None, None, 1, 0, 1, 1))
    sides = weight.shape[2:]
    made = nn.Conv2d(
        weight.shape[1] * groups,
        len(weight),
        sides,
        _pair(stride),
        _pair(padding),
        _pair(dilation),
        groups,
        bias is not None,
    )
    return _with(made, weight=weight, bias=bias)


def _linear(given: Given) -> nn.Module:
    _, weight, bias = _filled(given, (None, None, None))
    return _with(nn.Linear(weight.shape[1], len(weight), bias is not None), weight=weight, bias=bias)


def _batch_norm(given: Given) -> nn.Module:
    _, weight, bias, mean, var, _, momentum, eps = given[:8]
    made = _with(nn.BatchNorm2d(len(mean), eps, momentum, weight is not None), weight=weight, bias=bias)
    made.running_mean, made.running_var = mean, var
    return made


def _layer_norm(given: Given) -> nn.Module:
    _, shape, weight, bias, eps = _filled(given[:5], (None, None, None, None, 1e-5))
    return _with(nn.LayerNorm(shape, eps, weight is not None, bias is not None), weight=weight, bias=bias)


def _max_pool(given: Given) -> nn.Module:
    _, size, stride, padding, dilation, ceil = _filled(given, (None, None, [], 0, 1, False))
    return nn.MaxPool2d(_pair(size), _pair(stride or size), _pair(padding), _pair(dilation), ceil_mode=ceil)


def _avg_pool(given: Given) -> nn.Module:
    _, size, stride, padding, ceil, include = _filled(given[:6], (None, None, [], 0, False, True))
    return nn.AvgPool2d(_pair(size), _pair(stride or size), _pair(padding), ceil, include)


OPERATIONS: dict[str, Callable[[Given], nn.Module]] = {
    "aten.conv2d.default": _convolution,
    "aten.linear.default": _linear,
    "aten.batch_norm.default": _batch_norm,
    "aten.layer_norm.default": _layer_norm,
    "aten.max_pool2d.default": _max_pool,
    "aten.avg_pool2d.default": _avg_pool,
    "aten.adaptive_avg_pool2d.default": lambda given: nn.AdaptiveAvgPool2d(_pair(given[1])),
    "aten.flatten.using_ints": lambda given: nn.Flatten(*_filled(given, (None, 0, -1))[1:]),
    "aten.cat.default": lambda given: Concatenate(*_filled(given, (None, 0))[1:]),
    **dict.fromkeys(("aten.add.Tensor", "aten.add_.Tensor"), lambda given: Add()),
    **dict.fromkeys(("aten.relu.default", "aten.relu_.default"), lambda given: nn.ReLU()),
    **dict.fromkeys(("aten.dropout.default", "aten.dropout_.default"), lambda given: nn.Dropout(given[1])),
    **dict.fromkeys(("aten.silu.default", "aten.silu_.default"), lambda given: nn.SiLU()),
    "aten.gelu.default": lambda given: nn.GELU(),
}
"""Operations that become modules. Others stay as they are: the network works, and LRP refuses it by their stage."""


def exported_stages(name: str) -> Callable[[int, int, Any], "OrderedDict[str, nn.Module]"]:
    """A builder like those of MODELS from a file of `torch.export.save`, whose weights the model begins with.

    Args:
        name: path of the file, ending in `.pt2`, of a network from normalised images (B,C,H,W) to logits (B,K), B
            exported as dynamic.

    Raises:
        InputError: no such file, one that holds more than weights and a graph, or (when it is called) another number of
            classes, or a fixed number of images.
    """
    path = Path(name)
    if not path.is_file():
        raise InputError(f"The name parameter of ModelParams must be an existing {SUFFIX} file. Got '{name}' instead.")

    def stages(channels: int, n_classes: int, _: object) -> "OrderedDict[str, nn.Module]":
        device = torch.get_default_device()
        with torch.device("cpu"):
            graph = _read(path)
            _check(graph, name, channels, n_classes)
            model = from_module(_of_modules(graph))
        return OrderedDict(model.to(device).train().named_children())

    return stages


def exported_state(path: Path) -> dict[str, Tensor]:
    """The weights of a file, with the names that they have in the model that `exported_stages` makes of it."""
    if not path.is_file():
        raise InputError(f"The checkpoint parameter of training must be an existing file. Got '{path}' instead.")
    return dict(from_module(_of_modules(_read(path))).state_dict())


def _read(path: Path) -> fx.GraphModule:
    try:
        with _weights_only():
            module = torch.export.load(path).module()
    except Exception as error:  # of many types, from zip files to unpickling
        raise InputError(f"The file {path} cannot be read as an exported network: {error}") from error
    graph = fx.GraphModule(module, module.graph)
    for node in [node for node in graph.graph.nodes if node.op == "call_module"]:
        graph.graph.erase_node(node)  # checks of the example's shape, which other image sizes would not pass
    return graph


@contextmanager
def _weights_only() -> Iterator[None]:
    """Keep torch.load, which torch.export calls, from running pickled code."""
    key = "TORCH_FORCE_WEIGHTS_ONLY_LOAD"
    before = os.environ.get(key)
    os.environ[key] = "1"
    try:
        yield
    finally:
        os.environ.pop(key) if before is None else os.environ.update({key: before})


def _check(graph: fx.GraphModule, name: str, channels: int, n_classes: int) -> None:
    nodes = list(graph.graph.nodes)
    entry = next(node for node in nodes if node.op == "placeholder").meta["val"].shape
    (outcome,) = nodes[-1].all_input_nodes
    logits = outcome.meta["val"].shape
    if isinstance(entry[0], int):
        raise InputError(
            f"The network in {name} must take any number of images. Got one exported for {entry[0]} instead: export it "
            "with dynamic_shapes=({0: torch.export.Dim('batch')},)."
        )
    if entry[1] != channels or tuple(logits[1:]) != (n_classes,):
        raise InputError(
            f"The network in {name} must be for {channels} channels and {n_classes} classes. "
            f"Got one from {tuple(entry[1:])} to {tuple(logits[1:])} instead."
        )


def _of_modules(graph: fx.GraphModule) -> fx.GraphModule:
    """Put a module in place of every operation of OPERATIONS, named after its weights."""
    _pool_means(graph)
    weights = {**dict(graph.named_parameters()), **dict(graph.named_buffers())}
    for node in list(graph.graph.nodes):
        if node.op != "call_function" or str(node.target) not in OPERATIONS or node.kwargs:
            continue
        inputs = [arg for arg in node.all_input_nodes if arg.op != "get_attr"]
        if str(node.target).startswith("aten.add") and len(node.args) != len(inputs):
            continue  # a constant is added
        given = tuple(
            weights[str(arg.target)] if isinstance(arg, fx.Node) and arg.op == "get_attr" else arg for arg in node.args
        )
        owner = next((str(arg.target).rpartition(".")[0] for arg in node.all_input_nodes if arg.op == "get_attr"), "")
        place = f"at_{owner.replace('.', '_') or node.name}"
        graph.add_submodule(place, OPERATIONS[str(node.target)](given))
        with graph.graph.inserting_before(node):
            made = graph.graph.call_module(place, tuple(inputs))
        node.replace_all_uses_with(made)
        graph.graph.erase_node(node)
    for node in [node for node in graph.graph.nodes if node.op == "get_attr" and not node.users]:
        graph.graph.erase_node(node)
    graph.recompile()
    return fx.GraphModule(graph, graph.graph)


def _pool_means(graph: fx.GraphModule) -> None:
    """Write the mean over the positions of a map, x.mean((2, 3)), as the pooling that it is."""
    for node in list(graph.graph.nodes):
        if str(node.target) != "aten.mean.dim" or node.kwargs or node.args[0].meta["val"].ndim != 4:
            continue
        source, dims, keep = _filled(node.args, (None, None, False))
        if sorted(dim % 4 for dim in dims or ()) != [2, 3]:
            continue
        with graph.graph.inserting_before(node):
            made = graph.graph.call_function(torch.ops.aten.adaptive_avg_pool2d.default, (source, [1, 1]))
            if not keep:
                made = graph.graph.call_function(torch.ops.aten.flatten.using_ints, (made, 1))
        node.replace_all_uses_with(made)
        graph.graph.erase_node(node)


def _with(module: Any, **weights: Tensor | None) -> Any:
    for name, weight in weights.items():
        if weight is not None:
            setattr(module, name, nn.Parameter(weight.detach().clone()))
    return module


def _filled(given: Given, defaults: Given) -> Given:
    return (*given, *defaults[len(given) :])


def _pair(value: Any) -> Any:
    if isinstance(value, int):
        return value
    return tuple(value) if len(value) > 1 else value[0]
