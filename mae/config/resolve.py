"""From preset, TOML file and `--set key=value` to one checked `Config`; later sources win."""

import difflib
import tomllib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any, cast, get_args

import tomli_w
from pydantic import BaseModel, ValidationError
from pydantic.fields import FieldInfo

from mae.config.data_section import local_path
from mae.config.presets import DEFAULT, PRESETS, Overrides
from mae.config.tree import Config
from mae.config.types_in_words import in_words
from mae.errors import UserError

UNSET = "unset"
"""How people write that a key has no value; in a config that is None."""


def resolve(
    preset: str | None = None, file: Path | None = None, settings: Sequence[str] = (), refuse_inert: bool = True
) -> Config:
    """Return the config that `preset`, then the TOML `file`, then each `dotted.key=value` of `settings` give.

    Without `preset` they start from `DEFAULT`, or from the tree's own defaults if `data.source` is another than there.
    A setting of the preset that the others leave without effect goes back to its default.
    Raises `UserError` naming the key, the value, the rule and, for an unknown key, the nearest valid one.
    """
    overrides = {} if file is None else flatten(read_toml(file))
    overrides |= map(parse_setting, settings)
    return resolve_values(preset, overrides, refuse_inert)


def resolve_values(preset: str | None, overrides: Overrides, refuse_inert: bool = True) -> Config:
    """Return the config that `preset`, if there is one, and values by dotted key give; as `resolve`."""
    own = PRESETS[DEFAULT].overrides["data.source"]
    if preset is None and overrides.get("data.source", own) != own:
        return build(overrides, refuse_inert)
    return change(build(preset_overrides(DEFAULT if preset is None else preset)), overrides, refuse_inert)


def build(overrides: Overrides, refuse_inert: bool = True) -> Config:
    """Return the defaults with dotted `overrides` applied, or raise `UserError`."""
    fields = dict(config_fields())
    # From the whole default tree: a table given in part keeps the rest of its own defaults, not of its type's.
    tree: dict[str, Any] = Config().model_dump()
    for key, value in overrides.items():
        if key not in fields:
            raise UserError(_unknown_key(key, list(fields)))
        *sections, leaf = key.split(".")
        table = tree
        for section in sections:
            table = table[section]
        if value == UNSET and key not in NULLABLE:
            raise UserError(f"{key}=unset: it cannot be unset; keys that can: {', '.join(sorted(NULLABLE))}")
        table[leaf] = None if value == UNSET else value
    try:
        config = Config.model_validate(tree)
    except ValidationError as error:
        lines = {item["loc"][:2]: _explain(item, tree) for item in reversed(error.errors())}  # one per key, the first
        raise UserError("\n".join(reversed(lines.values()))) from None
    if refuse_inert:
        refuse_without_effect(config, overrides.keys())
    return config


def change(base: Config, overrides: Overrides, refuse_inert: bool = True) -> Config:
    """Return `base` with dotted `overrides`; a setting that can no longer act goes back to its default."""
    kept = differences(base, Config())
    changed = build(kept | overrides, refuse_inert=False)
    dropped = inert_keys(changed) & (kept.keys() - overrides.keys())
    return build({key: value for key, value in (kept | overrides).items() if key not in dropped}, refuse_inert)


def with_values(config: Config, overrides: Overrides) -> Config:
    """Return `config` with dotted `overrides` and all its other settings, those too that do not act in it: a study's
    base has some that act in its cells."""
    return build(differences(config, Config()) | overrides, refuse_inert=False)


def preset_overrides(name: str) -> Overrides:
    """Return the dotted overrides of a preset, or raise `UserError` with the nearest name."""
    if name not in PRESETS:
        raise UserError(f"preset {name!r} is unknown{nearest(name, list(PRESETS))}; presets: {', '.join(PRESETS)}")
    return PRESETS[name].overrides


Conditions = Mapping[str, tuple[Any, ...]]
"""Values of other keys, all of which a key needs in order to act."""


