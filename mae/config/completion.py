"""What a shell may complete behind `--set` and `--axis`: keys, and the values of those that have a few."""

from typing import Any, get_args

from mae.config.resolve import NULLABLE, UNSET, config_fields


def settings_beginning(text: str) -> list[str]:
    """Return the settings that a person who has typed `text` may mean, as `key=` or, behind a whole key, `key=value`."""
    key, separator, _ = text.partition("=")
    fields = dict(config_fields())
    if not separator:
        return [f"{name}=" for name in fields if name.startswith(text)]
    if key not in fields:
        return []
    values = [*_choices(fields[key].annotation), *([UNSET] if key in NULLABLE else [])]
    return [setting for setting in (f"{key}={value}" for value in values) if setting.startswith(text)]


def _choices(annotation: Any) -> list[str]:
    """Return the words, or true and false, that a type is made of."""
    if annotation is bool:
        return ["true", "false"]
    parts = get_args(annotation)
    if parts and all(isinstance(part, str | int) for part in parts):
        return [str(part) for part in parts]
    return [choice for part in parts for choice in _choices(part)]
