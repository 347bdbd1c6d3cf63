"""The config tree as a list for people: every key with its type, range, default and meaning."""

from typing import Any

from pydantic import ValidationError

from mae.config.resolve import ACTS_WHEN, config_fields, flatten, told
from mae.config.tree import Config
from mae.config.types_in_words import in_words, type_of
from mae.errors import UserError


def stored_value(key: str, value: Any) -> Any:
    """Return a value of a setting as a run's settings have it; `UserError` for one that the setting cannot have."""
    field = dict(config_fields())[key]
    try:
        return type_of(field).dump_python(type_of(field).validate_python(value), mode="json")
    except ValidationError:
        raise UserError(f"{key}={value}: expected {in_words(field)}") from None


def schema() -> list[dict[str, Any]]:
    """Return one row per setting, in order: key, type (with its range), default, description."""
    defaults = flatten(Config().model_dump(mode="json"))
    rows = []
    for key, field in config_fields():
        meaning = field.description or ""
        if key in ACTS_WHEN:
            meaning += f"; acts with {told(ACTS_WHEN[key])}"
        rows.append({"key": key, "type": in_words(field), "default": defaults[key], "description": meaning})
    return rows
