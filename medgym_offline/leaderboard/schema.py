"""The entry's JSON Schema and a small validator for the keywords it uses.

The schema is published as `leaderboard/schema.json` (draft 2020-12), for any validator in any language. The one here
covers that schema's keywords only, so that `submit` needs no further dependency; the tests hold it against the
`jsonschema` package.
"""

from __future__ import annotations

import functools
import json
import math
import re
from collections.abc import Iterator, Mapping
from typing import Any

from medgym_offline.errors import SubmissionError
from medgym_offline.files import release_folder

__all__ = ["entry_schema", "require_valid", "violations"]

_TYPES: dict[str, Any] = {
    "object": lambda v: isinstance(v, Mapping),
    "array": lambda v: isinstance(v, list),
    "string": lambda v: isinstance(v, str),
    "boolean": lambda v: isinstance(v, bool),
    "null": lambda v: v is None,
    "number": lambda v: isinstance(v, int | float) and not isinstance(v, bool) and math.isfinite(v),
    "integer": lambda v: isinstance(v, int) and not isinstance(v, bool),
}


@functools.cache
def entry_schema() -> dict[str, Any]:
    """The JSON Schema of a leaderboard entry (`leaderboard/schema.json`)."""
    schema: dict[str, Any] = json.loads((release_folder("leaderboard") / "schema.json").read_text("utf-8"))
    return schema


def violations(
    value: Any, schema: Mapping[str, Any], root: Mapping[str, Any] | None = None, at: str = ""
) -> Iterator[str]:
    """Yield one line per way in which `value` breaks `schema`; each names the field.

    Keywords: type, enum, const, required, properties, additionalProperties, minProperties, items, minItems, maxItems,
    minimum, minLength, maxLength, pattern, oneOf, $ref into $defs.
    """
    root = schema if root is None else root
    if "$ref" in schema:
        yield from violations(value, root["$defs"][schema["$ref"].removeprefix("#/$defs/")], root, at)
        return
    where = at or "the entry"
    if "oneOf" in schema:
        options = [list(violations(value, option, root, at)) for option in schema["oneOf"]]
        if sum(not problems for problems in options) != 1:
            yield min((p for p in options if p), key=len, default=[f"{where}: fits more than one form"])[0]
        return
    kinds = schema.get("type")
    if kinds is not None:
        kinds = [kinds] if isinstance(kinds, str) else kinds
        if not any(_TYPES[kind](value) for kind in kinds):
            yield f"{where}: must be {' or '.join(kinds)}, not {json.dumps(value)[:60]}"
            return
    if "const" in schema and value != schema["const"]:
        yield f"{where}: must be {schema['const']!r}, not {value!r}"
    if "enum" in schema and value not in schema["enum"]:
        yield f"{where}: must be one of {', '.join(map(str, schema['enum']))}, not {value!r}"
    if isinstance(value, str):
        yield from _string(value, schema, where)
    elif isinstance(value, int | float) and not isinstance(value, bool):
        if value < schema.get("minimum", -math.inf):
            yield f"{where}: must be at least {schema['minimum']}, not {value}"
    elif isinstance(value, list):
        low, high = schema.get("minItems", 0), schema.get("maxItems", math.inf)
        if not low <= len(value) <= high:
            yield f"{where}: has {len(value)} items, outside {low}..{high}"
        for index, item in enumerate(value):
            yield from violations(item, schema.get("items", {}), root, f"{at}[{index}]")
    elif isinstance(value, Mapping):
        yield from _object(value, schema, root, at, where)


def _string(value: str, schema: Mapping[str, Any], where: str) -> Iterator[str]:
    if not schema.get("minLength", 0) <= len(value) <= schema.get("maxLength", math.inf):
        yield f"{where}: must have {schema.get('minLength', 0)} to {schema.get('maxLength', 'any')} characters"
    if "pattern" in schema and not re.search(schema["pattern"], value):
        yield f"{where}: {value[:60]!r} does not match {schema['pattern']}"


def _object(
    value: Mapping[str, Any], schema: Mapping[str, Any], root: Mapping[str, Any], at: str, where: str
) -> Iterator[str]:
    path = f"{at}." if at else ""
    for name in schema.get("required", ()):
        if name not in value:
            yield f"{path}{name}: missing"
    if len(value) < schema.get("minProperties", 0):
        yield f"{where}: needs at least {schema['minProperties']} field(s)"
    properties = schema.get("properties", {})
    extra = schema.get("additionalProperties", True)
    for name, item in value.items():
        if name in properties:
            yield from violations(item, properties[name], root, f"{path}{name}")
        elif extra is False:
            yield f"{path}{name}: is not a field of the schema"
        elif isinstance(extra, Mapping):
            yield from violations(item, extra, root, f"{path}{name}")


def require_valid(entry: Any, source: str) -> dict[str, Any]:
    """Return `entry` if it fits the schema.

    Raises:
        SubmissionError: naming `source` and every field that does not fit.
    """
    problems = list(violations(entry, entry_schema()))
    if problems:
        shown = "; ".join(problems[:5]) + (f"; and {len(problems) - 5} more" if len(problems) > 5 else "")
        raise SubmissionError(f"{source} is no leaderboard entry: {shown}")
    return dict(entry)
