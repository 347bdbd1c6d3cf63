"""How time and memory grow as images, cells, trials and processes do: each ten times the one before.

Images: tiny PNG files into the cache. Cells: plan and table of a study whose runs are made up. Trials: a sweep's
driver with trials that do nothing (`sweep_overhead.py`). Processes: a training step of the same batch by 2 processes
under torchrun against 1. A growth above `LINEAR` times that of the work is named. With --json one object as the last
line.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
LINEAR = 1.3
"""Growth of time or memory over growth of the work, above which it is called faster than linear: noise is below."""

IMAGES = """
import sys, numpy as np
from pathlib import Path
from PIL import Image
from mae.config.resolve import resolve
from mae.data.dataset import load_data
from mae.runtime.progress import Silent
root, count = Path(sys.argv[1]), int(sys.argv[2])
for split, many in (("train", count), ("test", 2)):
    for label in "ab":
        (root / split / label).mkdir(parents=True)
        for index in range(many // 2):
            Image.fromarray(np.full((8, 8, 3), index % 256, np.uint8)).save(root / split / label / f"{index}.png")
began = time.perf_counter()
config = resolve(None, settings=[f"data.source=folder:{root}", "data.image_size=8", "model.patch_size=2"])
load_data(config.data, config.run, Silent())
"""
CELLS = """
import sys
from pathlib import Path
from rich.console import Console
from ablations.studies.run_studies import choose_studies, make_plans, put_on_record
from analysis.report.terminal import show_studies
from mae.config.resolve import resolve, to_toml
from mae.runs.directory import Record, RunDirectory
from mae.runtime.progress import Silent
root, count = Path(sys.argv[1]), int(sys.argv[2])
def plan():
    axis = "train.base_lr=" + ",".join(f"{1e-3 + 1e-6 * index:.6f}" for index in range(count))
    return make_plans(choose_studies(None, None, [axis]), resolve("digits"), 1, root, [], Silent())[0]
for number, job in enumerate(plan().jobs):
    run = RunDirectory(root / job.fingerprint)
    for stage, parent in ((run, None), *((run.probe(job.probe_name(kind)), job.fingerprint) for kind in job.kinds)):
        stage.path.mkdir(parents=True)
        record = Record(stage="probe" if parent else "pretrain", name="x", fingerprint=stage.path.name, parent=parent)
        stage.write_record(record.model_copy(update={"status": "finished"}))
        found = {"cost/seconds": 10.0}
        for kind in job.kinds:
            found |= {f"{kind}/top1": 80 + number % 7, f"{kind}/low": 78.0, f"{kind}/high": 90.0}
        stage.write_json("result.json", {"metrics": found})
    (run.path / "config.toml").write_text(to_toml(job.config))
began = time.perf_counter()
made = plan()
put_on_record([made])
show_studies([(made.record, made.directory)], root, Console(quiet=True))
"""
TRIALS = """
import sys
from pathlib import Path
import optuna
sys.path.insert(0, "benchmarks")
from sweep_overhead import measure
optuna.logging.set_verbosity(optuna.logging.ERROR)
root, count = Path(sys.argv[1]), int(sys.argv[2])
root.mkdir()
began = time.perf_counter()
measure(f"sqlite:///{root}/optuna.db", "growth", "tpe", count, root)
"""
STEPS = """
import os, sys, torch
from mae.config.resolve import resolve
from mae.data.dataset import load_data
from mae.pretext.base import Batch
from mae.runtime.distributed import launched
from mae.runtime.progress import Silent
from mae.training.step import Trainer
config = resolve("digits")
data = load_data(config.data, config.run, Silent())
torch.set_num_threads(1)
processes = launched()
with processes.joined(torch.device("cpu")):
    trainer = Trainer(config, data, torch.device("cpu"), processes)
    chosen = torch.arange(config.train.batch_size)[processes.part(config.train.batch_size)]
    batch = Batch(next(iter(data.train.images.batches([chosen]))), chosen, data.train.labels[chosen])
    for step in range(30):
        began = time.perf_counter() if step in (0, 5) else began
        trainer.step(trainer.pieces(batch, step), step)
    leads = processes.leads
"""
TOLD = """
import json, resource
if globals().get("leads", True):
    print(json.dumps([time.perf_counter() - began, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024]))
"""


def measure(code: str, *arguments: object, processes: int = 1) -> dict[str, float]:
    """Run code in a fresh process, or several under torchrun; return its seconds and its peak memory in MB."""
    with tempfile.TemporaryDirectory() as folder:
        script = Path(folder, "script.py")
        script.write_text("import time" + code + TOLD)
        variables = os.environ | {"MAE_CACHE_DIR": f"{folder}/cache", "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
        start = (
            ["-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={processes}"] if processes > 1 else []
        )
        command = [sys.executable, *start, str(script), f"{folder}/work", *map(str, arguments)]
        done = subprocess.run(command, cwd=ROOT, env=variables, capture_output=True, text=True)
    if done.returncode:
        raise SystemExit(done.stderr)
    seconds, memory = json.loads(done.stdout.strip().splitlines()[-1])
    return {"seconds": seconds, "MB": memory}


def growth(name: str, code: str, sizes: list[int]) -> list[dict[str, Any]]:
    """Measure each size and print it with its growth over the one before."""
    rows: list[dict[str, Any]] = []
    for size in sizes:
        rows.append({"what": name, "size": size} | measure(code, size))
        factors = ""
        if len(rows) > 1:
            before, work = rows[-2], size / rows[-2]["size"]
            times = {key: rows[-1][key] / before[key] for key in ("seconds", "MB")}
            faster = [key for key, each in times.items() if each > LINEAR * work]
            factors = f"x {times['seconds']:.1f}, memory x {times['MB']:.2f}"
            factors += f"  grows faster than linearly: {', '.join(faster)}" if faster else ""
            rows[-1]["faster than linearly"] = faster
        print(f"{name:8}{size:10,}{rows[-1]['seconds']:10.2f} s{rows[-1]['MB']:10.0f} MB  {factors}", flush=True)
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="a tenth of everything")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    share = 10 if options.quick else 1
    rows = growth("images", IMAGES, [10_000 // share, 100_000 // share])
    rows += growth("cells", CELLS, [10, 100] if options.quick else [10, 100, 1000])
    rows += growth("trials", TRIALS, [50 // share, 500 // share])
    for processes in (1, 2):
        found = measure(STEPS, processes=processes)
        rows.append({"what": "processes", "size": processes} | found)
        print(
            f"{processes} process(es): {40 * found['seconds']:.1f} ms per step of one batch, {found['MB']:.0f} MB each"
        )
    if options.json:
        print(json.dumps({"rows": rows, "load": os.getloadavg(), "cores": os.cpu_count(), "python": sys.version}))


if __name__ == "__main__":
    main()