def _walk(
    model: type[BaseModel], prefix: str = "", above: Conditions = MappingProxyType({})
) -> Iterator[tuple[str, FieldInfo, Conditions]]:
    """Yield (dotted key, field, conditions) for every setting in the tree, in order; a section's conditions are added
    to those of its settings."""
    for name, field in model.model_fields.items():
        extra = field.json_schema_extra if isinstance(field.json_schema_extra, dict) else {}
        conditions: Conditions = {**above, **cast(Conditions, extra.get("acts", {}))}
        annotation = field.annotation
        if isinstance(annotation, type) and issubclass(annotation, BaseModel):
            yield from _walk(annotation, f"{prefix}{name}.", conditions)
        else:
            yield prefix + name, field, conditions


def config_fields() -> Iterator[tuple[str, FieldInfo]]:
    """Yield (dotted key, field) for every setting in the tree, in order."""
    return ((key, field) for key, field, _ in _walk(Config))


ACTS_WHEN: dict[str, Conditions] = {key: conditions for key, _, conditions in _walk(Config) if conditions}
"""What the settings need that do not always act, as the tree says at its fields."""

NULLABLE = {key for key, field in config_fields() if type(None) in get_args(field.annotation)}
"""Keys that can be unset."""


def flatten(tree: dict[str, Any], prefix: str = "") -> Overrides:
    """Return nested tables as one mapping of dotted keys."""
    flat: Overrides = {}
    for key, value in tree.items():
        flat |= flatten(value, f"{prefix}{key}.") if isinstance(value, dict) else {prefix + key: value}
    return flat


def to_toml(config: Config) -> str:
    """Return the whole config as TOML; `resolve(file=...)` on it gives an equal config."""
    return tomli_w.dumps(config.model_dump(mode="json", exclude_none=True))


def differences(config: Config, base: Config) -> Overrides:
    """Return the dotted keys whose value in `config` differs from `base`."""
    reference = flatten(base.model_dump(mode="json"))
    return {key: value for key, value in flatten(config.model_dump(mode="json")).items() if value != reference[key]}


def name_run(config: Config) -> str:
    """Return a name that says what a run is: the nearest preset and what differs from it, apart from how it is run.

    The preset is `defaults` where the tree's own defaults are nearer than any. If it is not about these images, their
    name stands before it: `photos as cifar10-tiny train.epochs=3 seed=0`. What has no effect is left out.
    """
    nearest, differing = nearest_preset(config)
    left_out = inert_keys(config) | {"data.source", "train.seed"}
    shown = [key for key in differing if key not in left_out and not key.startswith(("run.", "probe."))]
    parts = [f"{key}={spelled(differing[key])}" for key in shown]
    about = _name_of(PRESETS[nearest].overrides.get("data.source", "")) if nearest in PRESETS else ""
    images = _name_of(config.data.source)
    return " ".join([nearest if images == about else f"{images} as {nearest}", *parts, f"seed={config.train.seed}"])


def nearest_preset(config: Config) -> tuple[str, Overrides]:
    """Return the preset from which a config differs in the fewest settings, and these; `defaults`: the tree's own."""
    starts = {name: preset.overrides for name, preset in PRESETS.items()} | {"defaults": {}}
    variants = {name: differences(config, build(overrides)) for name, overrides in starts.items()}
    nearest = min(variants, key=lambda name: len(variants[name]))
    return nearest, variants[nearest]


def _name_of(source: str) -> str:
    """Return what images are called: `cifar10` wherever it lies, and a folder's own name."""
    kind, _, location = source.partition(":")
    name = local_path(location).absolute().name if kind in ("folder", "images") else kind
    return name.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")


def acts(key: str, values: Mapping[str, Any]) -> bool:
    """Say whether a key changes anything under values of all keys."""
    return not _missing(key, values)


def _missing(key: str, values: Mapping[str, Any]) -> Conditions:
    """Return the conditions that a key lacks in order to act; a key that does not act itself sets none."""
    conditions = ACTS_WHEN.get(key, {}).items()
    return {
        other: needed for other, needed in conditions if not _holds(values.get(other), needed) and acts(other, values)
    }


def _holds(value: Any, needed: tuple[Any, ...]) -> bool:
    return not set(value).isdisjoint(needed) if isinstance(value, list | tuple) else value in needed


