"""From plain values to settings; a mistake becomes one line that names the key and suggests the nearest."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, TypeVar, get_args

from pydantic import BaseModel, ValidationError

from loopscope.config.settings import Settings
from loopscope.errors import UserError
from loopscope.registry import did_you_mean

S = TypeVar("S", bound=Settings)


def validated(kind: type[S], values: Mapping[str, Any], source: str = "") -> S:
    """Build settings from plain values; a mistake becomes one line naming the key.

    Args:
        kind: the class of settings.
        values: keys and values, nested.
        source: the file they came from, put in front of the message.
    Raises:
        UserError: unknown key (with a suggestion), wrong type, or values that contradict each other.
    """
    try:
        return kind.model_validate(values)
    except ValidationError as error:
        prefix = f"{source}: " if source else ""
        raise UserError(prefix + _say(kind, error.errors()[0])) from None


def _say(kind: type[BaseModel], fault: Mapping[str, Any]) -> str:
    """A pydantic complaint as one line: the dotted key, what is wrong, the value."""
    value = fault["input"]
    if fault["type"] == "extra_forbidden":
        return _unknown_key(kind, ".".join(str(part) for part in fault["loc"]), value)
    key = _setting(kind, fault["loc"])
    where = f"{key}: " if key else ""
    message = str(fault["msg"]).removeprefix("Value error, ").replace("Input should be", "expected")
    if fault["type"] == "missing":
        return f"{where}is required. Set it to a value."
    if fault["type"] == "value_error":
        return f"{where}{message}."
    return f"{where}{message}, got {value!r}."


def _setting(kind: type[BaseModel], loc: Sequence[Any]) -> str:
    """The dotted key of an error location, without what pydantic adds for unions and list items."""
    parts = [str(part) for part in loc]
    known = set(_dotted(kind, sections=True))
    while parts and ".".join(parts) not in known:
        parts.pop()
    return ".".join(parts)


def _unknown_key(kind: type[BaseModel], key: str, value: Any) -> str:
    while isinstance(value, dict) and value:  # an unknown section: name the setting that was meant
        name, value = next(iter(value.items()))
        key = f"{key}.{name}"
    known = list(_dotted(kind, sections=True))
    parent, _, leaf = key.rpartition(".")
    if elsewhere := [k for k in known if k.rpartition(".")[2] == leaf]:
        return f"{key}: unknown key. Did you mean {elsewhere[0]}?"
    beside = [k for k in known if k.rpartition(".")[0] == parent] or list(kind.model_fields)
    return f"{key}: unknown key. {did_you_mean(key, beside)}"


def _dotted(kind: type[BaseModel], prefix: str = "", sections: bool = False) -> Iterator[str]:
    """All settings as dotted keys, in order; with `sections` also the groups themselves."""
    for name, field in kind.model_fields.items():
        options = (field.annotation, *get_args(field.annotation))
        inner = next((a for a in options if isinstance(a, type) and issubclass(a, BaseModel)), None)
        if inner is None or sections:
            yield prefix + name
        if inner is not None:
            yield from _dotted(inner, f"{prefix}{name}.", sections)
