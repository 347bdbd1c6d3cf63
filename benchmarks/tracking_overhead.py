"""What tracking costs: `mae-cli pretrain` on the digits with a fresh SQLite store against `--tracking-uri none`.

Each run is a process of its own, as the import of mlflow and the making of the store are paid once per process; runs
alternate, so that a busy machine slows both kinds. Beside the clock stands the CPU time of the training process alone,
which other work on the machine disturbs less: it is what tracking takes from training itself, without the delivering
process, which runs on another core and gives way.
"""

import argparse
import json
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
ENVIRONMENT = os.environ | {"OMP_NUM_THREADS": "1"}  # more threads gain nothing on 8 x 8 pixels


def measure(tracked: bool, epochs: int, device: str) -> tuple[float, float, float]:
    """Return seconds of training, seconds of the whole command, and CPU seconds of its own process."""
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, "-m", "cli", "pretrain", "--runs-dir", folder, "--device", device, "--json"]
        command += ["--set", f"train.epochs={epochs}"] + ([] if tracked else ["--tracking-uri", "none"])
        started, used = time.monotonic(), _cpu_seconds_of_children()
        done = subprocess.run(command, cwd=ROOT, env=ENVIRONMENT, capture_output=True, text=True, check=True)
        total, used = time.monotonic() - started, _cpu_seconds_of_children() - used
        if tracked and "tracking at" in done.stderr:
            raise RuntimeError(done.stderr)
    return json.loads(done.stdout)["metrics"]["cost/seconds"], total, used


def _cpu_seconds_of_children() -> float:
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    return usage.ru_utime + usage.ru_stime


def report(label: str, without: list[float], tracked: list[float]) -> None:
    """Print medians, with smallest and largest, and the median of the paired differences."""
    extra = [b - a for a, b in zip(without, tracked, strict=True)]
    share = [100 * (b / a - 1) for a, b in zip(without, tracked, strict=True)]
    cells = [f"{statistics.median(row):7.2f} ({min(row):.2f} to {max(row):.2f})" for row in (without, tracked, extra)]
    print(f"{label:10}{cells[0]:>28}{cells[1]:>28}{cells[2]:>28}", end="")
    print(f"{statistics.median(share):8.1f} % ({min(share):.1f} to {max(share):.1f})")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--epochs", type=int, default=150, help="of pretraining; 44 steps each")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--device", default="cpu")
    options = parser.parse_args()
    pairs = []
    for _ in range(options.repeats):
        pairs.append([measure(tracked, options.epochs, options.device) for tracked in (False, True)])
        print(f"training, command, CPU: untracked {pairs[-1][0]}, tracked {pairs[-1][1]}", file=sys.stderr)
    print(f"{'seconds of':10}{'untracked':>28}{'tracked':>28}{'difference':>28}{'share':>10}")
    for column, label in enumerate(("training", "command", "CPU")):
        report(label, [pair[0][column] for pair in pairs], [pair[1][column] for pair in pairs])


if __name__ == "__main__":
    main()
