"""The unit of work that a worker takes: one pretraining with its probes."""

from dataclasses import dataclass
from pathlib import Path

from mae.config.fingerprint import probe_name
from mae.config.kinds import ProbeKind
from mae.config.tree import Config
from mae.runs.directory import RunDirectory


@dataclass(frozen=True)
class Job:
    """One pretraining with its probes: the unit a worker takes.

    A watched one reports every online evaluation and waits for the word whether to go on. `also` are jobs with the same
    pretraining and other probes, which are done with it. `probed_as` is what identifies the encoder as it is probed, if
    that is on other images.
    """

    label: str
    config: Config
    fingerprint: str
    kinds: tuple[ProbeKind, ...]
    watched: bool = False
    also: tuple["Job", ...] = ()
    probed_as: str = ""

    def probe_name(self, kind: ProbeKind) -> str:
        """Return the name of a probe's directory."""
        return probe_name(self.config, kind, self.probed_as or self.fingerprint)

    @property
    def probes(self) -> tuple[str, ...]:
        """The names of all probes' directories."""
        names = [job.probe_name(kind) for job in (self, *self.also) for kind in job.kinds]
        return tuple(dict.fromkeys(names))

    def stages(self, runs_dir: Path) -> list[RunDirectory]:
        """Return the directories of the pretraining and of every probe."""
        return RunDirectory(runs_dir / self.fingerprint).stages(self.probes)

    def is_done(self, runs_dir: Path) -> bool:
        """Say whether the pretraining and every probe have their results."""
        return all((stage.path / "result.json").exists() for stage in self.stages(runs_dir))

    def is_pretrained(self, runs_dir: Path) -> bool:
        """Say whether the pretraining has its result."""
        return (runs_dir / self.fingerprint / "result.json").exists()

    def unprobed(self, runs_dir: Path) -> tuple[ProbeKind, ...]:
        """Return the kinds of probes that have no result yet; those of `also` are not looked at."""
        run = RunDirectory(runs_dir / self.fingerprint)
        places = {kind: run.probe(self.probe_name(kind)).path for kind in self.kinds}
        return tuple(kind for kind, place in places.items() if not (place / "result.json").exists())
