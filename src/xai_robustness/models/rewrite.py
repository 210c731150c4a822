"""Any PyTorch classifier as modules that rules and hooks can be attached to: each used once, none in place.

torchvision's networks reuse one in-place ReLU in a block, call functional ReLU or add in `forward`. LRP, DeepLIFT and
GuidedBackprop need each such operation as a module of its own.
"""

import copy
import operator
from collections import OrderedDict
from collections.abc import Callable, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import fx, nn

from xai_robustness.models.canonizers import batch_norm_pairs
from xai_robustness.models.layers import Add, Concatenate, Normalize
from xai_robustness.types import InputError


def _relu(node: fx.Node) -> tuple[nn.Module, tuple[Any, ...]]:
    return nn.ReLU(), (node.args[0],)


def _add(node: fx.Node) -> tuple[nn.Module, tuple[Any, ...]]:
    if node.kwargs.get("alpha", 1) != 1 or not all(isinstance(term, fx.Node) for term in node.args):
        raise InputError(f"The model parameter of explicit must add tensors. Got {node.format_node()} instead.")
    return Add(), node.args[:2]


def _flatten(node: fx.Node) -> tuple[nn.Module, tuple[Any, ...]]:
    start, end = _options(node, ("start_dim", "end_dim"), (0, -1))
    return nn.Flatten(start, end), (node.args[0],)


def _cat(node: fx.Node) -> tuple[nn.Module, tuple[Any, ...]]:
    (dim,) = _options(node, ("dim",), (0,))
    parts: Any = node.args[0] if node.args else node.kwargs["tensors"]
    return Concatenate(dim), tuple(parts)


def _adaptive_pool(node: fx.Node) -> tuple[nn.Module, tuple[Any, ...]]:
    (size,) = _options(node, ("output_size",), (None,))
    return nn.AdaptiveAvgPool2d(size), (node.args[0],)


def _dropout(node: fx.Node) -> tuple[nn.Module, tuple[Any, ...]]:
    p, _ = _options(node, ("p", "training"), (0.5, True))
    return nn.Dropout(p), (node.args[0],)


def _max_pool(node: fx.Node) -> tuple[nn.Module, tuple[Any, ...]]:
    names = ("kernel_size", "stride", "padding", "dilation", "ceil_mode")
    return nn.MaxPool2d(*_options(node, names, (None, None, 0, 1, False))), (node.args[0],)


def _avg_pool(node: fx.Node) -> tuple[nn.Module, tuple[Any, ...]]:
    names = ("kernel_size", "stride", "padding", "ceil_mode", "count_include_pad")
    return nn.AvgPool2d(*_options(node, names, (None, None, 0, False, True))), (node.args[0],)


def _options(node: fx.Node, names: Sequence[str], defaults: Sequence[Any]) -> tuple[Any, ...]:
    given = dict(zip(names, node.args[1:])) | node.kwargs
    return tuple(given.get(name, default) for name, default in zip(names, defaults))


Make = Callable[[fx.Node], tuple[nn.Module, tuple[Any, ...]]]
OPERATIONS: dict[Any, Make] = {
    **dict.fromkeys((F.relu, F.relu_, torch.relu, torch.relu_, "relu", "relu_"), _relu),
    **dict.fromkeys((operator.add, operator.iadd, torch.add, "add", "add_"), _add),
    **dict.fromkeys((torch.flatten, "flatten"), _flatten),
    **dict.fromkeys((torch.cat, torch.concat, torch.concatenate), _cat),
    F.adaptive_avg_pool2d: _adaptive_pool,
    F.dropout: _dropout,
    F.max_pool2d: _max_pool,
    F.avg_pool2d: _avg_pool,
}
"""Functions and methods that become modules. Anything else stays, and LRP refuses it by name."""


class _Tracer(fx.Tracer):
    """Goes into every module that is not torch's own or ours."""

    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        return type(m).__module__.startswith(("torch.nn", "xai_robustness")) and not isinstance(m, nn.Sequential)


def explicit(model: nn.Module) -> fx.GraphModule:
    """A copy of a model in which each operation is a module used once and nothing works in place.

    Args:
        model: anything that torch.fx can trace; not changed. Torch's own layers and this package's are kept whole.

    Returns:
        A graph of modules with the same outputs, the same parameter names and the model's mode.

    Raises:
        InputError: a model that cannot be traced, because its `forward` depends on values.
    """
    duplicate = copy.deepcopy(model)
    tracer = _Tracer()
    try:
        graph = tracer.trace(duplicate)
    except (fx.proxy.TraceError, TypeError, ValueError, RuntimeError) as error:
        raise InputError(
            f"The model parameter of explicit must be a network whose forward does not depend on values. "
            f"Got {type(model).__name__}: {error}"
        ) from error
    result = fx.GraphModule(duplicate, graph, type(model).__name__)
    used: set[str] = set()
    for node in list(graph.nodes):
        if node.op == "call_module":
            _make_unique(result, node, used)
        elif node.op in ("call_function", "call_method") and node.target in OPERATIONS:
            _make_module(result, node)
    graph.lint()
    result.recompile()
    for module in result.modules():
        if hasattr(module, "inplace"):
            vars(module)["inplace"] = False
    return result.train(model.training)


