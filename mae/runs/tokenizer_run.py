"""The finished run whose codes other runs predict: `target.tokenizer` names it."""

from pathlib import Path

from mae.config.resolve import change, resolve
from mae.config.tree import TOKENIZERS, Config
from mae.errors import UserError
from mae.runs.catalogue import find_run
from mae.runs.directory import RunDirectory

SAME = ("data.image_size", "data.channels", "model.patch_size")
"""What a run and its tokenizer have to agree on, so that there is a code for each patch."""


def with_whole_fingerprint(config: Config, runs_dir: Path) -> Config:
    """Return a config that names its tokenizer, if it has one, by the whole fingerprint: that says all, anywhere.

    `UserError` if what it gives is neither the start of one nor a run's folder in `runs_dir`.
    """
    given = config.target.tokenizer
    if given is None:
        return config
    path = Path(given)
    if path.is_dir() and len(path.parts) > 1:
        if path.resolve().parent != runs_dir.resolve():
            raise UserError(f"target.tokenizer={given}: expected a run in {runs_dir}, the folder of this one's results")
        given = path.resolve().name
    return change(config, {"target.tokenizer": find_run(runs_dir, given).path.name}, refuse_inert=False)


def tokenizer_run(config: Config, runs_dir: Path) -> RunDirectory | None:
    """Return the run of a config's tokenizer, None if it has none.

    `UserError` if it is not there or not finished, or if its codes are not those of this config's patches.
    """
    name = config.target.tokenizer
    if name is None:
        return None
    run = RunDirectory(runs_dir / name)
    if run.result() is None:
        raise UserError(
            f"target.tokenizer={name}: expected a finished run in {runs_dir}; pretrain it there first, with "
            f"pretext.kind={' or '.join(TOKENIZERS)}"
        )
    its = resolve(file=run.path / "config.toml")
    if its.pretext.kind not in TOKENIZERS:
        raise UserError(
            f"target.tokenizer={name}: expected a run of pretext.kind={' or '.join(TOKENIZERS)}, not {its.pretext.kind}"
        )
    for key in SAME:
        section, leaf = key.split(".")
        own, other = (getattr(getattr(each, section), leaf) for each in (config, its))
        if own != other:
            raise UserError(f"target.tokenizer={name}: its {key} is {_words(other)}, expected {_words(own)} as here")
    return run


def _words(value: int | tuple[int, int]) -> str:
    return f"{value[0]} x {value[1]}" if isinstance(value, tuple) else str(value)
