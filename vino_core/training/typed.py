"""Plain values (as YAML and `--set` give them) into typed dataclasses: unknown names and wrong types are errors."""

from __future__ import annotations

import math
import types
from collections.abc import Iterable, Mapping
from dataclasses import MISSING, fields, is_dataclass
from difflib import get_close_matches
from typing import Any, Literal, TypeVar, Union, get_args, get_origin, get_type_hints

from ..errors import InputError
from .yaml_file import read_yaml

T = TypeVar("T")


class WrongSetting(InputError):
    """A setting that cannot be used. `setting` is its name behind those of its groups, with dots."""

    def __init__(self, setting: str, message: str) -> None:
        super().__init__(message)
        self.setting = setting


def build(cls: type[T], values: Any, where: str = "") -> T:
    """An instance of the dataclass `cls` from a mapping, the group of settings called `where`.

    A field whose metadata have `names` takes entries of these names only. Raises WrongSetting, which says what the
    setting takes.
    """
    if not isinstance(values, Mapping):
        raise WrongSetting(where, f"{_at(where)}must be a group of settings, not {values!r}.")
    hints = get_type_hints(cls)
    _check_names(values, hints, where)
    for field in fields(cls):  # type: ignore[arg-type]
        if field.default is MISSING and field.default_factory is MISSING and field.name not in values:
            raise WrongSetting(_inside(where, field.name), f"{_at(where)}'{field.name}' is missing.")
        entries = values.get(field.name)
        if "names" in field.metadata and isinstance(entries, Mapping):
            # Before the entries themselves: one of an unknown name would be told for what it lacks.
            _check_names(entries, field.metadata["names"], _inside(where, field.name))
    return cls(**{name: convert(hints[name], value, _inside(where, name)) for name, value in values.items()})


def _inside(where: str, name: object) -> str:
    return f"{where}.{name}" if where else str(name)


def _at(where: str) -> str:
    return f"{where}: " if where else ""


def _check_names(values: Mapping[Any, Any], known: Iterable[str], where: str) -> None:
    known = tuple(known)
    for name in values:
        if name not in known:
            close = get_close_matches(str(name), known, n=1)
            advice = f"Did you mean '{close[0]}'? " if close else ""
            message = f"{_at(where)}'{name}' is unknown. {advice}Known: {', '.join(known)}."
            raise WrongSetting(_inside(where, name), message)


def convert(wanted: Any, value: Any, where: str) -> Any:
    """`value` as the type `wanted`. Raises WrongSetting when it is of another type."""
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
            raise WrongSetting(where, f"{where} is {value!r}; it must be one of {', '.join(map(str, arguments))}.")
        return value
    if origin is dict:
        if not isinstance(value, Mapping):
            raise WrongSetting(where, f"{where} is {value!r}; it must be a group of named entries.")
        return {str(name): convert(arguments[1], entry, f"{where}.{name}") for name, entry in value.items()}
    if origin is tuple:
        if not isinstance(value, (list, tuple)):
            raise WrongSetting(where, f"{where} is {value!r}; it must be a list.")
        if len(arguments) == 2 and arguments[1] is Ellipsis:
            return tuple(convert(arguments[0], entry, f"{where}[{n}]") for n, entry in enumerate(value))
        if len(value) != len(arguments):
            raise WrongSetting(where, f"{where} is {list(value)}; it must be a list of {len(arguments)} values.")
        return tuple(convert(kind, entry, where) for kind, entry in zip(arguments, value, strict=True))
    if wanted is float and isinstance(value, (int, float, str)) and not isinstance(value, bool):
        try:
            number = float(value)  # YAML reads 1e-4 as text
        except (ValueError, OverflowError):
            pass
        else:
            if math.isfinite(number):
                return number
            raise WrongSetting(where, f"{where} is {value!r}; it must be a finite number.")
    elif wanted in (int, str, bool) and type(value) is wanted:
        return value
    raise WrongSetting(where, f"{where} is {value!r}; it must be of type {getattr(wanted, '__name__', wanted)}.")


def apply_change(change: str, values: dict[str, Any]) -> list[str]:
    """Put what `--set change` says into `values`; returns the names of the setting and of the groups that began with
    it. Raises InputError when it cannot be read, or names what is no group."""
    name, equals, text = change.partition("=")
    if not equals:
        raise InputError(f"--set {change}: write it as name=value, for example optimizer.learning_rate=1e-4.")
    *groups, last = name.split(".")
    target, new = values, [name]
    for depth, group in enumerate(groups, start=1):
        if target.get(group) is None:
            target[group] = {}
            new.append(".".join(groups[:depth]))
        target = target[group]
        if not isinstance(target, dict):
            raise InputError(f"--set {change}: '{group}' is not a group of settings.")
    try:
        target[last] = read_yaml(text)
    except ValueError as error:
        reason = " ".join(str(error).split())
        raise InputError(
            f"--set {change}: the value is not readable as YAML ({reason}). Close its brackets, or quote it."
        ) from error
    return new
