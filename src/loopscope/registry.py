"""Named parts, looked up by name with a suggestion when the name is wrong."""

from __future__ import annotations

import difflib
from collections.abc import Callable, Iterable, Iterator
from typing import Generic, TypeVar

from loopscope.errors import UserError

T = TypeVar("T")


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """One sentence for an unknown name: the nearest known one, else the whole list."""
    known = sorted(known)
    near = difflib.get_close_matches(name, known, n=1, cutoff=0.6)
    return f"Did you mean {near[0]}?" if near else f"Known: {', '.join(known) or 'none'}."


class Registry(Generic[T]):
    """A dictionary of parts of one kind; `kind` is the word used in messages."""

    def __init__(self, kind: str) -> None:
        self.kind = kind
        self._parts: dict[str, T] = {}

    def register(self, name: str) -> Callable[[T], T]:
        """Decorator that adds a part under `name`."""

        def add(part: T) -> T:
            assert name not in self._parts, f"{self.kind} {name!r} is registered twice"
            self._parts[name] = part
            return part

        return add

    def __getitem__(self, name: str) -> T:
        if name not in self._parts:
            raise UserError(f"{name}: unknown {self.kind}. {did_you_mean(name, self._parts)}")
        return self._parts[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._parts)

    def __contains__(self, name: object) -> bool:
        return name in self._parts
