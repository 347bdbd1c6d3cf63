"""`mae-cli doctor`: what the program needs of its surroundings, looked at one by one. Nothing is left behind."""

import os
import platform
import shutil
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from mae.errors import UserError, first_line, without_secrets

LIBRARIES = ("torch", "torchvision", "timm", "mlflow", "optuna")
LITTLE = 5e9
"""Free bytes below which a folder is told to be nearly full: a checkpoint of ViT-L has 4 GB."""

PAGE = "docs/slurm.md"


@dataclass(frozen=True)
class Finding:
    """One thing that was looked at, what was found, and what to do about it, "" if it is well."""

    subject: str
    found: str
    advice: str = ""


def examine(runs_dir: Path, tracking_uri: str, device: str) -> list[Finding]:
    """Return a finding per subject; one that fails in an unknown way hides no other."""
    looks: dict[str, Callable[[], Finding]] = {
        "program": _program,
        "libraries": _libraries,
        "device": lambda: _device(device),
        "cache folder": _cache,
        "runs folder": lambda: _folder("runs folder", runs_dir, "--runs-dir"),
        "locks": lambda: _locks(runs_dir),
        "MLflow store": lambda: _store(tracking_uri),
    }
    return [_safely(subject, look) for subject, look in looks.items()]


def _safely(subject: str, look: Callable[[], Finding]) -> Finding:
    try:
        return look()
    except Exception as error:  # whatever a library or a disk does
        return Finding(subject, f"{type(error).__name__}: {first_line(error)}", "mend this first")


def _program() -> Finding:
    from mae.runtime.machine import version as told

    return Finding("program", f"{told()}; {Path(__file__).parents[1]}")


def _libraries() -> Finding:
    found, missing = [], []
    for name in LIBRARIES:
        try:
            found.append(f"{name} {version(name)}")
        except PackageNotFoundError:
            missing.append(name)
    advice = f"pip install {' '.join(missing)}" if missing else ""
    return Finding("libraries", f"Python {platform.python_version()}, {', '.join(found)}", advice)


def _device(name: str) -> Finding:
    import torch

    from mae.runtime.machine import choose_device, device_name

    try:
        device = choose_device(name)
    except UserError as error:
        return Finding("device", str(error), "choose another --device")
    sum_of_ones = float(torch.ones(8, 8, device=device).mm(torch.ones(8, 8, device=device)).sum())
    if sum_of_ones != 512:
        return Finding("device", f"{device}: a product of matrices is wrong", "look for a fault of driver or hardware")
    if device.type == "cuda":
        free, total = torch.cuda.mem_get_info(device)
        return Finding("device", f"{device}: {device_name(device)}, {free / 1e9:.0f} of {total / 1e9:.0f} GB free")
    threads, load = torch.get_num_threads(), os.getloadavg()[0]
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    found = f"{device}: {device_name(device)}, {cores} core(s), {threads} thread(s), a load of {load:.1f}"
    busy = "other work takes the cores; training will be slower" if load > 1.5 * cores else ""
    return Finding("device", found, busy)


def _cache() -> Finding:
    from mae.data.sources import cache_folder

    return _folder("cache folder", cache_folder(), "MAE_CACHE_DIR")


def _folder(subject: str, folder: Path, chosen_by: str) -> Finding:
    """Look at a folder, or at the one it would be made in."""
    from mae.runs.housekeeping import bytes_in

    place = _existing(folder)
    free = shutil.disk_usage(place).free
    size = f"{bytes_in(folder) / 1e9:.3g} GB in it" if folder.is_dir() else "made when it is needed"
    found = f"{folder}: {size}, {free / 1e9:.3g} GB free"
    try:
        with tempfile.TemporaryFile(dir=place):
            pass
    except OSError as error:
        return Finding(subject, f"{found}; {place} cannot be written to: {error.strerror}", f"choose with {chosen_by}")
    advice = f"make room (`mae-cli clean`), or choose another with {chosen_by}" if free < LITTLE else ""
    return Finding(subject, found, advice)


def _existing(folder: Path) -> Path:
    return next(place for place in (folder.absolute(), *folder.absolute().parents) if place.is_dir())


def _locks(runs_dir: Path) -> Finding:
    """Look whether a lock that is held is seen from outside, as one command has to see another."""
    from mae.runs.locks_and_writes import is_held, lock_at_once

    with tempfile.TemporaryDirectory(dir=_existing(runs_dir), prefix=".doctor-") as folder:
        file = Path(folder) / "lock"
        with open(file, "a+") as handle:
            works = lock_at_once(handle) and is_held(file)
        works = works and not is_held(file)
    if works:
        return Finding("locks", "two commands on one folder of runs see each other")
    return Finding(
        "locks", f"no locks on the disk of {runs_dir}", f"another --runs-dir, or mount it otherwise ({PAGE})"
    )


def _store(uri: str) -> Finding:
    from mae.tracking.mlflow_store import NONE, is_damaged, open_store

    where = without_secrets(uri)
    if uri == NONE:
        return Finding("MLflow store", "none; runs are on disk all the same")
    if uri.startswith("sqlite:///") and not Path(uri.removeprefix("sqlite:///")).exists():
        return Finding("MLflow store", f"{where}: made by the first run")
    try:
        open_store(uri).search_experiments(max_results=1)
    except Exception as error:  # whatever a server or database does
        advice = "start the server, or name another --tracking-uri; runs go on without it, and it is told later"
        if is_damaged(error):
            advice = "move the file away: the next command makes it anew from the runs"
        elif uri.startswith("sqlite:///"):
            advice = "see whether another program uses it, and whether you may read and write it"
        return Finding("MLflow store", f"{where}: {first_line(error)}", advice)
    return Finding("MLflow store", f"{where} answers")
