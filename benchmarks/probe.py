"""Seconds and peak memory of the probes on made-up features, and how both grow from a tenth of the rows to all of them.

    python benchmarks/probe.py                                                     # minutes
    python benchmarks/probe.py --rows 1281167 --columns 1024 --classes 1000 --device cuda   # ImageNet's, as of ViT-L
    python benchmarks/probe.py --rows 1281167 --columns 3072 --classes 1000 --device cuda   # its raw pixels
    python benchmarks/probe.py --free-gb 0.1                                       # as if so little memory were free

Features are blobs, one per class, of which a twentieth more is tested. Each probe runs in a process of its own, L-BFGS
with one penalty, LARS for three epochs on the same features; after `--seconds` it is stopped, which is told. Memory is
what the process holds beyond its imports, without pages of files, which the system takes back when others need memory;
GPU memory is that of tensors. How memory grows is told in MB per MB of features.
"""

import argparse
import json
import math
import multiprocessing
import threading
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from mae.config.probe_sections import KnnProbeConfig, LinearProbeConfig, ProbeConfig
from mae.probing import feature_memory
from mae.probing.feature_memory import gathered, near
from mae.probing.fit_checkpoints import FitCheckpoints
from mae.probing.knn import knn_predict
from mae.probing.linear import lars_predict, lbfgs_predict
from mae.probing.pieces import Rows
from mae.probing.subject import holdout
from mae.runtime.distributed import ALONE
from mae.runtime.interruption import Interrupted, StoppableTask, StopRequest
from mae.runtime.machine import environment
from mae.runtime.progress import Silent

Made = tuple[Tensor, Tensor, Tensor]
"""Features (n, D), their classes (n,), features (m, D) to be tested."""


class Deadline(StopRequest):
    """Ends a probe that takes too long; counts how often it looked."""

    def __init__(self, seconds: float) -> None:
        super().__init__()
        self.at, self.looks = time.monotonic() + seconds, 0

    def check(self) -> None:
        self.looks += 1
        if time.monotonic() > self.at:
            raise Interrupted(15)


class Watch(threading.Thread):
    """Looks every 10 ms how much memory the process holds that is of no file."""

    def __init__(self) -> None:
        super().__init__(daemon=True)
        self.begin = self.peak = self.held()

    def run(self) -> None:
        while True:
            self.peak = max(self.peak, self.held())
            time.sleep(0.01)

    def held(self) -> int:
        return int(Path("/proc/self/status").read_text().split("RssAnon:")[1].split()[0]) * 1024


def blobs(rows: int, columns: int, classes: int, seed: int) -> Iterator[Tensor]:
    """Yield parts of features (rows, columns) around a centre for each class; classes take turns."""
    centres = torch.randn(classes, columns, generator=torch.Generator().manual_seed(0))
    draws = torch.Generator().manual_seed(seed)
    for part in torch.arange(rows).split(1000):
        yield 2 + centres[part % classes] + 4 * torch.randn(len(part), columns, generator=draws)


def _pretend(free: float, device: torch.device, root: Path = Path("/")) -> float:
    return free


def lbfgs(made: Made, classes: int, task: StoppableTask) -> Tensor:
    train, labels, test = made
    config = LinearProbeConfig(penalties=(1e-3,))
    return lbfgs_predict(train, labels, test, classes, config, holdout(len(train), ProbeConfig()), task)[0]


def lars(made: Made, classes: int, task: StoppableTask) -> Tensor:
    train, labels, test = made
    config = LinearProbeConfig(lars_epochs=3)
    return lars_predict(lambda epoch: train, labels, test, classes, config, 0, task, FitCheckpoints())[0]


def knn(made: Made, classes: int, task: StoppableTask) -> Tensor:
    train, labels, test = made
    references, queries = (Rows(each, torch.arange(len(each)), classes, labels.device) for each in (train, test))
    config = KnnProbeConfig()
    return knn_predict(references, labels, queries, config.k, config.temperature, classes, task.check)


PROBES: dict[str, Callable[[Made, int, StoppableTask], Tensor]] = {"lbfgs": lbfgs, "lars": lars, "knn": knn}


def measure(name: str, rows: int, options: argparse.Namespace) -> dict[str, Any]:
    """Return seconds, peak memory in MB and top-1 in percent of one probe, in this process."""
    if options.free_gb is not None:
        feature_memory.free_memory = partial(_pretend, options.free_gb * 1e9)
    device, tested = torch.device(options.device), math.ceil(rows / 20)
    watch = Watch()
    watch.start()
    train, test = (
        near(gathered(blobs(count, options.columns, options.classes, seed), count), device)
        for seed, count in ((1, rows), (2, tested))
    )
    labels = torch.arange(rows, device=device) % options.classes
    stop, began = Deadline(options.seconds), time.monotonic()
    top1 = None
    try:
        predicted = PROBES[name]((train, labels, test), options.classes, StoppableTask(Silent(), stop))
        top1 = 100 * (predicted.cpu() == torch.arange(tested) % options.classes).float().mean().item()
    except Interrupted:
        pass
    found = {"probe": name, "rows": rows, "seconds": time.monotonic() - began, "top1": top1, "looks": stop.looks}
    found |= {"memory_mb": (watch.peak - watch.begin) / 1e6, "features_mb": 4 * rows * options.columns / 1e6}
    return found | ({"gpu_mb": torch.cuda.max_memory_allocated(device) / 1e6} if device.type == "cuda" else {})


def show(found: list[dict[str, Any]]) -> None:
    """Print a line for each measurement; the second of a probe also with its growth over the first."""
    print(f"{'probe':8}{'rows':>10}{'seconds':>10}{'memory, MB':>12}{'GPU, MB':>9}{'top-1':>7}   growth")
    for few, many in zip(found[::2], found[1::2], strict=True):
        for each in (few, many):
            seconds = f"{'> ' if each['top1'] is None else ''}{each['seconds']:.1f}"
            top1 = "stopped" if each["top1"] is None else f"{each['top1']:.1f}"
            line = f"{each['probe']:8}{each['rows']:>10}{seconds:>10}{each['memory_mb']:12.0f}"
            line += f"{each.get('gpu_mb', 0):9.0f}{top1:>9}"
            if each is many:
                more = many["features_mb"] - few["features_mb"]
                grown = (many["memory_mb"] - few["memory_mb"]) / more
                slower = f"{many['seconds'] / few['seconds']:.1f} x seconds, " if many["top1"] is not None else ""
                line += f"   {slower}{grown:.2f} MB per MB of features"
            print(line)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=200_000)
    parser.add_argument("--columns", type=int, default=256)
    parser.add_argument("--classes", type=int, default=100)
    parser.add_argument("--probes", nargs="+", choices=PROBES, default=[*PROBES])
    parser.add_argument("--seconds", type=float, default=120.0, help="most time of one probe")
    parser.add_argument("--free-gb", type=float, help="take so much memory for free, whatever is")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    context, found = multiprocessing.get_context("spawn"), []
    for name in options.probes:
        for rows in (options.rows // 10, options.rows):
            with context.Pool(1) as alone:
                found.append(alone.apply(measure, (name, rows, options)))
    show(found)
    if options.json:
        print(json.dumps({"found": found} | environment(torch.device(options.device), ALONE)))


if __name__ == "__main__":
    main()
