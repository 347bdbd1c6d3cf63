"""Codes of another run's tokenizer as the target: which they are, and what a run keeps of its tokenizer."""

import json
import math
import re
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.nn import functional as F
from typer.testing import CliRunner

from cli import app
from mae.config.fingerprint import pretrain_fingerprint
from mae.config.resolve import build, change
from mae.config.tree import Config
from mae.data.augmentation import views
from mae.data.dataset import ImageData
from mae.data.facts import DataFacts
from mae.errors import UserError
from mae.exchange.incoming import read_model
from mae.models.vit import patchify
from mae.pretext.masked_autoencoder import MaskedAutoencoder, reconstruction_loss
from mae.pretext.registry import known_tokenizer, made_up_tokenizer, new_pretext, saved_pretext
from mae.pretext.targets import Tokens
from mae.probing.online import evaluate_online
from mae.runs.directory import RunDirectory
from mae.runs.named_runs import with_whole_fingerprints
from mae.runs.tokenizer_run import tokenizer_run
from mae.runtime.interruption import Interrupted, StopRequest
from mae.runtime.progress import Silent
from mae.runtime.rng import generator
from mae.training.loop import pretrain
from mae.training.step import Trainer
from tests.conftest import TINY
from tests.helpers.pretexts import autoencoder, batch_of, stored, surroundings
from tests.helpers.training import StopAfter, first_images, take_step

CPU = torch.device("cpu")
QUICK = TINY | {"train.epochs": 1, "run.knn_every": 0}
STATISTICS: dict[str, Any] = {"mean": (0.2, 0.3, 0.4), "std": (0.6, 0.7, 0.8)}
TOKENS = {"target.kind": "tokens", "target.tokenizer": "0123456789ab"}


def config_of(**more: Any) -> Config:
    return change(build(TINY), TOKENS | more)


def made(config: Config) -> tuple[MaskedAutoencoder, Tokens]:
    pretext = autoencoder(config)
    assert isinstance(pretext.target, Tokens)
    return pretext, pretext.target


def test_the_target_is_the_codes_that_the_tokenizer_has_by_itself() -> None:
    """Images reach it as it was trained, whatever the mean and deviation of this run's images."""
    config, measured = config_of(**{"data.channels": 3}), DataFacts(**STATISTICS, class_names=(), train_images=1)
    pretext = MaskedAutoencoder(config, replace(surroundings(config), statistics=measured))
    target, images = pretext.target, torch.rand(4, 3, 8, 8)
    assert isinstance(target, Tokens)
    own = target.tokenizer.task
    own.codebook.mul_(0.1)  # near what the encoder gives before it is trained: many codes are in use
    codes = target.of_images(patchify((images - pretext.mean) / pretext.std, (2, 2)))
    assert len(codes.unique()) > 5
    assert torch.equal(codes[..., 0], own.codes((images - own.mean) / own.std))


def test_the_loss_is_the_cross_entropy_of_codes_of_hidden_patches() -> None:
    pretext, target = made(config_of())
    batch, draws = batch_of(stored(pretext.config, 8)), pretext.draw(8, generator(0, "step"))
    patches = patchify(pretext.look(views(batch.images, pretext.config.data, draws.crops)), (2, 2))
    mask = pretext.mask(draws)
    logits = pretext.predict(patches, mask)
    codes = target.of_images(patches)[..., 0].gather(1, mask.hidden)
    found = pretext(batch, draws)
    assert found["loss"].item() == pytest.approx(
        F.cross_entropy(logits.flatten(0, 1), codes.flatten()).item(), rel=1e-5
    )
    assert found["accuracy"].item() == pytest.approx(100 * (logits.argmax(2) == codes).float().mean().item())


def test_equal_logits_cost_the_logarithm_of_the_number_of_codes() -> None:
    loss = reconstruction_loss(torch.zeros(2, 3, 32), torch.randint(32, (2, 3, 1)), torch.tensor([0.5, 1.0, 1.0]))
    assert loss.item() == pytest.approx(math.log(32))


def test_predicted_codes_become_pixels_and_visible_patches_keep_theirs() -> None:
    pretext, target = made(config_of())
    images = torch.rand(3, 1, 8, 8)
    mask = pretext.mask(pretext.draw(3, generator(0, "mask")))
    patches = patchify(pretext.look(images), (2, 2))
    right = F.one_hot(target.of_images(patches)[..., 0].gather(1, mask.hidden), target.outputs).float()
    completed = pretext.shown(target.completed(right, patches, mask.hidden))
    known = patchify(target.tokenizer.images(target.tokenizer.codes(images)), (2, 2))
    expected = patchify(images, (2, 2))
    hidden = mask.hidden[..., None].expand(-1, -1, 4)
    expected = expected.scatter(1, hidden, known.gather(1, hidden))
    assert torch.allclose(patchify(completed, (2, 2)), expected, atol=1e-5)


