"""What values a setting may have, in words: `number, above 0, below 1`."""

from typing import Annotated, Any

from pydantic import ConfigDict, TypeAdapter
from pydantic.fields import FieldInfo

_BOUNDS = {
    "minimum": "at least",
    "exclusiveMinimum": "above",
    "maximum": "at most",
    "exclusiveMaximum": "below",
    "multipleOf": "a multiple of",
}
_TYPES = {"integer": "whole number", "number": "number", "boolean": "true or false", "string": "text", "null": "unset"}


def type_of(field: FieldInfo) -> TypeAdapter[Any]:
    """Return what a setting's values are checked by."""
    bounded: Any = Annotated[field.annotation, field]
    return TypeAdapter(bounded, config=ConfigDict(strict=True))


def in_words(field: FieldInfo) -> str:
    """Return the values that a setting may have."""
    return _say(type_of(field).json_schema())


def _say(node: dict[str, Any]) -> str:
    """Put a JSON-schema node into words: `number, above 0, below 1`."""
    if "anyOf" in node:
        return " or ".join(_say(option) for option in node["anyOf"])
    if "enum" in node:
        return "one of " + ", ".join(str(value) for value in node["enum"])
    if node.get("type") == "array":
        fixed = node.get("prefixItems")
        some = "one or more" if node.get("minItems") else "any number"
        return f"list of {len(fixed)}: {_say(fixed[0])}" if fixed else f"list of {some}: {_say(node['items'])}"
    limits = [f"{words} {node[name]:.12g}" for name, words in _BOUNDS.items() if name in node]
    return ", ".join([_TYPES[node["type"]], *limits])
