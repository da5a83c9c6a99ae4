"""Settings, recipes and manifests: one way from a file, or from keyword arguments, to an object that is right.

A configuration is a frozen dataclass whose annotations say what is allowed::

    @configuration("recipe", DatasetError)
    class Recipe:
        id: str
        timing: Literal["adaptive", "fixed"] = "adaptive"
        episodes: Annotated[int, Field(ge=1)] = 100

Types are strict: text is no number, and a truth value no whole number; no number may be infinite or NaN. Whatever is
wrong is one line of the given error, which names the file, the field, the value, and for a mistyped name the nearest.
"""

from __future__ import annotations

import dataclasses
import functools
import json
import re
import typing
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, TypeVar

import pydantic
import pydantic.dataclasses
from pydantic import Field
from typing_extensions import dataclass_transform

from medgym_offline.errors import MedGymError, UnknownNameError, shown, unknown_name
from medgym_offline.files import read_toml

__all__ = [
    "CONFIG", "Count", "NonNegative", "Positive", "Share", "check", "configuration", "from_text", "from_values", "read",
    "read_json", "to_values",
]  # fmt: skip

CONFIG = pydantic.ConfigDict(strict=True, extra="forbid", allow_inf_nan=False)
"""What every configuration has in common."""

Count = Annotated[int, Field(ge=1)]
Positive = Annotated[float, Field(gt=0)]
NonNegative = Annotated[float, Field(ge=0)]
Share = Annotated[float, Field(gt=0, le=1)]

T = TypeVar("T")


@dataclass_transform(frozen_default=True, field_specifiers=(dataclasses.field,))
def configuration(kind: str, error: type[MedGymError] = MedGymError) -> Callable[[type[T]], type[T]]:
    """Decorator: a frozen dataclass (for `dataclasses.replace`, `asdict` too) that is checked when it is made.

    Args:
        kind: What it is, in words: the beginning of the line of an error.
        error: Raised for a value that does not fit; where it is the plain `MedGymError`, a mistyped name is an
            `UnknownNameError`.
    """

    def decorate(cls: type[T]) -> type[T]:
        made: Any = pydantic.dataclasses.dataclass(frozen=True, config=CONFIG)(cls)
        plain = made.__init__

        @functools.wraps(plain)
        def checked(self: Any, *args: Any, **kwargs: Any) -> None:
            try:
                plain(self, *args, **kwargs)
            except pydantic.ValidationError as problem:
                raise _line(problem, made, kind, error) from None

        made.__init__, made.__config_error__ = checked, error
        return made

    return decorate


def check(form: Any, values: Any, where: str, error: type[MedGymError] = MedGymError, remedy: str = "") -> Any:
    """JSON values as `form` (a configuration, or any type that pydantic knows); lists become tuples if it wants them.

    Args:
        form: Type.
        values: From anywhere.
        where: File or kind, for the error.
        error: Raised for the first thing that is wrong, in one line.
        remedy: What to do, appended to it.
    """
    # What JSON has no word for (a date of TOML) becomes an object, which fits nowhere and is shown.
    text = json.dumps(values, default=lambda v: dict(v) if isinstance(v, Mapping) else {type(v).__name__: str(v)})
    try:
        return _adapter(form).validate_json(text)
    except pydantic.ValidationError as problem:
        raise _line(problem, form, where, error, remedy) from None


def from_values(cls: type[T], values: Any, where: str) -> T:
    """A configuration from JSON values (lists become tuples, objects configurations); errors as of the class."""
    return check(cls, values, where, getattr(cls, "__config_error__", MedGymError))


def read(cls: type[T], path: str | Path) -> T:
    """A configuration from a `.toml` or `.json` file; the error names the file, and the field if it can be read."""
    read_file = read_json if str(path).endswith(".json") else read_toml
    return from_values(cls, read_file(path, getattr(cls, "__config_error__", MedGymError)), str(path))


def read_json(path: str | Path, error: type[MedGymError] = MedGymError, remedy: str = "", where: str = "") -> Any:
    """JSON values of a file; one that is missing or no JSON is an `error` that names it (or `where`)."""
    where, end = where or str(path), f"; {remedy}" if remedy else ""
    try:
        return json.loads(Path(path).read_text(encoding="utf-8"))
    except OSError as problem:
        reason = "there is no such file" if isinstance(problem, FileNotFoundError) else str(problem.strerror)
        raise error(f"{where}: {reason}{end}") from None
    except (ValueError, RecursionError) as problem:
        raise error(f"{where}: not readable as JSON ({problem}){end}") from None


