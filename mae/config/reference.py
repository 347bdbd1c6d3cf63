"""The config tree as a list for people: every key with its type, range, default and meaning."""

from typing import Annotated, Any

from pydantic import ConfigDict, TypeAdapter, ValidationError

from mae.config.resolve import ACTS_WHEN, config_fields, flatten, told
from mae.config.tree import Config
from mae.errors import UserError

_BOUNDS = {
    "minimum": "at least",
    "exclusiveMinimum": "above",
    "maximum": "at most",
    "exclusiveMaximum": "below",
    "multipleOf": "a multiple of",
}
_TYPES = {"integer": "whole number", "number": "number", "boolean": "true or false", "string": "text", "null": "unset"}


def stored_value(key: str, value: Any) -> Any:
    """Return a value of a setting as a run's settings have it; `UserError` for one that the setting cannot have."""
    field = dict(config_fields())[key]
    allowed: TypeAdapter[Any] = TypeAdapter(Annotated[field.annotation, field], config=ConfigDict(strict=True))
    try:
        return allowed.dump_python(allowed.validate_python(value), mode="json")
    except ValidationError:
        raise UserError(f"{key}={value}: expected {_say(allowed.json_schema())}") from None


def schema() -> list[dict[str, Any]]:
    """Return one row per setting, in order: key, type (with its range), default, description."""
    defaults = flatten(Config().model_dump(mode="json"))
    rows = []
    for key, field in config_fields():
        bounded: Any = Annotated[field.annotation, field]
        node = TypeAdapter(bounded).json_schema()
        meaning = field.description or ""
        if key in ACTS_WHEN:
            meaning += f"; acts with {told(ACTS_WHEN[key])}"
        rows.append({"key": key, "type": _say(node), "default": defaults[key], "description": meaning})
    return rows


def _say(node: dict[str, Any]) -> str:
    """Put a JSON-schema node into words: `number, above 0, below 1`."""
    if "anyOf" in node:
        return " or ".join(_say(option) for option in node["anyOf"])
    if "enum" in node:
        return "one of " + ", ".join(str(value) for value in node["enum"])
    if node.get("type") == "array":
        fixed = node.get("prefixItems")
        return f"{len(fixed)} of: {_say(fixed[0])}" if fixed else f"list of: {_say(node['items'])}"
    limits = [f"{words} {node[name]:g}" for name, words in _BOUNDS.items() if name in node]
    return ", ".join([_TYPES[node["type"]], *limits])
