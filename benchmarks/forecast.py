"""What `mae-cli ablate --dry-run` forecasts against what the study then takes: digits, and a folder of photographs.

The photographs are 3,000 crops of 64 pixels out of scikit-learn's two sample images, in ten class folders. The machine
may do other work; its load is told.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from sklearn.datasets import load_sample_images

ROOT = Path(__file__).resolve().parent.parent
STUDIES = {
    "digits": ["mask-ratio"],
    "photographs": [
        *("--axis", "mask.ratio=0.25,0.75", "--preset", "cifar10-tiny", "--set", "train.epochs=3"),
        *("--set", "data.source=folder:{photographs}"),
    ],
}


def make_photographs(folder: Path, count: int = 3000, side: int = 64) -> None:
    draws = np.random.default_rng(0)
    pictures = load_sample_images().images
    for number in range(count):
        picture = pictures[number % len(pictures)]
        top, left = (int(draws.integers(0, length - side)) for length in picture.shape[:2])
        file = folder / f"class-{number % 10}" / f"{number:04}.jpg"
        file.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(picture[top : top + side, left : left + side]).save(file)


def mae_cli(folder: Path, *arguments: str) -> tuple[dict[str, Any], float]:
    """Return the result of a command and its seconds."""
    command = [sys.executable, "-m", "cli", *arguments, "--json", "--tracking-uri", "none"]
    environment = os.environ | {"MAE_CACHE_DIR": str(folder / "cache")}
    started = time.monotonic()
    done = subprocess.run(command, cwd=ROOT, env=environment, stdout=subprocess.PIPE, check=True, text=True)
    return json.loads(done.stdout.splitlines()[-1]), time.monotonic() - started


def compare(study: str, workers: int, photographs: Path) -> None:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        arguments = ["ablate", *(part.format(photographs=photographs) for part in STUDIES[study])]
        arguments += ["--workers", str(workers), "--runs-dir", str(folder / "runs")]
        before = os.getloadavg()[0]
        foreseen, measuring = mae_cli(folder, *arguments, "--dry-run")
        _, took = mae_cli(folder, *arguments)
        each = []
        for training in foreseen["trainings"]:
            records = folder.glob(f"runs/{training['fingerprint']}/**/record.json")
            each.append(training["seconds"] / sum(json.loads(record.read_bytes())["seconds"] for record in records))
        seconds, loads = foreseen["seconds"], f"{before:.1f}, then {os.getloadavg()[0]:.1f}"
        print(
            f"{study:>12}{workers:9}{loads:>16}{measuring:12.0f}{seconds:13.0f}{took:10.0f}{seconds / took:8.2f}",
            end="",
        )
        print(f"{min(each):14.2f} to {max(each):.2f}", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--study", choices=STUDIES, action="append", help="default: all")
    parser.add_argument("--workers", type=int, action="append", help="default: 1, then 2")
    options = parser.parse_args()
    print(
        f"{'study':>12}{'workers':>9}{'load':>16}{'dry run, s':>12}{'forecast, s':>13}{'took, s':>10}{'ratio':>8}",
        end="",
    )
    print(f"{'of a training':>22}")
    with tempfile.TemporaryDirectory() as folder:
        make_photographs(Path(folder))
        for study in options.study or STUDIES:
            for workers in options.workers or (1, 2):
                compare(study, workers, Path(folder))


if __name__ == "__main__":
    main()
