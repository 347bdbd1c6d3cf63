"""What a study costs beyond its trainings: `mae-cli ablate mask-ratio` on the digits, one worker, from nothing.

The command's own time is compared with the sum of the times that its stages (pretrainings, probes) say they worked.
Between the two lie imports, the start of a process per training, tables, figure and MLflow: none of it grows with the
epochs.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent


def measure(epochs: int, tracked: bool) -> tuple[float, float]:
    """Return seconds of the whole command, and seconds that its pretrainings and probes worked."""
    with tempfile.TemporaryDirectory() as folder:
        environment = os.environ | {"OMP_NUM_THREADS": "1", "MAE_CACHE_DIR": f"{folder}/cache"}
        command = [sys.executable, "-m", "cli", "ablate", "mask-ratio", "--runs-dir", f"{folder}/runs"]
        command += ["--set", f"train.epochs={epochs}"] + ([] if tracked else ["--tracking-uri", "none"])
        started = time.monotonic()
        subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, check=True)
        total = time.monotonic() - started
        records = [json.loads(path.read_bytes()) for path in Path(folder, "runs").rglob("record.json")]
    return total, sum(record["seconds"] for record in records)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--epochs", type=int, default=40, help="of each of the ten pretrainings; 44 steps each")
    parser.add_argument("--repeats", type=int, default=3)
    options = parser.parse_args()
    print(f"{'tracking':>10}{'command, s':>14}{'stages, s':>14}{'beyond them':>14}")
    for _ in range(options.repeats):
        for tracked in (True, False):
            total, worked = measure(options.epochs, tracked)
            print(f"{'on' if tracked else 'off':>10}{total:14.1f}{worked:14.1f}{100 * (total / worked - 1):12.1f} %")


if __name__ == "__main__":
    main()