def _make_unique(model: fx.GraphModule, node: fx.Node, used: set[str]) -> None:
    """A module that is called again without weights gets a copy of its own."""
    name = str(node.target)
    if name in used:
        module = model.get_submodule(name)
        if next(module.parameters(), None) is not None:
            raise InputError(f"The model parameter of explicit must use weights once. Got '{name}' used again instead.")
        node.target = _free(model, name)
        model.add_submodule(node.target, copy.deepcopy(module))
    used.add(str(node.target))


def _make_module(model: fx.GraphModule, node: fx.Node) -> None:
    module, inputs = OPERATIONS[node.target](node)
    name = _free(model, node.name)
    model.add_submodule(name, module)
    with model.graph.inserting_before(node):
        new = model.graph.call_module(name, inputs)
    node.replace_all_uses_with(new)
    model.graph.erase_node(node)


def _free(model: nn.Module, name: str) -> str:
    taken = {path for path, _ in model.named_modules()}
    return next(new for i in range(1, len(taken) + 2) if (new := f"{name}_{i}") not in taken)


def from_module(
    model: nn.Module, mean: Sequence[float] | None = None, std: Sequence[float] | None = None
) -> nn.Sequential:
    """A user's classifier in the form that this package works with: a sequence of `normalize` and stages.

    The graph is cut wherever one tensor carries everything: after such a cut nothing before it is used any more. Stages
    are named after the module that ends them, dots replaced by underscores (`layer1_0_relu_2`), so that `split`, LRP's
    checks, latents and insertions work at each.

    Args:
        model: classifier from images to logits; not changed, its weights are copied.
        mean: mean of each channel for images in [0,1]; None: the model takes images in [0,1] as they are.
        std: standard deviation of each channel; given with `mean`.

    Raises:
        InputError: a model that torch.fx cannot trace, or one statistic without the other.
    """
    if (mean is None) != (std is None):
        raise InputError(f"The mean and std parameters of from_module must be given together. Got {mean} and {std}.")
    graph = explicit(model)
    _check_pairs(graph)
    stages: OrderedDict[str, nn.Module] = OrderedDict()
    if mean is not None and std is not None:
        stages["normalize"] = Normalize(mean, std)
    for nodes in _segments(graph.graph):
        name = str(nodes[-1].target if nodes[-1].op == "call_module" else nodes[-1].name).replace(".", "_")
        stages[name] = _stage(graph, nodes)
    return nn.Sequential(stages).train(model.training)


def _check_pairs(model: fx.GraphModule) -> None:
    """Batch norms are merged into the layer before them in their container: that must feed them, and them alone."""
    modules = dict(model.named_modules())
    feeds = {
        (modules[str(node.args[0].target)], modules[str(node.target)])
        for node in model.graph.nodes
        if node.op == "call_module" and isinstance(node.args[0], fx.Node) and node.args[0].op == "call_module"
        if len(node.args[0].users) == 1
    }
    for pair in batch_norm_pairs(model):
        if pair not in feeds:
            name = next(name for name, module in modules.items() if module is pair[1])
            raise InputError(
                f"The model parameter of from_module must run a batch norm right after the layer in front of it. "
                f"Got '{name}', which follows another layer, instead."
            )


def _segments(graph: fx.Graph) -> list[list[fx.Node]]:
    """Operations in order, cut after each node that alone is used by what follows."""
    nodes = [node for node in graph.nodes if node.op not in ("placeholder", "output", "get_attr")]
    place = {node: i for i, node in enumerate(nodes)}
    last = {n: max((place[user] for user in n.users if user in place), default=len(nodes)) for n in nodes}
    start = next(node for node in graph.nodes if node.op == "placeholder")
    open_until = max((place[user] for user in start.users if user in place), default=0)
    segments: list[list[fx.Node]] = [[]]
    for i, node in enumerate(nodes):
        segments[-1].append(node)
        if open_until <= i:
            segments.append([])
        open_until = max(open_until, last[node])
    return [segment for segment in segments if segment]


def _stage(whole: fx.GraphModule, nodes: list[fx.Node]) -> nn.Module:
    """One module itself where a stage is one; else a graph of the stage's nodes."""
    if len(nodes) == 1 and nodes[0].op == "call_module":
        return whole.get_submodule(str(nodes[0].target))
    graph, inside = fx.Graph(), set(nodes)
    before = next(arg for node in nodes for arg in node.all_input_nodes if arg not in inside and arg.op != "get_attr")
    known: dict[fx.Node, fx.Node] = {before: graph.placeholder("x")}
    for node in nodes:
        for arg in node.all_input_nodes:
            if arg not in known:
                known[arg] = graph.node_copy(arg, known.__getitem__)
        known[node] = graph.node_copy(node, known.__getitem__)
    graph.output(known[nodes[-1]])
    return fx.GraphModule(whole, graph, "Stage")
