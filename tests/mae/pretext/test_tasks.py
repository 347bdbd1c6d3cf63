"""What every pretext task has to hold; a new one in `PRETEXTS` is held to it without a line here."""

from dataclasses import replace
from pathlib import Path
from typing import Any, get_args

import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode
from typer.testing import CliRunner

from cli import app
from mae.config.kinds import CLIP_KINDS, VIEWED
from mae.config.pretext_sections import DenoiseConfig, PretextConfig
from mae.config.resolve import build, change
from mae.config.tree import Config
from mae.data.dataset import ImageData, load_data
from mae.errors import UserError
from mae.pretext.base import Pretext
from mae.pretext.masking import SAMPLERS
from mae.pretext.regions import REGIONS
from mae.pretext.registry import PRETEXTS, made_up_tokenizer, new_pretext
from mae.pretext.rotation import turn
from mae.probing.online import evaluate_online
from mae.runs.directory import ENCODER, RunDirectory
from mae.runs.weights import read_weights
from mae.runtime.interruption import Interrupted, StopRequest
from mae.runtime.progress import Silent
from mae.runtime.rng import generator, on_device, piece
from mae.training.loop import pretrain
from mae.training.step import Trainer
from tests.conftest import TINY
from tests.helpers.pretexts import batch_of, coloured, stored, surroundings
from tests.helpers.training import StopAfter, first_images, take_step

CPU = torch.device("cpu")
NOISES = get_args(DenoiseConfig.model_fields["noise"].annotation)
COLOUR = {"data.channels": 3, "data.image_size": 8, "data.stored_size": 10, "data.augmentation": "color_jitter"}
CONTEXT = {"model.decoder.depth": 2, "model.decoder.mixing": "convolutions", "model.decoder.fusion": [1]}
WHOLE = CONTEXT | {"model.decoder.global_token": True}
CLIPS = {"data.source": "moving_digits", "data.frames": 4, "data.stored_frames": 7}
NEEDED: dict[str, dict[str, Any]] = {
    "beit": {"target.tokenizer": "0123"},
    "colorize": {"data.channels": 3},
    **dict.fromkeys(CLIP_KINDS, CLIPS),
}
"""What a task cannot do without on the digits."""

FURTHER = {
    "mae with context": {"pretext.kind": "mae"} | WHOLE,
    "inpaint with context": {"pretext.kind": "inpaint"} | CONTEXT,
    "rotation in all four": {"pretext.kind": "rotation", "rotation.all_four": True},
    "context of few patches": {"pretext.kind": "context", "context.magnify": False},
    "jigsaw of patches": {"pretext.kind": "jigsaw", "jigsaw.pieces": "patches"},
    "colorize by regression": {"pretext.kind": "colorize", "colorize.loss": "regression", "data.channels": 3},
    "moco v3": {"pretext.kind": "moco", "moco.version": "v3"},
}
"""Variants that are held to all that tasks are, by name."""

each_task = pytest.mark.parametrize("kind", [*PRETEXTS, *FURTHER])
each_that_learns = pytest.mark.parametrize("kind", [*(kind for kind in PRETEXTS if kind != "random"), *FURTHER])


def config_of(kind: str, **more: Any) -> Config:
    more = NEEDED.get(kind, {}) | more
    if FURTHER.get(kind, {}).get("pretext.kind", kind) in VIEWED and more.get("data.augmentation") == "color_jitter":
        more |= {"data.augmentation": "random_resized_crop"}  # colours change as `views` says
    return change(build(TINY), FURTHER.get(kind, {"pretext.kind": kind}) | more)  # what does not act is left out


def make(config: Config) -> Pretext:
    torch.manual_seed(0)
    return PRETEXTS[config.pretext.kind](config, surroundings(config))


def data_of(config: Config) -> ImageData:
    if config.pretext.kind != "colorize":
        return load_data(config.data, config.run, Silent())
    return coloured(load_data(config.data.model_copy(update={"channels": 1}), config.run, Silent()))


def leaves(draws: Any) -> list[torch.Tensor]:
    found = [leaves(each) if isinstance(each, tuple) else [each] for each in draws if each is not None]
    return [leaf for each in found for leaf in each]


