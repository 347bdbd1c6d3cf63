"""What studies there are, their cells, and what they would cost, on the terminal."""

from typing import Any

from rich.box import SIMPLE_HEAD
from rich.table import Table

from ablations.execution.executor import Executor
from ablations.execution.local_pool import local_slots
from ablations.studies.own import OWN
from ablations.studies.paper import STUDIES
from ablations.studies.plan import all_jobs, notes_on, told_done
from ablations.studies.run_studies import make_plans, named_study
from ablations.studies.study import plan_cells, possible
from ablations.studies.study_file import to_toml
from mae.command_line.options import Options
from mae.command_line.output import Output
from mae.config.resolve import spelled
from mae.config.tree import Config
from mae.errors import UserError
from mae.runs.study_record import find_studies
from mae.runtime.progress import duration


def list_studies(options: Options, output: Output, base: Config, seeds: int) -> None:
    """Print the studies there are on `base`, the user's own among them, and how much of each is still to be trained."""
    studies = [*STUDIES.values(), *OWN.values()]
    plans = make_plans(studies, base, seeds, options.runs_dir, [], output.progress, aloud=False)
    names = {plan.record.name for plan in plans}
    own = [record for _, record in find_studies(options.runs_dir) if record.name not in names]
    counts = [len(plan.missing(options.runs_dir)) for plan in plans] + [None] * len(own)
    table = Table("study", "paper", "question", "cells", "to train")
    rows = []
    for record, missing in zip([*(plan.record for plan in plans), *own], counts, strict=True):
        table.add_row(
            record.name, record.source, record.question, str(len(record.cells)), "" if missing is None else str(missing)
        )
        cells = [cell.name for cell in record.cells]
        rows.append({"study": record.name, "question": record.question, "cells": cells, "missing": missing})
    output.console.print(table)
    if own:
        output.console.print(f"without a number to train: studies of your own that {options.runs_dir} has")
    for plan in plans:
        if plan.left_out:
            name = plan.record.name
            gone = ", ".join(plan.left_out)
            output.say(f"left out on this base config: {name}: {gone} (`mae-cli ablate list {name}` says why)")
    output.console.print("`mae-cli ablate list STUDY` shows its cells")
    output.result({"studies": rows})


def show_cells(base: Config, name: str, as_toml: bool, output: Output) -> None:
    """Print a study's cells, or the file that `--file` takes."""
    study = named_study(name)
    file, planned = to_toml(study, base), plan_cells(study, base)
    cells = [each.record for each in planned]
    notes = [*notes_on(name, planned, possible(study, study.base(base))[1])]
    if as_toml:
        output.say(file, end="")
    else:
        table = Table("cell", "settings", "the paper's", box=SIMPLE_HEAD, title=f"{study.question} {study.source}")
        for cell in cells:
            settings = ", ".join(f"{key}={spelled(value)}" for key, value in cell.overrides.items()) or "the base's"
            figures = ", ".join(f"{kind} {value:g}" for kind, value in cell.paper.items())
            table.add_row(cell.name + (" *" if cell.is_default else ""), settings, figures)
        output.console.print(table)
        output.console.print("* the default")
        for note in notes:
            output.say(note)
    output.result({"study": name, "toml": file, "cells": [cell.model_dump() for cell in cells], "notes": notes})


def print_forecast(
    plans: Any, prospects: list[dict[str, Any]], options: Options, who: Executor, output: Output
) -> None:
    """Print the cost of what is missing of the trainings of `plans`, on this machine."""
    if who.kind != "local":
        raise UserError("--dry-run measures on this machine: give --workers N and leave --executor out")
    jobs = all_jobs(plans)
    missing = [job for job in jobs if not job.is_done(options.runs_dir)]
    if missing:
        who.reach()
        who.prepare(output.progress.say)
    from ablations.studies.forecast import fit_on_a_gpu, forecast, makespan

    slots = local_slots(who.device, who.workers, who.per_gpu, options.runs_dir)
    costs = forecast(missing, [job for job in jobs if job not in missing], slots, options.runs_dir, output.progress)
    table = Table("training", "GFLOPs per image", "time", "disk MB", box=SIMPLE_HEAD)
    for cost in costs:
        table.add_row(cost.label, f"{cost.gflops:.3g}", duration(cost.seconds), f"{cost.disk / 1e6:.0f}")
    output.console.print(table)
    seconds, disk = makespan([cost.seconds for cost in costs], len(slots)), sum(cost.disk for cost in costs)
    output.say(
        f"{told_done(jobs, options.runs_dir)}; about {duration(seconds)} with {len(slots)} "
        f"worker(s), {disk / 1e9:.2g} GB: steps, online evaluations, probes with their baselines "
        "(once, in the first training that needs them); decoding the images once is not counted"
    )
    if together := fit_on_a_gpu(costs):
        output.console.print(f"{together} such training(s) fit into a GPU's memory at a time: --per-gpu {together}")
    trainings = [cost.__dict__ for cost in costs]
    output.result({"trainings": trainings, "seconds": seconds, "disk": disk, "prospects": prospects})
