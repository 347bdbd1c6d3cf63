"""What people say of a run: a name, a note, tags. They are in no fingerprint, and may be given at any time.

They have a file of their own, `notes.json`: the record belongs to the process that works on the run.
"""

from dataclasses import dataclass

from pydantic import BaseModel, ValidationError

from mae.errors import UserError
from mae.runs.directory import RunDirectory

FILE = "notes.json"
LONGEST_NAME, LONGEST_TAG = 100, 50


class Notes(BaseModel):
    """A run's own name, "" where it has none, a note of any length, and tags."""

    name: str = ""
    note: str = ""
    tags: tuple[str, ...] = ()


@dataclass(frozen=True)
class GivenNotes:
    """What is to be changed: None leaves it as it is, an empty text takes it away.

    Raises `UserError` for a name or tag that cannot be shown in a line.
    """

    name: str | None = None
    note: str | None = None
    tags: tuple[str, ...] | None = None

    def __post_init__(self) -> None:
        if self.name is not None:
            _check("--name", self.name, LONGEST_NAME)
        for tag in self.tags or ():
            _check("--tag", tag, LONGEST_TAG)
            if "," in tag:
                raise UserError(f"--tag {tag!r}: expected one tag, without a comma; give --tag again for another")

    @property
    def any(self) -> bool:
        """Whether there is anything to change."""
        return (self.name, self.note, self.tags) != (None, None, None)


def _check(option: str, text: str, longest: int) -> None:
    if len(text) > longest or not (text.isprintable() and text == text.strip()):
        raise UserError(f"{option} {text!r}: expected at most {longest} printable characters, without spaces around")


def read_notes(run: RunDirectory) -> Notes:
    """Return what is said of a run; nothing where the file is missing or damaged, as it decides nothing."""
    try:
        return Notes.model_validate_json((run.path / FILE).read_bytes())
    except (OSError, ValidationError):
        return Notes()


def take_notes(run: RunDirectory, given: GivenNotes) -> Notes:
    """Change what is said of a run; return all that is said now."""
    notes = read_notes(run)
    if not given.any:
        return notes
    changes = {key: value for key, value in vars(given).items() if value is not None}
    if given.tags is not None:
        changes["tags"] = tuple(dict.fromkeys(tag for tag in given.tags if tag))
    notes = notes.model_copy(update=changes)
    run.write_text(FILE, notes.model_dump_json(indent=2) + "\n")
    return notes


def named(runs: list[RunDirectory], name: str) -> list[RunDirectory]:
    """Return the runs whose own name is `name`."""
    return [run for run in runs if read_notes(run).name == name]
