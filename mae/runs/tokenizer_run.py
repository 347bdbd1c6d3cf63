"""The finished run whose codes other runs predict: `target.tokenizer` names it."""

from pathlib import Path

from mae.config.kinds import TOKENIZERS
from mae.config.tree import Config
from mae.errors import UserError
from mae.runs.directory import RunDirectory
from mae.runs.named_runs import check_same, finished_run

SAME = ("data.image_size", "data.channels", "model.patch_size")
"""What a run and its tokenizer have to agree on, so that there is a code for each patch."""


def tokenizer_run(config: Config, runs_dir: Path) -> RunDirectory | None:
    """Return the run of a config's tokenizer, None if it has none.

    `UserError` if it is not there or not finished, or if its codes are not those of this config's patches.
    """
    name, kinds = config.target.tokenizer, " or ".join(TOKENIZERS)
    if name is None:
        return None
    key = "target.tokenizer"
    run, its = finished_run(key, name, runs_dir, f"pretrain it there first, with pretext.kind={kinds}")
    if its.pretext.kind not in TOKENIZERS:
        raise UserError(f"{key}={name}: expected a run of pretext.kind={kinds}, not {its.pretext.kind}")
    check_same(key, name, config, its, SAME)
    return run