def test_the_tasks_are_those_that_settings_may_name() -> None:
    assert set(PRETEXTS) == set(get_args(PretextConfig.model_fields["kind"].annotation))


@each_task
def test_draws_follow_from_their_generator_and_have_a_row_per_image(kind: str) -> None:
    pretext = make(config_of(kind, **COLOUR, **{"data.flip": True}))
    first, second, other = (leaves(pretext.draw(6, generator(0, "step", step))) for step in (3, 3, 4))
    assert all(one.equal(again) for one, again in zip(first, second, strict=True))
    assert not all(one.equal(another) for one, another in zip(first, other, strict=True))
    assert {len(leaf) for leaf in first} == {6}


@each_task
def test_crops_are_the_same_under_every_task(kind: str) -> None:
    others = "video_mae" if kind in CLIP_KINDS else "mae"
    crops = [make(config_of(each)).draw(5, generator(0, "step")).crops for each in (others, kind)]
    assert all(one.equal(other) for one, other in zip(*map(leaves, crops), strict=True))


@each_that_learns
def test_the_loss_is_a_scalar_whose_gradient_reaches_the_whole_encoder(kind: str) -> None:
    config = config_of(kind, **COLOUR)
    pretext = make(config)
    losses = pretext(batch_of(stored(config, 8)), pretext.draw(8, generator(0, "step")))
    losses["loss"].backward()
    found = {name: value.detach() for name, value in losses.items()}
    assert all(value.shape == () for value in pretext.after_step(1, 2, found).values())
    for name, parameter in pretext.encoder.named_parameters():
        assert parameter.grad is not None and parameter.grad.abs().sum() > 0, name  # noqa: PT018


@each_task
def test_parts_of_a_batch_have_the_whole_batchs_loss_as_their_mean(kind: str) -> None:
    if kind == "cvrl":
        pytest.skip("its loss is of a whole batch: settings refuse pieces")
    config = config_of(kind, **COLOUR)
    if config.couples_images:  # two processes exchange what they need: see test_distributed.py
        with pytest.raises(UserError, match=r"train\.micro_batches=2: expected 1, as all images of a batch"):
            change(config, {"train.micro_batches": 2})
        return
    pretext, batch = make(config), batch_of(stored(config, 8))
    draws = pretext.draw(8, generator(0, "step"))
    whole = pretext(batch, draws)
    parts = [pretext(piece(batch, part), piece(draws, part)) for part in (slice(0, 4), slice(4, 8))]
    for name, value in whole.items():
        torch.testing.assert_close((parts[0][name] + parts[1][name]) / 2, value, rtol=1e-5, atol=1e-6)


CHOICES = ["rotation", "context", "jigsaw", "jigsaw of patches", "instance", "moco", "moco v3", "cvrl", "supervised"]


