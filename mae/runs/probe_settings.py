"""How results were probed, as short text: results of different probes are not comparable.

`probe.kinds` is left out: it says which probes there are, and each row of a frame is of one.
"""

from collections.abc import Iterable, Mapping
from functools import cache
from typing import Any, get_args

from mae.config.fingerprint import probe_sections
from mae.config.kinds import ProbeKind
from mae.config.presets import PRESETS
from mae.config.resolve import acts, build, flatten, spelled
from mae.config.tree import Config

KINDS = get_args(ProbeKind)
Values = Mapping[str, Any]
"""Settings by dotted key, as a study's record has them: plain values, maybe of an earlier version's keys."""


def base_probe(config: Values) -> str:
    """Return the probe settings of a config that differ from the defaults: `probe.features=patch_mean`.

    Of the kinds that came after the first two, those that it asks for are told.
    """
    asked = {"linear", "knn", *config.get("probe.kinds", ())}
    return _text(_of_kinds(_changed(config, _defaults()), asked))


def kind_probe(config: Values, probe: str) -> str:
    """Return the settings of one kind of probe that differ from the defaults: `probe.knn.k=5`."""
    return cell_probe(_defaults(), config, probe)


def cell_probe(config: Values, overrides: Values, probe: str) -> str:
    """Return the settings of one kind of probe that a cell's overrides change: `probe.knn.k=5`."""
    return _text(_of_kinds(_changed({**config, **overrides}, config), {probe}))


def own_settings(config: Values, probe: str) -> str:
    """Return what sets a probe apart from its kind as the nearest preset has it: `labels_per_class=5`, or nothing.

    Its seed is left out, which repeats it.
    """
    nearest = min(_presets(), key=lambda preset: sum(preset.get(key) != value for key, value in config.items()))
    changed = _of_kinds(_changed(config, nearest), {probe})
    told = {key.removeprefix("probe.").removeprefix(f"{probe}."): value for key, value in changed.items()}
    return _text({key: value for key, value in told.items() if key != "seed"})


def _of_kinds(changed: dict[str, Any], kinds: Iterable[str]) -> dict[str, Any]:
    """Return the settings that some of these kinds of probe read."""
    read = {section for kind in kinds if kind in KINDS for section in probe_sections(kind)}
    others = tuple(f"probe.{kind}." for kind in KINDS if kind not in read)
    return {key: value for key, value in changed.items() if not key.startswith(others)}


def _changed(values: Values, reference: Values) -> dict[str, Any]:
    """Return the probe settings that act under `values` and are others in `reference`."""
    changed = {}
    for key, value in values.items():
        plain = list(value) if isinstance(value, tuple) else value
        if key.startswith("probe.") and key != "probe.kinds" and acts(key, values) and plain != reference.get(key):
            changed[key] = plain
    return changed


@cache
def _defaults() -> Values:
    return flatten(Config().model_dump(mode="json"))


@cache
def _presets() -> list[Values]:
    return [_defaults(), *(flatten(build(preset.overrides).model_dump(mode="json")) for preset in PRESETS.values())]


def _text(settings: Values) -> str:
    return " ".join(f"{key}={spelled(value)}" for key, value in settings.items())
