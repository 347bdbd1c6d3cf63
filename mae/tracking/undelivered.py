"""Everything in a folder of runs into an MLflow store."""

from pathlib import Path

from mae.runs.directory import find_runs, probes_of
from mae.tracking.stages import deliver
from mae.tracking.store import connect, content_of, receipt
from mae.tracking.studies import deliver_studies


def deliver_all(runs_dir: Path, uri: str) -> int:
    """Deliver every stage and study that nobody works on; return how many were behind. Raises as MLflow does."""
    _, experiment = connect(uri, runs_dir)
    count = 0
    for run in find_runs(runs_dir):
        for place in [run, *probes_of(run)]:
            if not place.is_locked() and receipt(place, uri, experiment).get("seen") != content_of(place):
                deliver(place, uri, runs_dir)
                count += 1
    return count + deliver_studies(runs_dir, uri)
