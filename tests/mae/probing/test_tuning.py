import math
import signal
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from mae.config.kinds import ProbeKind
from mae.config.resolve import build
from mae.config.tree import Config
from mae.data.dataset import ImageData, load_data
from mae.errors import SettingsError
from mae.pipeline import Workplace, run_pretraining, run_probes
from mae.pretext.registry import new_pretext
from mae.probing import fit_checkpoints, tuning
from mae.probing.attentive import Attentive
from mae.probing.finetune import Tuned
from mae.probing.probe import PREDICT, probe
from mae.probing.subject import Setup, Subject, holdout, learned_from
from mae.runs.directory import RunDirectory
from mae.runs.metrics import LOSS
from mae.runtime.interruption import Interrupted, StopRequest
from mae.runtime.progress import Silent
from mae.training import checkpoints
from tests.conftest import TINY
from tests.helpers.commands import Forked

CPU = torch.device("cpu")
SMALL = TINY | {
    "probe.labels_per_class": 8,
    "probe.attentive.epochs": 3,
    "probe.attentive.batch_size": 16,
    "probe.finetune.epochs": 3,
    "probe.finetune.batch_size": 16,
    "probe.finetune.drop_path": 0.2,
    "probe.finetune.mixup": 0.8,
    "probe.finetune.cutmix": 1.0,
    "probe.finetune.randaugment": 9.0,
    "probe.finetune.erasing": 0.5,
    "probe.finetune.flip": True,
}
STEPS = 4
"""Of an epoch: of 80 images 8 are held out, and of the other 72 eight are left over."""

TUNED: tuple[ProbeKind, ...] = ("attentive", "partial", "finetune")


@pytest.fixture
def _often(monkeypatch: pytest.MonkeyPatch) -> None:
    """Save after every step."""
    monkeypatch.setattr(fit_checkpoints, "LEAST_SECONDS", 0)


def untrained(config: Config, digits: ImageData) -> Subject:
    return Subject("untrained", "01", new_pretext(config, digits))


class StopAfter(StopRequest):
    """Asks to stop once so many steps are done."""

    def __init__(self, steps: int, monkeypatch: pytest.MonkeyPatch) -> None:
        super().__init__()
        take = tuning.take_step

        def counted(*arguments: Any) -> None:
            take(*arguments)
            self.number = signal.SIGTERM if arguments[-1] + 1 == steps else 0

        monkeypatch.setattr(tuning, "take_step", counted)


def fitted(kind: ProbeKind, folder: Path, stop: StopRequest | None = None) -> tuple[torch.Tensor, list[Any]]:
    """Return the logits' classes for the test images and the curves of a fit on the digits."""
    config = build(SMALL)
    digits, run = load_data(config.data, config.run, Silent()), RunDirectory(folder)
    folder.mkdir(exist_ok=True)
    setup = Setup(config, digits, CPU, Silent(), stop or StopRequest(), run)
    predicted, _ = PREDICT[kind](untrained(config, digits), setup)
    return predicted, [(point["step"], point["metrics"]) for point in run.read_metrics()]


def last_weights(folder: Path) -> dict[str, torch.Tensor]:
    state = checkpoints.latest(folder / "checkpoints", lambda message: None)
    assert state is not None
    weights: dict[str, torch.Tensor] = state["module"]
    return weights


def same(first: dict[str, torch.Tensor], second: dict[str, torch.Tensor]) -> bool:
    return all(torch.equal(first[name], second[name]) for name in first)


