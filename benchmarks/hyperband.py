"""What pruning saves: one sweep under Hyperband and one under no pruning, with the same trials, space and sampler.

Prints for each: steps trained, time, the best trial's accuracy on held-out training images, which it was chosen by, and
on the test images with its 95 % interval. The draws differ from the first pruned trial on, as TPE learns from results.
"""

import argparse
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import pandas as pd


def sweep(pruner: str, trials: int, sampler: str, workers: int, runs_dir: Path) -> tuple[pd.DataFrame, float]:
    """Return the frame of a sweep of the digits and its seconds on the wall."""
    command = [sys.executable, "-m", "cli", "sweep", "--preset", "digits", "--trials", str(trials), "--pruner", pruner,
               "--sampler", sampler, "--workers", str(workers), "--runs-dir", str(runs_dir), "--json"]  # fmt: skip
    started = time.monotonic()
    done = subprocess.run(command, check=True, text=True, stdout=subprocess.PIPE)
    seconds = time.monotonic() - started
    directory = Path(json.loads(done.stdout.splitlines()[-1])["directory"])
    return pd.read_csv(directory / "trials.csv"), seconds


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--trials", type=int, default=50)
    parser.add_argument("--sampler", default="tpe")
    parser.add_argument("--workers", type=int, default=2)
    options = parser.parse_args()
    print("| pruner | steps | of none | time | complete | best, held-out | its test top-1 (95 %) |")
    print("|---|---|---|---|---|---|---|")
    steps_of_none = 0.0
    for pruner in ("none", "hyperband"):
        with tempfile.TemporaryDirectory() as folder:
            frame, seconds = sweep(pruner, options.trials, options.sampler, options.workers, Path(folder))
        steps = frame["steps"].sum()
        steps_of_none = steps_of_none or steps
        best = frame.loc[frame["linear_top1"].idxmax()]
        test = f"{best['linear/top1']:.1f} ({best['linear/low']:.1f} to {best['linear/high']:.1f})"
        print(
            f"| {pruner} | {steps:.0f} | {steps / steps_of_none:.0%} | {seconds:.0f} s "
            f"| {(frame['state'] == 'complete').sum()} of {len(frame)} | {best['linear_top1']:.1f} | {test} |",
            flush=True,
        )


if __name__ == "__main__":
    main()
