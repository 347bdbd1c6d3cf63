"""Mutation testing: `python -m tests.mutants [MODULE ...]`, or `make mutants MODULES="mae/models/vit.py"`.

mutmut changes one thing at a time, in one module at a time, and runs those of the module's tests below that reach the
changed function; commands are not started. What no test notices is printed: it alters nothing, or a test is missing.
"""

import multiprocessing
import os
import shutil
import sys
from pathlib import Path

from mutmut.__main__ import cli, status_by_exit_code
from mutmut.configuration import config
from mutmut.mutation.data import SourceFileMutationData
from mutmut.mutation.diff_apply import get_diff_for_mutant

TESTS = {
    "mae/models/vit.py": ["mae/pretext/test_masked_autoencoder.py"],
    "mae/pretext/masking.py": ["mae/pretext/test_masking.py"],
    "mae/pretext/masked_autoencoder.py": ["mae/pretext/test_masked_autoencoder.py"],
    "mae/pretext/denoise.py": ["mae/pretext/test_denoise.py"],
    "mae/pretext/pixel_noise.py": ["mae/pretext/test_denoise.py"],
    "mae/pretext/inpaint.py": ["mae/pretext/test_inpaint.py"],
    "mae/pretext/regions.py": ["mae/pretext/test_inpaint.py"],
    "mae/pretext/discriminator.py": ["mae/pretext/test_inpaint.py"],
    "mae/pretext/targets.py": ["mae/pretext/test_targets.py"],
    "mae/data/augmentation.py": ["mae/data/test_augmentation.py"],
    "mae/training/schedule.py": ["mae/training/test_schedule.py"],
    "mae/runtime/rng.py": ["mae/runtime/test_rng.py"],
    "mae/probing/features.py": ["mae/probing/test_probes.py", "mae/probing/test_feature_memory.py"],
    "mae/probing/feature_memory.py": ["mae/probing/test_feature_memory.py", "mae/probing/test_probes.py"],
    "mae/training/step.py": ["mae/training/test_pretraining.py", "mae/training/test_training_loop.py"],
    "mae/training/loop.py": ["mae/training/test_pretraining.py", "mae/training/test_training_loop.py"],
    "mae/training/checkpoints.py": ["mae/training/test_checkpoints.py"],
    "mae/training/background_saving.py": ["mae/training/test_background_saving.py"],
    "mae/probing/linear.py": ["mae/probing/test_probes.py", "mae/probing/test_pieces.py"],
    "mae/probing/fit_checkpoints.py": ["mae/probing/test_fit_checkpoints.py"],
    "mae/probing/pieces.py": ["mae/probing/test_pieces.py", "mae/probing/test_probes.py"],
    "mae/probing/knn.py": ["mae/probing/test_probes.py", "mae/probing/test_knn_blocks.py"],
    "mae/probing/probe.py": ["mae/probing/test_probes.py"],
    "mae/probing/tuning.py": ["mae/probing/test_tuning.py", "mae/probing/test_finetune.py"],
    "mae/probing/finetune.py": ["mae/probing/test_finetune.py"],
    "mae/probing/attentive.py": ["mae/probing/test_tuning.py"],
    "mae/probing/mixing.py": ["mae/probing/test_mixing.py"],
    "mae/probing/subject.py": ["mae/probing/test_probes.py", "mae/probing/test_few_labels.py"],
    "mae/config/fingerprint.py": [
        "mae/config/test_fingerprint.py",
        "mae/config/test_config.py",
        "mae/probing/test_probes.py",
    ],
    "ablations/studies/plan.py": ["ablations/studies/test_studies.py"],
    "ablations/sweeps/ask_and_tell.py": ["ablations/sweeps/test_asking_and_telling.py"],
    "analysis/statistics/intervals.py": ["analysis/statistics/test_statistics.py"],
    "analysis/statistics/additive_model.py": [
        "analysis/statistics/test_additive_model.py",
        "analysis/statistics/test_comparisons.py",
    ],
    "analysis/statistics/comparisons.py": ["analysis/statistics/test_comparisons.py"],
    "analysis/statistics/multivariate_t.py": ["analysis/statistics/test_multivariate_t.py"],
}

SAID = Path("mutants/said.txt")


def mutate(module: str) -> None:
    """Run mutmut on one module; its settings are in pyproject.toml, and all that it says lands in `SAID`."""
    said = os.open(SAID, os.O_WRONLY | os.O_CREAT)
    os.dup2(said, 1)
    os.dup2(said, 2)
    config().only_mutate = [module]
    config().pytest_add_cli_args_test_selection = [f"tests/{name}" for name in TESTS[module]]
    cli(["run", "--max-children", "1"], standalone_mode=False)


def judge(module: str) -> str:
    """Print what was not noticed, and return the module's line of the summary."""
    found = SourceFileMutationData(path=Path(module))
    found.load()
    status = {name: status_by_exit_code[code] for name, code in found.exit_code_by_key.items()}
    missed = [name for name in status if status[name] not in {"killed", "timeout", "segfault"}]
    for name in missed:
        changes = [line for line in get_diff_for_mutant(name, path=module).splitlines()[2:] if line[:1] in "+-"]
        print(f"\n{name}: {status[name]}", *changes, sep="\n")
    noticed, late = len(status) - len(missed), list(status.values()).count("timeout")
    return f"{module:26}{len(status):8}{noticed:8}{late:8}{noticed / len(status):8.1%}"


if __name__ == "__main__":
    os.environ["OMP_NUM_THREADS"] = "1"
    summary = [f"{'module':26} mutants noticed timeout   share"]
    if unknown := set(sys.argv[1:]) - TESTS.keys():
        sys.exit(f"{', '.join(unknown)}: expected some of {', '.join(TESTS)}")
    for module in sys.argv[1:] or TESTS:
        shutil.rmtree(SAID.parent, ignore_errors=True)
        SAID.parent.mkdir()
        run = multiprocessing.get_context("fork").Process(target=mutate, args=(module,))
        run.start()
        run.join()
        if run.exitcode:
            sys.exit(f"{module}: mutmut stopped. Do its tests ({', '.join(TESTS[module])}) pass? See {SAID}")
        summary.append(judge(module))
    print("", *summary, sep="\n")