@pytest.mark.usefixtures("_often")
@pytest.mark.parametrize(("kind", "steps"), [("finetune", 2), ("finetune", STEPS), ("attentive", 6), ("partial", 5)])
def test_a_fit_that_was_stopped_ends_with_the_same_bits_and_curves(
    kind: ProbeKind, steps: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch, pytest.raises(Interrupted):
        fitted(kind, tmp_path / "stopped", StopAfter(steps, patch))
    assert checkpoints.checkpoint(tmp_path / "stopped/checkpoints", steps).exists()
    again, whole = fitted(kind, tmp_path / "stopped"), fitted(kind, tmp_path / "whole")
    assert same(last_weights(tmp_path / "stopped"), last_weights(tmp_path / "whole"))
    assert again[1] == whole[1]
    assert [step for step, _ in whole[1]] == [STEPS, 2 * STEPS, 3 * STEPS]


def test_a_fit_that_is_asked_to_stop_saves_its_state_after_the_batch_it_is_at(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch, pytest.raises(Interrupted):
        fitted("finetune", tmp_path, StopAfter(2, patch))
    assert [path.name for path in (tmp_path / "checkpoints").iterdir()] == ["step-00000002.pt"]


def test_points_of_a_curve_after_the_last_checkpoint_are_measured_again(tmp_path: Path) -> None:
    RunDirectory(tmp_path).append_metrics(STEPS, {LOSS: 9.0})
    _, curve = fitted("attentive", tmp_path)
    assert [step for step, _ in curve] == [STEPS, 2 * STEPS, 3 * STEPS]


def fit_slowly(folder: Path) -> None:
    """Fit in a process of its own, so slowly that it can be killed on the way."""
    fit_checkpoints.LEAST_SECONDS = 0
    take = tuning.take_step

    def slowly(*arguments: Any) -> None:
        time.sleep(0.1)
        take(*arguments)

    tuning.take_step = slowly
    fitted("finetune", folder)


@pytest.mark.usefixtures("_often")
def test_a_fit_that_was_killed_ends_with_the_same_bits(tmp_path: Path) -> None:
    folder = tmp_path / "killed"
    process = Forked(fit_slowly, folder)
    while not checkpoints.checkpoint(folder / "checkpoints", STEPS + 1).exists():
        assert process.lives()
        time.sleep(0.005)
    process.send(signal.SIGKILL)
    assert process.code() == -signal.SIGKILL
    assert not checkpoints.checkpoint(folder / "checkpoints", 3 * STEPS).exists()
    fitted("finetune", folder)
    fitted("finetune", tmp_path / "whole")
    assert same(last_weights(folder), last_weights(tmp_path / "whole"))


@pytest.mark.parametrize("kind", TUNED)
def test_a_fit_follows_from_the_probes_seed_whatever_was_drawn_before_and_leaves_others_draws_alone(
    kind: ProbeKind, digits: ImageData, tmp_path: Path
) -> None:
    config, found = build(SMALL), []
    for drawn, seed in ((0, 0), (3, 0), (0, 1)):
        subject = untrained(config, digits)
        torch.manual_seed(drawn)
        expected = torch.Generator().set_state(torch.get_rng_state())
        seeded = config.model_copy(update={"probe": config.probe.model_copy(update={"seed": seed})})
        run = RunDirectory(tmp_path / f"{drawn}{seed}")
        run.path.mkdir()
        probe(kind, subject, Setup(seeded, digits, CPU, Silent()), run)
        assert torch.equal(torch.rand(1), torch.rand(1, generator=expected))
        found.append([point["metrics"][LOSS] for point in run.read_metrics()])
    assert found[0] == found[1] != found[2]


def test_images_that_are_held_out_are_not_learned_from(digits: ImageData, tmp_path: Path) -> None:
    config, losses = build(SMALL), []
    learned = learned_from(digits.train.labels, config.probe)
    held, rest = holdout(len(learned), config.probe)
    for name, black in (("all", held[:0]), ("without held out", held), ("without others", rest[:20])):
        data = replace(digits, train=replace(digits.train, images=Hidden(digits, learned[black])))
        run = RunDirectory(tmp_path / name)
        run.path.mkdir()
        probe("finetune", untrained(config, digits), Setup(config, data, CPU, Silent()), run)
        losses.append([point["metrics"][LOSS] for point in run.read_metrics()])
    assert losses[0] == losses[1] != losses[2]


class Hidden:
    """The training images, those at some indexes black."""

    def __init__(self, digits: ImageData, black: torch.Tensor) -> None:
        self.images, self.black = digits.train.images, black

    def batches(self, indexes: Any) -> Any:
        for chosen, batch in zip(indexes, self.images.batches(indexes), strict=True):
            yield batch.masked_fill(torch.isin(chosen, self.black)[:, None, None, None], 0)


@pytest.mark.parametrize(
    ("kind", "settings", "free", "times"),
    [
        ("attentive", {}, 1e9, 1 + 80),  # one to see how large it is
        ("attentive", {}, 0, 1 + 3 * (64 + 8) + 8),
        ("partial", {"probe.finetune.augment": False}, 1e9, 1 + 80),
        ("partial", {"probe.finetune.augment": True}, 1e9, 3 * (64 + 8) + 8),
    ],
)
def test_what_is_frozen_is_computed_once_where_nothing_changes_and_memory_has_room(
    kind: ProbeKind,
    settings: dict[str, Any],
    free: float,
    times: int,
    digits: ImageData,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """In images; of test images as many as there are come on top."""
    monkeypatch.setattr(tuning, "free_memory", lambda device: free)
    config, seen = build({key: value for key, value in SMALL.items() if "finetune" not in key}
                         | {"probe.finetune.epochs": 3, "probe.finetune.batch_size": 16} | settings), [0]  # fmt: skip
    for learner in (Attentive, Tuned):
        monkeypatch.setattr(learner, "front", counting(learner.front, seen))
    probe(kind, untrained(config, digits), Setup(config, digits, CPU, Silent()))
    assert seen[0] == times + len(digits.test.labels)


def counting(front: Callable[..., torch.Tensor], seen: list[int]) -> Callable[..., torch.Tensor]:
    def counted(learner: Any, images: torch.Tensor) -> torch.Tensor:
        seen[0] += len(images)
        return front(learner, images)

    return counted


def test_a_loss_that_is_not_finite_ends_the_fit_and_says_so(digits: ImageData) -> None:
    config = build(SMALL | {"probe.finetune.base_lr": 1e30})
    with pytest.raises(SettingsError, match=r"fine-tuning, untrained: the loss is not finite in epoch \d; a lower"):
        probe("finetune", untrained(config, digits), Setup(config, digits, CPU, Silent()))


def test_more_patches_than_queries_tell_the_attentive_probe_what_their_mean_does_not(digits: ImageData) -> None:
    """Of two classes, one has a patch that stands out: the mean of the patches is the same."""
    draws = torch.Generator().manual_seed(0)
    patches, labels = 0.1 * torch.randn(400, 8, 16, generator=draws), torch.arange(400) % 2
    place = torch.randint(8, (400,), generator=draws)
    patches[torch.arange(400), place, 0] += 4.0 * labels
    patches -= patches.mean(1, keepdim=True)
    config = build(TINY).probe.attentive
    learner = Attentive(new_pretext(build(TINY), digits), None, 16, 2, config)
    optimizer = torch.optim.AdamW(learner.groups(), lr=1e-2)
    targets = torch.eye(2)[labels]
    for step in range(60):
        tuning.take_step(learner, optimizer, patches[:300], targets[:300], 1, 0, step)
    predicted = tuning.predict(learner, iter([patches[300:]]))
    assert (predicted == labels[300:]).float().mean() > 0.9


def test_a_run_is_fine_tuned_beside_an_untrained_encoder_and_without_raw_pixels(tmp_path: Path) -> None:
    config = build(SMALL | {"train.epochs": 1, "probe.kinds": TUNED, "run.picture_every": 0})
    where = Workplace(tmp_path, "none", CPU, Silent(), StopRequest())
    metrics = run_probes(run_pretraining(config, where), config, where)
    assert {name for name in metrics if name.endswith("top1")} == {
        f"{kind}/{each}"
        for kind in TUNED
        for each in ("top1", "holdout_top1", "untrained_top1", "untrained_holdout_top1")
    }
    assert all(math.isfinite(value) for value in metrics.values())


@pytest.mark.parametrize("key", ["randaugment", "erasing", "mixup", "cutmix"])
def test_every_augmentation_of_the_recipe_changes_what_is_learned_from(key: str, digits: ImageData) -> None:
    def seen(strength: float) -> torch.Tensor:
        config = build(TINY | {f"probe.finetune.{key}": strength})
        setup = Setup(config, digits, CPU, Silent())
        learner = Tuned(
            new_pretext(config, digits).encoder, lambda images: images, 2, "patch_mean", 10, config.probe.finetune
        )
        examples = tuning.Examples(learner, setup, config.probe.finetune)
        return next(examples.to_learn([torch.arange(16)], epoch=0, first=0))[0]

    assert not torch.equal(seen(1.0), seen(0.0))
