"""How long results take to load and tabulate: from a folder of runs, and from an MLflow store in SQLite.

The runs are made up, but written by the program's own writers and delivered to MLflow as a study's are. That takes
minutes; `--keep FOLDER` keeps them for another time.
"""

import argparse
import random
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import pandas as pd

from analysis.results.loading import from_mlflow, from_runs
from analysis.studies.tables import display, summarise
from mae.config.resolve import flatten, to_toml
from mae.config.tree import Config
from mae.runs.directory import Record, RunDirectory
from mae.runs.study_record import CellRecord, StudyRecord, TrialRecord, find_studies
from mae.tracking.mlflow_store import default_uri
from mae.tracking.study_delivery import deliver_study

STUDIES, SEEDS, KINDS, POINTS = 10, 4, ("linear", "knn"), 20


def make_studies(runs_dir: Path, runs: int) -> None:
    """Write `STUDIES` studies of `runs` finished trainings in all, each with its probes."""
    config = Config()
    for number in range(STUDIES):
        cells = [
            CellRecord(
                name=f"{ratio:.4f}", overrides={"mask.ratio": ratio}, paper={"linear": 70.0}, is_default=not index
            )
            for index in range(runs // STUDIES // SEEDS)
            for ratio in [0.1 + index / 1000]
        ]
        trials = [
            TrialRecord(
                cell=cell.name,
                seed=seed,
                fingerprint=f"{random.getrandbits(48):012x}",
                probes={kind: f"{kind}-{random.getrandbits(48):012x}" for kind in KINDS},
            )
            for cell in cells
            for seed in range(SEEDS)
        ]
        record = StudyRecord(
            name=f"study-{number}",
            question="How long does it take?",
            source="",
            axis="mask.ratio",
            log_axis=False,
            base="digits seed=0",
            config=flatten(config.model_dump(mode="json")),
            data={"source": "digits", "digest": "d" * 64},
            cells=cells,
            trials=trials,
        )
        for trial in trials:
            make_run(runs_dir, trial, config)
        directory = RunDirectory(runs_dir / "studies" / f"study-{number}-{number:08x}")
        directory.write_text("study.json", record.model_dump_json(indent=2) + "\n")


def make_run(runs_dir: Path, trial: TrialRecord, config: Config) -> None:
    """Write one finished training with its probes."""
    run = RunDirectory(runs_dir / trial.fingerprint)
    record = Record(
        stage="pretrain",
        name="digits",
        fingerprint=trial.fingerprint,
        status="finished",
        data={"source": "digits", "digest": "d" * 64},
        tags={"mae.git_commit": "0" * 12, "mae.command": "mae-cli ablate"},
    )
    run.write_record(record)
    run.write_text("config.toml", to_toml(config))
    costs = {"cost/seconds": 10.0, "cost/steps": 2200.0, "cost/gflops_per_image": 0.01, "cost/peak_memory_mb": 500.0}
    run.write_json("result.json", {"metrics": costs | {"train/final_loss": random.random()}})
    for step in range(POINTS):
        run.append_metrics(step, {"train/loss": random.random(), "train/lr": random.random()})
    for kind, name in trial.probes.items():
        place = RunDirectory(run.path / "probes" / name)
        place.write_record(record.model_copy(update={"stage": "probe", "parent": trial.fingerprint}))
        names = [who + what for who in ("", "untrained_", "pixels_") for what in ("top1", "low", "high")]
        place.write_json("result.json", {"metrics": {f"{kind}/{name}": 100 * random.random() for name in names}})


def report(label: str, load: Callable[[], pd.DataFrame], repeats: int) -> None:
    """Print the seconds that loading and tabulating take, the smallest and largest of `repeats`, also of CPU."""
    clocks = {"wall": time.monotonic, "CPU": time.process_time}
    seconds: dict[str, list[tuple[float, float]]] = {name: [] for name in clocks}
    for _ in range(repeats):
        started = {name: clock() for name, clock in clocks.items()}
        frame = load()
        loaded = {name: clock() for name, clock in clocks.items()}
        for _, study in frame.groupby("study_id", sort=False):
            display(summarise(study))
        for name, clock in clocks.items():
            seconds[name].append((loaded[name] - started[name], clock() - loaded[name]))
    print(f"{label}: {frame['run'].nunique()} runs, {len(frame)} rows")
    for name, times in seconds.items():
        loading, tabulating = (f"{min(values):5.2f} to {max(values):5.2f} s" for values in zip(*times, strict=True))
        print(f"  {name:4} loading {loading}, tabulating {tabulating}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=int, default=2000)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--keep", type=Path, help="folder to make the runs in, and to find them again in")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        runs_dir = options.keep or Path(temporary)
        if not (runs_dir / "studies").exists():
            make_studies(runs_dir, options.runs)
        report("runs folder", lambda: from_runs(runs_dir, print), options.repeats)
        for directory, _ in find_studies(runs_dir):
            deliver_study(directory, default_uri(runs_dir), runs_dir)
        report("MLflow, SQLite", lambda: from_mlflow(default_uri(runs_dir)), options.repeats)


if __name__ == "__main__":
    main()