def to_values(config: Any) -> dict[str, Any]:
    """The fields as JSON values (tuples become lists): the inverse of :func:`from_values`."""
    return json.loads(json.dumps(plain_values(config)))


def plain_values(config: Any) -> dict[str, Any]:
    """The fields as plain values. A `view` that is "full" is left out: hashes and files without it mean the same."""
    return dataclasses.asdict(config, dict_factory=lambda items: {k: v for k, v in items if (k, v) != ("view", "full")})


def from_text(
    forms: Mapping[str, Any], assignments: Sequence[str], kind: str, also: Iterable[str] = ()
) -> dict[str, Any]:
    """Settings given as text, "name=value"; lists as "4,4,4", no value as "none".

    Args:
        forms: Name -> type of each setting.
        assignments: The texts.
        kind: What is set, for the error ("offline setting").
        also: Further names to suggest for a mistyped one.

    Raises:
        UnknownNameError: There is no such setting; with the nearest names.
        MedGymError: The text is no assignment, or the value not of the setting's type.
    """
    found = {}
    for text in assignments:
        name, sign, value = (part.strip() for part in text.partition("="))
        name = name.replace("-", "_")
        if not sign:
            raise MedGymError(f"setting {text!r} is not of the form name=value, for example gamma=0.95")
        if name not in forms:
            raise unknown_name(kind, name, [*forms, *also])
        several = typing.get_origin(_bare(forms[name])) is tuple
        given: Any = value.split(",") if several else None if value == "none" else value
        try:
            found[name] = _adapter(forms[name]).validate_python(given, strict=False)
        except pydantic.ValidationError as problem:
            raise MedGymError(f"{kind} {name} is {value!r}{_wanted(problem.errors()[0])}") from None
    return found


@functools.cache
def _adapter(form: Any) -> pydantic.TypeAdapter[Any]:
    return pydantic.TypeAdapter(form)


def _bare(form: Any) -> Any:
    """A type without its `Annotated`."""
    return typing.get_args(form)[0] if typing.get_origin(form) is typing.Annotated else form


def _line(
    problem: pydantic.ValidationError, form: Any, where: str, error: type[MedGymError], remedy: str = ""
) -> MedGymError:
    """The first thing that is wrong, as an error of one line."""
    first = problem.errors(include_url=False)[0]
    if first["loc"] and isinstance(first["loc"][0], int) and dataclasses.is_dataclass(form):  # an argument by position
        first["loc"] = (dataclasses.fields(form)[first["loc"][0]].name, *first["loc"][1:])
    name, end = ".".join(str(part) for part in first["loc"]), f"; {remedy}" if remedy else ""
    cause = (first.get("ctx") or {}).get("error")
    if isinstance(cause, MedGymError):
        return type(cause)(f"{where}: {cause}{end}")
    unknown = UnknownNameError if error is MedGymError else error
    if first["type"] in ("unexpected_keyword_argument", "extra_forbidden"):
        above, _, last = name.rpartition(".")
        kind = f"field of {above}" if above else "field"
        return unknown(f"{where}: {unknown_name(kind, last, _names(form, first['loc'][:-1]))}{end}")
    if first["type"] == "missing":
        return error(f"{where}: {name!r} is missing{end}")
    if first["type"] == "literal_error" and isinstance(first["input"], str):
        known = re.findall(r"'([^']*)'", first["ctx"]["expected"])
        return unknown(f"{where}: {unknown_name(name, first['input'], known)}{end}")
    value = shown(first["input"])
    return error(f"{where}: {f'{name!r} is' if name else 'it is'} {value}{_wanted(first)}{end}")


def _wanted(first: Any) -> str:
    """What should have been there, in words that go on from "x is y"."""
    if cause := (first.get("ctx") or {}).get("error"):
        return f": {cause}"
    if first["type"].endswith(("_type", "_parsing", "_size", "_from_float", "_number")):
        word = _WORDS.get(first["type"].partition("_")[0])
        if word is not None:
            return f", expected {word}"
    return "; " + re.sub(r"^\w+ should", "it should", str(first["msg"]).replace("\n", " "))


_WORDS = {"int": "a whole number", "float": "a number", "finite": "a finite number", "bool": "true or false"}
_WORDS |= {"string": "text", "tuple": "a list", "list": "a list", "dict": "an object", "dataclass": "an object"}


def _names(form: Any, place: Sequence[Any]) -> list[str]:
    """Names of the fields of the form at a place within a form."""
    for part in place:
        hints = typing.get_type_hints(_bare(form)) if hasattr(_bare(form), "__annotations__") else {}
        form = hints.get(part, form)
    return [*typing.get_type_hints(_bare(form))] if hasattr(_bare(form), "__annotations__") else []
