"""What a study costs beyond its trainings: `mae-cli ablate mask-ratio` on the digits, one worker, from nothing.

The command's own time is compared with the sum of the times that its stages (pretrainings, probes) say they worked.
Between the two lie imports, the start of a process per training, tables, figure and MLflow: none of it grows with the
epochs. Then the same command again: the study is finished, and is shown. With --json one object as the last line.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import torch

from mae.runtime.distributed import ALONE
from mae.runtime.machine import environment

ROOT = Path(__file__).resolve().parent.parent


def measure(epochs: int, tracked: bool) -> dict[str, float]:
    """Return seconds of the command, those that its pretrainings and probes worked, and of the same command again."""
    with tempfile.TemporaryDirectory() as folder:
        variables = os.environ | {"OMP_NUM_THREADS": "1", "MAE_CACHE_DIR": f"{folder}/cache"}
        command = [sys.executable, "-m", "cli", "ablate", "mask-ratio", "--runs-dir", f"{folder}/runs"]
        command += ["--set", f"train.epochs={epochs}"] + ([] if tracked else ["--tracking-uri", "none"])
        seconds = []
        for _ in range(3):  # the third finds all that the second has made
            started = time.monotonic()
            subprocess.run(command, cwd=ROOT, env=variables, capture_output=True, check=True)
            seconds.append(time.monotonic() - started)
        records = [json.loads(path.read_bytes()) for path in Path(folder, "runs").rglob("record.json")]
    worked = sum(record["seconds"] for record in records)
    return {"command": seconds[0], "stages": worked, "beyond": seconds[0] - worked, "again": min(seconds[1:])}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--epochs", type=int, default=40, help="of each of the ten pretrainings; 44 steps each")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--json", action="store_true")
    options, rows = parser.parse_args(), []
    print(f"{'tracking':>10}{'command, s':>14}{'stages, s':>14}{'beyond, s':>14}{'again, s':>14}{'load':>8}")
    for _ in range(options.repeats):
        for tracked in (True, False):
            row = measure(options.epochs, tracked)
            rows.append({"tracked": tracked, "load": os.getloadavg()[0]} | row)
            shown = "".join(f"{row[name]:14.1f}" for name in ("command", "stages", "beyond", "again"))
            print(f"{'on' if tracked else 'off':>10}{shown}{rows[-1]['load']:8.1f}", flush=True)
    if options.json:
        print(json.dumps({"epochs": options.epochs, "machine": environment(torch.device("cpu"), ALONE), "rows": rows}))


if __name__ == "__main__":
    main()
