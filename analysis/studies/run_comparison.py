"""Runs side by side: what was set differently, what came out, what it cost; which configs are told apart."""

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from statistics import fmean
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from analysis.statistics.comparisons import Comparisons, compare
from analysis.studies.remarks import TEST_IN_WORDS
from analysis.studies.tables import difference_text
from mae.config.fingerprint import pretrain_settings
from mae.config.resolve import differences, flatten, resolve, spelled
from mae.errors import UserError
from mae.probing.kinds import PROBES, probe_label
from mae.runs.catalogue import find_run, run_row, settings_of
from mae.runs.directory import RunDirectory, probes_of
from mae.runs.metrics import top1
from mae.runs.probe_settings import kind_probe


def compare_runs(runs_dir: Path, names: Sequence[str]) -> pd.DataFrame:
    """Return a column per run and a row per setting that differs, metric and cost, all as text.

    An accuracy has its interval behind it. A metric that a run does not have is empty. `UserError` for fewer than two
    runs, or one that is not there.
    """
    runs = _chosen(runs_dir, names)
    configs = {name: resolve(file=run.path / "config.toml") for name, run in runs.items()}
    first = next(iter(configs.values()))
    keys = {key: None for config in configs.values() for key in differences(config, first)}
    settings = {name: flatten(config.model_dump(mode="json")) for name, config in configs.items()}
    rows: dict[str, list[str]] = {key: [spelled(values[key]) for values in settings.values()] for key in keys}
    shown = [run_row(run) for run in runs.values()]
    rows["status"] = [row["status"] for row in shown]
    found = {key for row in shown for key in row["metrics"] if not key.endswith(("low", "high"))}
    for key in sorted(found, key=lambda key: (key.startswith("cost/"), key)):
        rows[key] = [_told(key, row["metrics"]) for row in shown]
    return pd.DataFrame.from_dict(rows, orient="index", columns=list(runs))


def _told(key: str, metrics: Mapping[str, float]) -> str:
    if key not in metrics:
        return ""
    start, whole = key.removesuffix("top1"), f"{metrics[key]:,.0f}" if metrics[key] >= 1e4 else f"{metrics[key]:.4g}"
    if key == start or f"{start}low" not in metrics:
        return whole
    return f"{metrics[key]:.2f} ({metrics[f'{start}low']:.2f} to {metrics[f'{start}high']:.2f})"


def _chosen(runs_dir: Path, names: Sequence[str]) -> dict[str, RunDirectory]:
    runs = {run.path.name: run for run in (find_run(runs_dir, name) for name in names)}
    if len(runs) < 2:
        raise UserError("compare: expected at least two different runs; see `mae-cli runs`")
    return runs


class Probed(NamedTuple):
    """One run's test top-1 in % under one probe; runs of one config differ in nothing but their seed.

    `config` is its name, `settings` are those of the kind of probe that differ from the defaults.
    """

    kind: str
    settings: str
    config: str
    seed: int
    top1: float


def config_differences(runs_dir: Path, names: Sequence[str]) -> list[str]:
    """Return sentences on the differences of the runs' configs from the first run's; none if they have one config.

    A config is named by its settings that the others do not share. Raises as `compare_runs`.
    """
    runs = [*_chosen(runs_dir, names).values()]
    settings = [_settings(run) for run in runs]
    seeds = [each.pop("train.seed") for each in settings]
    keys = dict.fromkeys(key for each in settings for key in each)
    varied = [key for key in keys if any(each.get(key) != settings[0].get(key) for each in settings)]
    configs = [" ".join(f"{key}={spelled(each[key])}" for key in varied if key in each) for each in settings]
    results = [
        Probed(kind, how, config, seed, top1)
        for run, config, seed in zip(runs, configs, seeds, strict=True)
        for kind, how, top1 in _probes(run)
    ]
    return tell_differences(results, configs[0])


def _settings(run: RunDirectory) -> dict[str, Any]:
    """Return all that can change a run's numbers; of the hash of its images the start."""
    record = run.read_record()
    digest = str(record.data.get("digest", "")) if record else ""
    return pretrain_settings(resolve(file=run.path / "config.toml"), digest[:8])


def _probes(run: RunDirectory) -> Iterator[tuple[str, str, float]]:
    """Yield kind, settings and top-1 of a run's finished probes.

    Of those that differ in their seed alone, which is noise as that of the training, it is the mean: one value per run.
    """
    found: dict[tuple[str, str], list[float]] = {}
    for place in probes_of(run):
        kind = place.path.name.partition("-")[0]
        if (result := place.result()) is not None:
            how = kind_probe({**settings_of(place), "probe.seed": 0}, kind)
            found.setdefault((kind, how), []).append(result["metrics"][top1(kind)])
    for (kind, how), values in found.items():
        yield kind, how, fmean(values)


def tell_differences(results: Sequence[Probed], reference: str) -> list[str]:
    """Return a sentence per probe on every config's difference from `reference`, and what speaks against the test.

    Results are compared where their probes have equal settings. Where a kind of probe has none such, that is said.
    """
    lines = []
    for kind in PROBES:
        name = probe_label(kind)
        of_kind = [each for each in results if each.kind == kind]
        told = []
        for settings in dict.fromkeys(each.settings for each in of_kind):
            alike = [each for each in of_kind if each.settings == settings]
            told += _tell(f"{name} with {settings}" if settings else name, alike, reference)
        if not told and len({each.config for each in of_kind}) > 1:
            told = [f"{name}: not compared, as no other config was probed in the same way as {reference}"]
        lines += told
    return lines


def _tell(probe: str, results: Sequence[Probed], reference: str) -> list[str]:
    runs = Counter(each.config for each in results)
    if reference not in runs or len(runs) < 2:
        return []
    values, configs, seeds = zip(*((each.top1, each.config, each.seed) for each in results), strict=True)
    made = compare(values, configs, seeds, reference)
    counted = {config: f"{config} ({count} run{'s' if count > 1 else ''})" for config, count in runs.items()}
    found = [f"{counted[config]} {difference_text(each, '+.1f')}" for config, each in made.differences.items()]
    line = f"{probe}: difference from {counted[reference]} in points: {'; '.join(found)}; {_judged(made, runs)}"
    return [line, *(f"{probe}: {remark}" for remark in made.remarks)]


def _judged(made: Comparisons, runs: Counter[str]) -> str:
    if all(np.isnan(each.p) for each in made.differences.values()):
        why = "one seed each" if max(runs.values()) == 1 else "too few runs, or equal ones"
        return f"{why}: no difference is told from noise"
    if made.test in TEST_IN_WORDS:
        return TEST_IN_WORDS[made.test]
    seeds = "seeds are blocks" if made.model.blocks else "no blocks, as the configs are not linked by common seeds"
    return f"{seeds}, Dunnett's correction, all intervals hold together with 95 %"
