"""How results were probed, as short text: results of different probes are not comparable.

`probe.kinds` is left out: it says which probes there are, and each row of a frame is of one.
"""

from collections.abc import Mapping
from functools import cache
from typing import Any, get_args

from mae.config.resolve import acts, flatten, spelled
from mae.config.tree import Config, ProbeKind

Values = Mapping[str, Any]
"""Settings by dotted key, as a study's record has them: plain values, maybe of an earlier version's keys."""


def base_probe(config: Values) -> str:
    """Return the probe settings of a config that differ from the defaults: `probe.features=patch_mean`."""
    return _text(_changed(config, _defaults()))


def kind_probe(config: Values, probe: str) -> str:
    """Return the settings of one kind of probe that differ from the defaults: `probe.knn.k=5`."""
    return cell_probe(_defaults(), config, probe)


def cell_probe(config: Values, overrides: Values, probe: str) -> str:
    """Return the settings of one kind of probe that a cell's overrides change: `probe.knn.k=5`."""
    others = tuple(f"probe.{kind}." for kind in get_args(ProbeKind) if kind != probe)
    changed = _changed({**config, **overrides}, config)
    return _text({key: value for key, value in changed.items() if not key.startswith(others)})


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


def _text(settings: Values) -> str:
    return " ".join(f"{key}={spelled(value)}" for key, value in settings.items())