def inert_keys(config: Config) -> set[str]:
    """Return the keys that change nothing under this config's other values."""
    values = flatten(config.model_dump())
    return {key for key in ACTS_WHEN if not acts(key, values)}


def refuse_without_effect(config: Config, keys: Iterable[str]) -> None:
    """Raise `UserError` for one of these keys whose value in `config` is no default and changes nothing: a setting
    with no effect is a misunderstanding; one equal to the default comes from a stored config."""
    changed, values = differences(config, Config()), flatten(config.model_dump())
    for key in sorted(inert_keys(config) & set(keys) & changed.keys()):
        missing = told(_missing(key, values))
        raise UserError(f"{key}={changed[key]} has no effect: it acts with {missing} only; set that too")


def told(conditions: Conditions) -> str:
    """Return conditions in words, as TOML has them: `target.kind=pca and probe.finetune.augment=true`."""
    return " and ".join(
        f"{other}={' or '.join(str(value).lower() for value in needed)}{_where(other, conditions)}"
        for other, needed in conditions.items()
    )


def _where(key: str, conditions: Conditions) -> str:
    """Return a restriction, in words, if a key of the conditions need not act under the others."""
    needs = ACTS_WHEN.get(key, {}).items()
    return "" if all({*conditions.get(other, ())} <= {*values} for other, values in needs) else " where that acts"


def read_toml(file: Path, kind: str = "config") -> dict[str, Any]:
    """Return the tables of a TOML file; `UserError` naming its `kind` if it cannot be read or is none."""
    try:
        return tomllib.loads(file.read_text(encoding="utf-8"))
    except OSError as error:
        raise UserError(f"{kind} file {file}: {error.strerror}") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise UserError(f"{kind} file {file} is not valid TOML: {error}") from None


def parse_setting(setting: str) -> tuple[str, Any]:
    """Return key and value of `dotted.key=value`, or raise `UserError`."""
    key, separator, text = setting.partition("=")
    if not separator or not key.strip():
        raise UserError(f"--set {setting!r}: expected dotted.key=value")
    return key.strip(), parse_value(text.strip())


def parse_value(text: str) -> Any:
    """Return `text` as a TOML value where it is one (0.5, true, [1, 2]), and as a string otherwise."""
    try:
        return tomllib.loads(f"value = {text}")["value"]
    except tomllib.TOMLDecodeError:
        return text


def spelled(value: Any) -> str:
    """Return a value as text; that there is none is `unset`."""
    return UNSET if value is None else str(value)


def _unknown_key(key: str, known: list[str]) -> str:
    if inside := [name for name in known if name.startswith(f"{key}.")]:
        return f"{key} is a table, not a setting; its keys: {', '.join(inside)}"
    return f"unknown key {key!r}{nearest(key, known)}; `mae-cli config --schema` lists every key"


def nearest(name: str, known: list[str]) -> str:
    """Return ", did you mean ...?" or nothing: the whole dotted name counts first, then its last part alone."""
    close = difflib.get_close_matches(name, known, n=1, cutoff=0.6)
    if not close:
        leaf = name.split(".")[-1]
        leaves = {key.split(".")[-1]: key for key in known}
        close = [leaves[match] for match in difflib.get_close_matches(leaf, list(leaves), n=1, cutoff=0.6)]
    return f", did you mean {close[0]!r}?" if close else ""


def _explain(item: Any, tree: dict[str, Any]) -> str:
    """One line for one pydantic error: key, value given, rule."""
    location = ".".join(part for part in item["loc"] if isinstance(part, str))
    message = item["msg"].removeprefix("Value error, ")
    if item["type"] == "value_error" and ": " in message:  # rules across fields name their key themselves
        leaf, _, message = message.partition(": ")
        location = f"{location}.{leaf}" if location else leaf
    given = spelled(flatten(tree).get(location, ""))
    if item["type"] not in ("value_error", "assertion_error"):  # pydantic's own words are a programmer's
        message = f"expected {in_words(dict(config_fields())[location])}"
    return f"{location}={given}: {message[0].lower()}{message[1:]}"
