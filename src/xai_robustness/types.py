"""Words shared by the whole package: splits, conditions, parameter models and table schemas."""

from dataclasses import dataclass
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict

Split = Literal["train", "val", "test"]
SPLITS: tuple[Split, ...] = ("train", "val", "test")

Condition = Literal["clean", "biased", "attacked"]
CONDITIONS: tuple[Condition, ...] = ("clean", "biased", "attacked")

Task = Literal["binary", "multi-class", "multi-label", "ordinal"]

METRIC_COLUMNS = ("metric", "value", "ci_low", "ci_high", "n")
"""Columns that every table of metrics ends with: `{split}/{condition}/{metric}`, value, 95 % interval, sample count."""


NEUTRAL = "neutral"
"""Mark of a field that cannot change a result: `batch_size: Annotated[int, NEUTRAL] = 64`."""


@dataclass(frozen=True)
class UsedBy:
    """Mark of a field that changes the results of the nodes that it names, and of no other that takes its group.

    Example:
        `allowed: Annotated[float, UsedBy("select_correction")] = 0.03`: another value selects again and trains nothing.
    """

    nodes: tuple[str, ...]

    def __init__(self, *nodes: str) -> None:
        object.__setattr__(self, "nodes", nodes)


class Params(BaseModel):
    """Base of all parameter models: unknown keys are errors and instances never change."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    def result_values(self, node: str | None = None) -> dict[str, Any]:
        """Values that can change a result: fields marked `NEUTRAL`, or `UsedBy` other nodes than `node`, are left out.

        Args:
            node: a node's name without its stage; None: any.
        """
        values: dict[str, Any] = {}
        for name, field in type(self).model_fields.items():
            value = getattr(self, name)
            users = [mark.nodes for mark in field.metadata if isinstance(mark, UsedBy)]
            if NEUTRAL in field.metadata or (node and users and node not in users[0]):
                continue
            values[name] = value.result_values(node) if isinstance(value, Params) else _plain(value)
        return values

    def flat(self, prefix: str = "") -> dict[str, Any]:
        """Dotted name -> value of every parameter, for logging."""
        flat: dict[str, Any] = {}
        for name in type(self).model_fields:
            value = getattr(self, name)
            flat.update(value.flat(f"{prefix}{name}.") if isinstance(value, Params) else {f"{prefix}{name}": value})
        return flat


def _plain(value: Any) -> Any:
    if isinstance(value, Params):
        return value.result_values()
    if isinstance(value, dict):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    return value


class InputError(ValueError):
    """Bad input from outside (data, parameters, files): one sentence that says what to do next."""