@pytest.mark.parametrize("kind", CHOICES)
def test_the_loss_at_chance_is_that_of_answers_which_are_all_alike(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    config = config_of(kind, **{"data.channels": 3, "train.batch_size": 8, "train.warmup_epochs": 0})
    of_scores = torch.nn.functional.cross_entropy
    monkeypatch.setattr(
        torch.nn.functional,
        "cross_entropy",
        lambda scores, truth: of_scores(scores.where(scores.isinf(), 0), truth),  # what is excluded stays so
    )
    pretext = make(config)
    loss = pretext(batch_of(stored(config, 8)), pretext.draw(8, generator(0, "step")))["loss"]
    assert pretext.chance_loss == pytest.approx(loss.item())


@each_that_learns
def test_the_loss_falls(kind: str) -> None:
    config = config_of(kind, **{"train.epochs": 12, "train.base_lr": 4e-3})
    if kind == "moco":  # whose loss rises as long as keys in the queue are random, which are easy: here, for a step
        config = change(config, {"moco.queue": 256, "moco.momentum": 0.9})
    data = data_of(config)
    work = Trainer(config, data, CPU, tokenizer=made_up_tokenizer(config))
    images = first_images(data)
    losses = [take_step(work, images, step).losses["loss"].item() for step in range(41)][1:]
    assert sum(losses[-5:]) < 0.95 * sum(losses[:5])


@each_that_learns
def test_a_stopped_run_ends_with_the_same_bits(kind: str, tmp_path: Path) -> None:
    def train(folder: str, stop: StopRequest) -> str:
        run = RunDirectory(tmp_path / folder)
        config = config_of(kind)
        how = config, data_of(config), run, CPU, Silent(), stop, evaluate_online
        return str(pretrain(*how, tokenizer=made_up_tokenizer(config))["weights_sha256"])

    whole = train("whole", StopRequest())
    with pytest.raises(Interrupted):
        train("parts", StopAfter(3))
    assert train("parts", StopRequest()) == whole


@each_task
def test_images_that_are_no_squares_are_pretrained_on_or_refused(kind: str) -> None:
    if kind.startswith("rotation"):
        with pytest.raises(UserError, match="rotation needs square images, not 8 x 12"):
            config_of(kind, **{"data.image_size": [8, 12]})
        return
    config = config_of(kind, **{"data.image_size": [8, 12]})
    pretext = make(config)
    assert pretext(batch_of(stored(config, 4)), pretext.draw(4, generator(0, "step")))["loss"].isfinite()


@each_task
@pytest.mark.parametrize("channels", [1, 3])
def test_a_picture_shows_every_image(kind: str, channels: int) -> None:
    if kind.startswith("colorize") and channels == 1:
        with pytest.raises(UserError, match=r"data\.channels=1: pretext\.kind=colorize predicts colours; expected 3"):
            config_of(kind, **{"data.channels": channels})
        return
    config = config_of(kind, **{"data.channels": channels})
    pretext = make(config)
    with torch.inference_mode():
        figure = pretext.picture(pretext.pictured(stored(config, 4)), pretext.draw(4, generator(0, "picture")))
    assert figure is None or len(figure.axes) % 4 == 0


@each_that_learns
def test_costs_are_counted_for_a_single_image_without_computing(kind: str) -> None:
    costs = make(config_of(kind)).cost()
    few_patches = ("mae", "video_mae", "context of few patches", "jigsaw")
    assert costs["gflops_per_image"] > costs["gflops_encoder"] > 0 or kind.startswith(few_patches)
    assert costs["parameters"] > costs["parameters_encoder"] > 0


DISTORTED = {"views.blur": 0.5, "views.solarize": [0.0, 0.2]}
VARIANTS = [
    ("mae", {"mask.sampling": sampling, "data.augmentation": augmentation})
    for sampling, augmentation in zip(
        SAMPLERS, ("random_resized_crop", "color_jitter", "fixed_crop", "none"), strict=True
    )
] + [
    ("mae", {"target.kind": "pca", "loss.region": "all", "model.encoder_mask_tokens": True}),
    ("mae", {"target.kind": "normalized_pixels"}),
    ("mae", {"target.kind": "low_pass"}),
    ("mae", WHOLE),
    ("denoise", CONTEXT),
    ("denoise", CONTEXT | {"denoise.noise": "masked_patches"}),
    ("mae", {"target.kind": "tokens", "target.tokenizer": "0123"}),
    ("moco v3", {"moco.frozen_patches": True}),
    ("moco", DISTORTED),
    *(("denoise", {"denoise.noise": noise}) for noise in NOISES),
    *(("inpaint", {"inpaint.region": region} | CONTEXT) for region in REGIONS),
    ("rotation", {"rotation.all_four": True}),
    ("context", {"context.color": "project"}),
    ("jigsaw", {"jigsaw.color": "project"}),
    ("jigsaw", {"jigsaw.pieces": "patches"}),
    ("instance", {"instance.loss": "nce", "instance.negatives": 64, "instance.proximal": 1.0}),
    ("colorize", {"colorize.loss": "regression"}),
    ("video_mae", {"target.kind": "pca", "model.decoder.fusion": [1], "model.decoder.global_token": True}),
    ("cvrl", {"views.blur": 0.5, "views.solarize": 0.5}),
    ("supervised", CLIPS),
    *((kind, {}) for kind in PRETEXTS if kind not in ("mae", "denoise", "inpaint")),
]


@pytest.mark.parametrize(("kind", "settings"), VARIANTS)
def test_a_step_on_a_gpu_mixes_no_devices_and_waits_for_nothing(kind: str, settings: dict[str, Any]) -> None:
    """On a made-up GPU: shapes and devices are followed, and reading a value on the host is an error."""
    config, gpu = config_of(kind, **COLOUR | settings), torch.device("cuda")
    real = make(config)
    batch, draws = batch_of(stored(config, 4)), real.draw(4, generator(0, "step"))
    with FakeTensorMode(allow_non_fake_inputs=True) as fake:
        fitted = {name: fake.from_tensor(value).to(gpu) for name, value in real.state_dict().items()}
        with gpu:
            pretext = type(real)(config, replace(real.surroundings, fitted=fitted))
        loss = pretext(on_device(batch, gpu), on_device(draws, gpu))["loss"]
    assert loss.device.type == "cuda"


@pytest.mark.parametrize(("kind", "settings"), VARIANTS)
def test_a_step_is_one_graph(kind: str, settings: dict[str, Any]) -> None:
    config = config_of(kind, **COLOUR | settings)
    pretext = make(config)
    batch, draws = batch_of(stored(config, 4)), pretext.draw(4, generator(0, "step"))
    torch._dynamo.reset()
    found = torch._dynamo.explain(pretext)(batch, draws)
    assert found.graph_break_count == 0, found.break_reasons


def test_the_untrained_encoder_takes_no_step_and_is_the_other_tasks_first_encoder(
    digits: ImageData, tmp_path: Path
) -> None:
    config = config_of("random", **{"train.seed": 5})
    result = pretrain(config, digits, RunDirectory(tmp_path), CPU, Silent(), StopRequest(), evaluate_online)
    assert (result["metrics"]["cost/steps"], result["metrics"]["cost/gflops_per_image"]) == (0, 0)
    kept = read_weights(tmp_path / ENCODER)
    first = new_pretext(config_of("mae", **{"train.seed": 5}), digits).encoder.state_dict()
    assert all(torch.equal(kept[name], value) for name, value in first.items())


def test_images_are_turned_counter_clockwise() -> None:
    images = torch.arange(4.0).view(1, 1, 2, 2).repeat(4, 1, 1, 1)
    assert [each.flatten().tolist() for each in turn(images, torch.arange(4))] == [
        [0, 1, 2, 3], [1, 3, 0, 2], [3, 2, 1, 0], [2, 0, 3, 1],
    ]  # fmt: skip
    assert torch.equal(turn(turn(images, torch.arange(4)), -torch.arange(4)), images)


def test_a_first_guess_of_rotations_is_no_better_than_chance() -> None:
    config = config_of("rotation")
    pretext = make(config)
    losses = pretext(batch_of(stored(config, 400)), pretext.draw(400, generator(0, "step")))
    assert losses["accuracy"].item() == pytest.approx(25, abs=11)  # 5 standard errors


def test_all_four_rotations_have_the_mean_of_their_losses() -> None:
    whole, config = make(config_of("rotation in all four", **COLOUR)), config_of("rotation", **COLOUR)
    batch, draws = batch_of(stored(config, 6)), whole.draw(6, generator(0, "step"))
    single = make(config)
    turns = [draws._replace(turns=torch.full((6,), quarter)) for quarter in range(4)]
    for name, value in whole(batch, draws).items():
        torch.testing.assert_close(value, sum(single(batch, each)[name] for each in turns) / 4)


def test_a_setting_of_another_task_is_refused() -> None:
    with pytest.raises(UserError, match=r"mask\.ratio=0\.5 has no effect: it acts with pretext\.kind=mae or denoise"):
        build({"pretext.kind": "rotation", "mask.ratio": 0.5})


def test_tasks_are_an_axis_of_a_study(tmp_path: Path) -> None:
    settings = [part for key, value in TINY.items() for part in ("--set", f"{key}={value}")]
    command = [
        "ablate",
        "--axis",
        "pretext.kind=mae,rotation,random",
        *settings,
        "--probe",
        "knn",
        "--tracking-uri",
        "none",
    ]
    result = CliRunner().invoke(app, [*command, "--runs-dir", str(tmp_path), "--workers", "1"])
    assert result.exit_code == 0, result.output
    assert "k-NN: best at" in result.output
