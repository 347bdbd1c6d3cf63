"""What `run` and `probe` tell of a probed run."""

from rich.table import Table

from mae.command_line.options import named_folder
from mae.command_line.output import Output
from mae.config.resolve import flatten
from mae.config.tree import Config
from mae.pipeline import Workplace, run_probes
from mae.probing.kinds import probe_label
from mae.runs.directory import RunDirectory
from mae.runs.metrics import STEPS
from mae.runs.probe_settings import own_settings


def say_not_probed(run: RunDirectory, output: Output) -> None:
    """Say why a run has no probes, and how it would get some."""
    name = run.path.name
    why = "not probed, as its images have no labels"
    where = named_folder(run.path.parent)
    advice = f"with labelled images: mae-cli probe {name} --set probe.source=folder:OTHER{where}"
    output.say(f"run {name} is finished: {run.path}; {why}; {advice}")
    output.result({"run": name, "metrics": {}, "not_probed": "no labels"})


def probe_and_print(run: RunDirectory, config: Config, where: Workplace, output: Output) -> None:
    """Probe a run; print the table of its probes, what they say, and what one may do next."""
    metrics = run_probes(run, config, where)
    if not where.processes.leads:
        return
    table = Table("probe", "pretrained", "untrained", "raw pixels", title="test top-1, % (95 % interval)")
    settings = flatten(config.model_dump(mode="json"))
    for kind in config.probe.kinds:
        cells = []
        for who in ("", "untrained_", "pixels_"):
            if f"{kind}/{who}top1" not in metrics:  # raw pixels, of a probe that needs an encoder
                cells.append("")
                continue
            top1, low, high = (metrics[f"{kind}/{who}{name}"] for name in ("top1", "low", "high"))
            cells.append(f"{top1:.2f} ({low:.2f} to {high:.2f})")
        own = own_settings(settings, kind).split(" ")
        table.add_row("\n".join([kind, *own]).rstrip(), *cells)
    output.console.print(table)
    for kind in config.probe.kinds:
        output.say(_against_untrained(kind, metrics))
    if not any(_gains(kind, metrics) for kind in config.probe.kinds) and (steps := run.result()["metrics"].get(STEPS)):
        output.say(
            f"the encoder was trained for {steps:,.0f} steps: more epochs (train.epochs), or more images, may do"
        )
    output.say(f"run {run.path.name}: {run.path}")
    folder = named_folder(run.path.parent)
    draw = f"mae-cli reconstruct {run.path.name}{folder}; " if config.pretext.kind == "mae" else ""
    output.say(f"next: {draw}mae-cli runs{folder}; mae-cli ui{folder}; other seeds: --set train.seed=1")
    output.result({"run": run.path.name, "metrics": metrics})


def _gains(kind: str, metrics: dict[str, float]) -> bool:
    return metrics[f"{kind}/low"] > metrics[f"{kind}/untrained_high"]


def _against_untrained(kind: str, metrics: dict[str, float]) -> str:
    """Return in a line whether the interval of a probe lies apart from that of the untrained encoder."""
    if _gains(kind, metrics):
        found = "better than its untrained encoder"
    elif metrics[f"{kind}/high"] < metrics[f"{kind}/untrained_low"]:
        found = "worse than its untrained encoder"
    else:
        found = "not told apart from its untrained encoder"
    return f"{probe_label(kind)}: {found} (95 % intervals over test images)"
