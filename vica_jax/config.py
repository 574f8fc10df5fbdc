"""Strict building of frozen dataclasses from dicts, and back to plain JSON values.

Two worlds of configuration meet here: ``ml_collections.ConfigDict`` (or parsed JSON)
at the entry points, frozen keyword-only dataclasses inside. Nothing is guessed: an
unknown key, a missing one or a value of another type is an error that names its place.
"""

import dataclasses
import difflib
import types
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal, TypeVar, Union, get_args, get_origin, get_type_hints

from vica_jax.models.config import ConfigError

T = TypeVar("T")


def build(
    cls: type[T], values: Any, *, where: str = "config", complete: bool = False
) -> T:
    """An instance of the dataclass ``cls`` from a mapping or a ConfigDict.

    Nested dataclasses, tuples, lists, dicts, ``Literal`` and unions are followed
    through their annotations; an int stands for a float, a list for a tuple, a string
    for a ``Path``, and nothing else for anything else. ``complete`` asks for every
    field, those with a default too (for files that a program wrote).

    Raises:
      ConfigError: one line that says which field, what it got and what it takes; the
        dataclass's own complaints are passed on with the place in front.
    """
    if isinstance(values, cls):
        return values
    if hasattr(values, "to_dict"):  # a ConfigDict: resolves references, nested ones too
        values = values.to_dict()
    if not isinstance(values, Mapping):
        raise _wrong(where, f"a mapping of {cls.__name__}'s fields", values)
    fields = {f.name: f for f in dataclasses.fields(_dataclass(cls)) if f.init}
    for key in values:
        if key not in fields:
            raise ConfigError(
                f"{where}: {cls.__name__} has no field {key!r}{_hint(key, [*fields])}"
            )
    for name, field in fields.items():
        if name not in values and (complete or _required(field)):
            raise ConfigError(f"{where}: field {name!r} of {cls.__name__} is missing")
    hints = get_type_hints(cls)
    built = {
        key: _value(hints[key], value, f"{where}.{key}", complete)
        for key, value in values.items()
    }
    try:
        return cls(**built)
    except ValueError as error:  # __post_init__: ConfigError, LayoutError
        raise ConfigError(f"{where}: {error}") from None


def plain(config: Any) -> Any:
    """A dataclass instance as JSON values: dicts, lists, strings, numbers, None."""
    if dataclasses.is_dataclass(config) and not isinstance(config, type):
        names = [field.name for field in dataclasses.fields(config)]
        return {name: plain(getattr(config, name)) for name in names}
    if isinstance(config, Mapping):
        return {key: plain(value) for key, value in config.items()}
    if isinstance(config, tuple | list):
        return [plain(value) for value in config]
    return str(config) if isinstance(config, Path) else config


def _value(hint: Any, value: Any, where: str, complete: bool) -> Any:
    origin, args = get_origin(hint), get_args(hint)
    if hint is Any:
        return value
    if origin in (Union, types.UnionType):
        return _union(hint, args, value, where, complete)
    if origin is Literal:
        if value not in args:
            choices = " or ".join(map(repr, args))
            raise ConfigError(f"{where}: takes {choices}, got {value!r}")
        return value
    if dataclasses.is_dataclass(hint):
        return build(hint, value, where=where, complete=complete)  # pyright: ignore
    if (origin or hint) in (tuple, list):
        return _sequence(origin or hint, args, value, where, complete)
    if isinstance(origin or hint, type) and issubclass(origin or hint, Mapping):
        if not isinstance(value, Mapping):
            raise _wrong(where, "a mapping", value)
        inner = args[1] if args else Any
        return {k: _value(inner, v, f"{where}.{k}", complete) for k, v in value.items()}
    return _scalar(hint, value, where)


def _union(hint: Any, arms: Any, value: Any, where: str, complete: bool) -> Any:
    if value is None and type(None) in arms:
        return None
    arms = [arm for arm in arms if arm is not type(None)]
    if len(arms) == 1:
        return _value(arms[0], value, where, complete)
    for arm in arms:
        try:
            return _value(arm, value, where, complete)
        except ConfigError:
            continue
    raise _wrong(where, str(hint), value)


def _sequence(kind: Any, args: Any, value: Any, where: str, complete: bool) -> Any:
    if not isinstance(value, tuple | list):
        raise _wrong(where, f"a {kind.__name__}", value)
    if kind is list or not args or args[-1] is Ellipsis:
        hints = [args[0] if args else Any] * len(value)
    elif len(args) != len(value):
        raise ConfigError(f"{where}: takes {len(args)} values, got {len(value)}")
    else:
        hints = args
    return kind(
        _value(hint, item, f"{where}[{i}]", complete)
        for i, (hint, item) in enumerate(zip(hints, value, strict=True))
    )


def _scalar(hint: Any, value: Any, where: str) -> Any:
    if hint is float and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    if hint is Path and isinstance(value, str):
        return Path(value)
    right = isinstance(value, hint) if isinstance(hint, type) else False
    if not right or (isinstance(value, bool) and hint is not bool):
        raise _wrong(where, getattr(hint, "__name__", str(hint)), value)
    return value


def _wrong(where: str, takes: str, value: Any) -> ConfigError:
    got = f"{type(value).__name__} {value!r}" if value is not None else "None"
    return ConfigError(f"{where}: takes {takes}, got {got[:80]}")


def _dataclass(cls: Any) -> Any:
    if not dataclasses.is_dataclass(cls):
        raise TypeError(f"{cls} is not a dataclass")
    return cls


def _required(field: dataclasses.Field) -> bool:
    missing = dataclasses.MISSING
    return field.default is missing and field.default_factory is missing


def _hint(key: Any, names: list[str]) -> str:
    close = difflib.get_close_matches(str(key), names, n=1, cutoff=0.5)
    if close:
        return f": did you mean {close[0]!r}?"
    return f"; it has {', '.join(names)}"
