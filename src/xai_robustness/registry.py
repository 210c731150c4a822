"""Named choices that parameters select: registered once, listed by every error."""

import difflib
import inspect
from collections.abc import Callable, Iterator
from typing import Any, Generic, TypeVar

from xai_robustness.types import InputError

T = TypeVar("T", bound=Callable[..., Any])


class Registry(Generic[T]):
    """A mapping from a name to a class or function.

    Args:
        noun: what an entry is, for the error sentence ("artifact").

    Example:
        >>> shapes = Registry[type]("shape")
        >>> @shapes.register("box")
        ... class Box: pass
        >>> shapes.names()
        ('box',)
        >>> shapes["bax"]
        Traceback (most recent call last):
        xai_robustness.types.InputError: Unknown shape 'bax'. Did you mean 'box'? Choose from: box.
    """

    def __init__(self, noun: str) -> None:
        self.noun = noun
        self._entries: dict[str, T] = {}

    def register(self, name: str) -> Callable[[T], T]:
        """Return a decorator that stores its argument under `name`; a name is given once."""

        def store(entry: T) -> T:
            if name in self._entries:
                raise ValueError(f"The {self.noun} '{name}' is registered twice.")
            self._entries[name] = entry
            return entry

        return store

    def __getitem__(self, name: str) -> T:
        if name not in self._entries:
            close = difflib.get_close_matches(name, self._entries, n=1)
            hint = f" Did you mean '{close[0]}'?" if close else ""
            raise InputError(f"Unknown {self.noun} '{name}'.{hint} Choose from: {', '.join(sorted(self._entries))}.")
        return self._entries[name]

    def create(self, name: str, *args: Any, **kwargs: Any) -> Any:
        """Call the entry `name` with the given arguments; raises InputError for an option that it does not take."""
        entry, options = self[name], self.options(name)[len(args) :]
        unknown = next((option for option in kwargs if option not in options), None)
        if unknown is not None:
            raise InputError(
                f"Unknown option '{unknown}' of {self.noun} '{name}'. Choose from: {', '.join(options) or '(none)'}."
            )
        return entry(*args, **kwargs)

    def options(self, name: str) -> tuple[str, ...]:
        """Names of the arguments that the entry `name` takes, in their order."""
        return tuple(inspect.signature(self[name]).parameters)

    def names(self) -> tuple[str, ...]:
        """All names, sorted."""
        return tuple(sorted(self._entries))

    def checked(self, name: str) -> str:
        """Return `name` if it is registered, for pydantic validators; raises InputError otherwise."""
        self[name]
        return name

    def __contains__(self, name: object) -> bool:
        return name in self._entries

    def __iter__(self) -> Iterator[str]:
        return iter(self.names())
