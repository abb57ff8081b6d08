"""Plain values (as YAML gives them) into typed dataclasses: unknown names and wrong types are errors."""

from __future__ import annotations

import math
import types
from collections.abc import Mapping
from dataclasses import MISSING, fields, is_dataclass
from difflib import get_close_matches
from typing import Any, Literal, TypeVar, Union, get_args, get_origin, get_type_hints

from ..errors import InputError

T = TypeVar("T")


def build(cls: type[T], values: Any, where: str = "config") -> T:
    """An instance of the dataclass `cls` from a mapping. Raises InputError that names the setting and what it takes."""
    if not isinstance(values, Mapping):
        raise InputError(f"{where}: must be a group of settings, not {values!r}.")
    hints = get_type_hints(cls)
    for name in values:
        if name not in hints:
            close = get_close_matches(str(name), hints, n=1)
            advice = f"Did you mean '{close[0]}'? " if close else ""
            raise InputError(f"{where}: '{name}' is unknown. {advice}Known: {', '.join(hints)}.")
    for field in fields(cls):  # type: ignore[arg-type]
        if field.default is MISSING and field.default_factory is MISSING and field.name not in values:
            raise InputError(f"{where}: '{field.name}' is missing.")
    return cls(**{name: convert(hints[name], value, f"{where}.{name}") for name, value in values.items()})


def convert(wanted: Any, value: Any, where: str) -> Any:
    """`value` as the type `wanted`. Raises InputError when it is of another type."""
    origin, arguments = get_origin(wanted), get_args(wanted)
    if origin in (Union, types.UnionType):
        if value is None and type(None) in arguments:
            return None
        kinds = [kind for kind in arguments if kind is not type(None)]
        for kind in kinds[:-1]:
            if type(value) is kind:
                return value
        return convert(kinds[-1], value, where)
    if is_dataclass(wanted):
        return build(wanted, value, where)  # type: ignore[arg-type]
    if origin is Literal:
        if value not in arguments:
            raise InputError(f"{where} is {value!r}; it must be one of {', '.join(map(str, arguments))}.")
        return value
    if origin is dict:
        if not isinstance(value, Mapping):
            raise InputError(f"{where} is {value!r}; it must be a group of named entries.")
        return {str(name): convert(arguments[1], entry, f"{where}.{name}") for name, entry in value.items()}
    if origin is tuple:
        if not isinstance(value, (list, tuple)):
            raise InputError(f"{where} is {value!r}; it must be a list.")
        if len(arguments) == 2 and arguments[1] is Ellipsis:
            return tuple(convert(arguments[0], entry, f"{where}[{n}]") for n, entry in enumerate(value))
        if len(value) != len(arguments):
            raise InputError(f"{where} is {list(value)}; it must be a list of {len(arguments)} values.")
        return tuple(convert(kind, entry, where) for kind, entry in zip(arguments, value, strict=True))
    if wanted is float and isinstance(value, (int, float, str)) and not isinstance(value, bool):
        try:
            number = float(value)  # YAML reads 1e-4 as text
        except (ValueError, OverflowError):
            pass
        else:
            if math.isfinite(number):
                return number
            raise InputError(f"{where} is {value!r}; it must be a finite number.")
    elif wanted in (int, str, bool) and type(value) is wanted:
        return value
    raise InputError(f"{where} is {value!r}; it must be of type {getattr(wanted, '__name__', wanted)}.")