def test_the_encoders_first_weights_are_the_same_under_every_target(digits: ImageData) -> None:
    config = config_of()
    with_tokens = new_pretext(config, digits, tokenizer=made_up_tokenizer(config))
    with_pixels = new_pretext(build(TINY), digits)
    for name, value in with_pixels.encoder.state_dict().items():
        assert torch.equal(value, with_tokens.encoder.state_dict()[name]), name


def test_training_leaves_the_tokenizer_as_it_is_and_lowers_the_loss(digits: ImageData) -> None:
    config = config_of(**{"train.epochs": 12, "train.base_lr": 4e-3})
    work = Trainer(config, digits, CPU, tokenizer=made_up_tokenizer(config))
    before = {name: value.clone() for name, value in work.pretext.target.state_dict().items()}
    images = first_images(digits)
    losses = [take_step(work, images, step).losses["loss"].item() for step in range(40)]
    assert sum(losses[-5:]) < 0.95 * sum(losses[:5])
    assert sum(losses[-5:]) / 5 < 0.9 * math.log(512)
    assert all(torch.equal(value, before[name]) for name, value in work.pretext.target.state_dict().items())


def test_micro_batches_have_the_loss_of_the_whole_batch(digits: ImageData) -> None:
    found = []
    for pieces in (1, 4):
        config = config_of(**{"train.micro_batches": pieces})
        work = Trainer(config, digits, CPU, tokenizer=made_up_tokenizer(config))
        found.append({name: value.item() for name, value in take_step(work, first_images(digits)).losses.items()})
    assert found[0] == pytest.approx(found[1], rel=1e-5)


def test_a_stopped_run_ends_with_the_same_bits(digits: ImageData, tmp_path: Path) -> None:
    config = config_of()

    def train(folder: str, stop: StopRequest) -> str:
        how = config, digits, RunDirectory(tmp_path / folder), CPU, Silent(), stop, evaluate_online
        return str(pretrain(*how, tokenizer=made_up_tokenizer(config))["weights_sha256"])

    whole = train("whole", StopRequest())
    with pytest.raises(Interrupted):
        train("parts", StopAfter(3))
    assert train("parts", StopRequest()) == whole


def test_a_finished_task_is_built_from_its_state_alone() -> None:
    pretext, _ = made(config_of())
    facts = DataFacts(mean=(0.0,), std=(1.0,), class_names=("a",), train_images=1)
    again = saved_pretext(pretext.config, facts, pretext.state_dict())
    batch, draws = batch_of(stored(pretext.config, 4)), pretext.draw(4, generator(0, "step"))
    assert again(batch, draws)["loss"].item() == pretext(batch, draws)["loss"].item()
    assert again.cost() == pretext.cost()


def test_the_tokenizer_is_counted_as_work_and_not_as_parameters() -> None:
    tokens, pixels = (autoencoder(config).cost() for config in (config_of(), build(TINY)))
    assert tokens["gflops_per_image"] > pixels["gflops_per_image"]
    assert tokens["parameters"] - pixels["parameters"] == (8 + 1) * (512 - 4)  # the decoder's last layer


def invoke(*arguments: str, runs_dir: Path, **more: Any) -> Any:
    given = [part for key, value in more.items() for part in ("--set", f"{key}={value}")]
    return CliRunner().invoke(app, [*arguments, *given, "--runs-dir", str(runs_dir), "--tracking-uri", "none"])


def pretrained(runs_dir: Path, **more: Any) -> str:
    """Return the fingerprint of a run of seconds."""
    result = invoke("pretrain", "--json", runs_dir=runs_dir, **QUICK | more)
    assert result.exit_code == 0, result.output
    return str(json.loads(result.stdout.splitlines()[-1])["run"])


@pytest.fixture
def tokenizer(runs_dir: Path) -> str:
    """A finished tokenizer's fingerprint."""
    return pretrained(runs_dir, **{"pretext.kind": "vqvae", "tokenizer.codes": 16})


