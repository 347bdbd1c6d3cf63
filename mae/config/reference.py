"""The config tree as a list for people: every key with its type, range, default and meaning."""

from typing import Any

from mae.config.resolve import ACTS_WHEN, config_fields, flatten, told
from mae.config.tree import Config

_BOUNDS = {
    "minimum": "at least",
    "exclusiveMinimum": "above",
    "maximum": "at most",
    "exclusiveMaximum": "below",
    "multipleOf": "a multiple of",
}
_TYPES = {"integer": "whole number", "number": "number", "boolean": "true or false", "string": "text", "null": "unset"}


def schema() -> list[dict[str, Any]]:
    """Return one row per setting, in order: key, type (with its range), default, description."""
    tree, defaults = Config.model_json_schema(), flatten(Config().model_dump(mode="json"))
    rows = []
    for key, field in config_fields():
        node = tree
        for name in key.split("."):
            node = _resolve(node, tree)["properties"][name]
        meaning = field.description or ""
        if key in ACTS_WHEN:
            meaning += f"; acts with {told(ACTS_WHEN[key])}"
        rows.append({"key": key, "type": _say(node), "default": defaults[key], "description": meaning})
    return rows


def _resolve(node: dict[str, Any], tree: dict[str, Any]) -> dict[str, Any]:
    reference = node.get("$ref")
    return dict(tree["$defs"][reference.rsplit("/", 1)[1]]) if reference else node


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