def test_a_run_is_probed_shown_and_read_without_the_folder_of_its_tokenizer(
    tokenizer: str, runs_dir: Path, tmp_path: Path
) -> None:
    run = pretrained(runs_dir, **TOKENS | {"target.tokenizer": tokenizer})
    before, after = tmp_path / "before.png", tmp_path / "after.png"
    assert invoke("reconstruct", run, "--to", str(before), runs_dir=runs_dir).exit_code == 0
    shutil.rmtree(runs_dir / tokenizer)
    for command in (["reconstruct", run, "--to", str(after)], ["probe", run, "--kind", "knn"]):
        result = invoke(*command, runs_dir=runs_dir)
        assert result.exit_code == 0, result.output
    assert before.read_bytes() == after.read_bytes()
    assert read_model(runs_dir / run).pretext().cost()["parameters"] > 0


def test_however_a_tokenizer_is_named_the_run_is_the_same(tokenizer: str, runs_dir: Path) -> None:
    names = tokenizer, tokenizer[:6], str(runs_dir / tokenizer)
    assert len({pretrained(runs_dir, **TOKENS | {"target.tokenizer": name}) for name in names}) == 1


def test_another_tokenizer_makes_another_run(tokenizer: str) -> None:
    runs = {pretrain_fingerprint(config_of(**{"target.tokenizer": name}), "d") for name in (tokenizer, "f" * 12)}
    assert len(runs) == 2


def test_where_a_tokenizers_images_lay_is_no_part_of_a_run() -> None:
    facts = DataFacts(mean=(0.3,), std=(0.4,), class_names=(), train_images=1)
    here, there = (
        known_tokenizer(build(TINY | {"pretext.kind": "vqvae"} | more), facts, {}).config
        for more in ({}, {"data.source": "folder:elsewhere", "run.log_every": 7})
    )
    assert here == there


@pytest.mark.parametrize(
    ("more", "told"),
    [
        ({"target.tokenizer": "ffffff"}, "no run in .* starts with 'ffffff'"),
        ({"model.patch_size": 4}, "its model.patch_size is 2 x 2, expected 4 x 4 as here"),
        ({"data.channels": 3}, "its data.channels is 1, expected 3 as here"),
        ({"data.image_size": "[8,6]"}, "its data.image_size is 8 x 8, expected 8 x 6 as here"),
    ],
)
def test_a_tokenizer_that_does_not_fit_is_told_before_anything_is_written(
    more: dict[str, Any], told: str, tokenizer: str, runs_dir: Path
) -> None:
    before = sorted(runs_dir.iterdir())
    for command in (["pretrain"], ["ablate", "--axis", "mask.ratio=0.5,0.75"]):
        result = invoke(*command, runs_dir=runs_dir, **QUICK | TOKENS | {"target.tokenizer": tokenizer} | more)
        assert result.exit_code == 2
        assert re.search(told, result.stderr.replace("\n", " ")), result.stderr
    assert sorted(runs_dir.iterdir()) == before


def test_a_run_that_is_unfinished_or_no_tokenizer_is_refused(tokenizer: str, runs_dir: Path) -> None:
    config = config_of(**{"target.tokenizer": pretrained(runs_dir)})
    with pytest.raises(UserError, match=r"expected a run of pretext\.kind=vqvae or dvae, not mae"):
        tokenizer_run(config, runs_dir)
    (runs_dir / tokenizer / "result.json").unlink()
    with pytest.raises(UserError, match="expected a finished run in"):
        tokenizer_run(config_of(**{"target.tokenizer": tokenizer}), runs_dir)


def test_a_folder_elsewhere_is_refused(tokenizer: str, runs_dir: Path, tmp_path: Path) -> None:
    shutil.copytree(runs_dir / tokenizer, tmp_path / "elsewhere" / tokenizer)
    config = config_of(**{"target.tokenizer": str(tmp_path / "elsewhere" / tokenizer)})
    with pytest.raises(UserError, match="the folder of this one's results"):
        with_whole_fingerprints(config, runs_dir)


def test_a_tokenizer_takes_no_other_setting_away_from_a_study(tokenizer: str, runs_dir: Path) -> None:
    config = build(QUICK | {"target.tokenizer": tokenizer[:6], "igpt.side": 8}, refuse_inert=False)
    whole = with_whole_fingerprints(config, runs_dir)
    assert (whole.target.tokenizer, whole.igpt.side) == (tokenizer, 8)


def test_tokens_are_refused_without_a_tokenizer_and_where_errors_are_of_pixels() -> None:
    with pytest.raises(UserError, match=r"target\.tokenizer=unset: expected a finished run"):
        build({"target.kind": "tokens"})
    with pytest.raises(UserError, match=r"codes are predicted with pretext\.kind=mae"):
        build({"pretext.kind": "denoise"} | TOKENS)
