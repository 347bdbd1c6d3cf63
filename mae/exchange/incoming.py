"""From a checkpoint to a model of ours: names by the tables of `naming`, settings by shapes and what the file tells."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from math import isqrt, prod
from pathlib import Path

import torch
from timm.layers import resample_abs_pos_embed
from torch import Tensor

from mae.config.fingerprint import pretrain_fingerprint
from mae.config.presets import Overrides
from mae.config.resolve import build, change, parse_setting, resolve
from mae.config.tree import Config
from mae.data.facts import DataFacts, facts_of
from mae.errors import UserError
from mae.exchange.files import Content, read_checkpoint, told
from mae.exchange.kept_patches import keeping_as_officially
from mae.exchange.naming import (
    CLASSIFIERS,
    DECODER_HEADS,
    ENCODER_HEADS,
    IMAGENET,
    SIZES,
    State,
    from_hugging_face,
    is_hugging_face,
    is_ours,
    split,
)
from mae.models.encoders import encoder_of
from mae.models.vit import Size, sincos_positions
from mae.pretext.autoencoder import build_decoder
from mae.pretext.base import Pretext
from mae.pretext.registry import saved_pretext
from mae.runs.directory import ENCODER, PRETEXT, RunDirectory
from mae.runs.weights import read_weights, weights_digest

NO_IMAGES = "none"
"""The `data.source` of a model that came without its images."""

ENCODER_POSITIONS, DECODER_POSITIONS = "pos_embed", "decoder.decoder_pos_embed"


@dataclass(frozen=True)
class Model:
    """A model read from elsewhere: its config, its weights, and what it has to know of its training images.

    `rest` is its pretext task's state without the encoder, empty if there is an encoder only. `found` says in words
    what was read, `notes` what a user should know. With `cuts_off` visible patches are counted as in the official code.
    """

    config: Config
    facts: DataFacts
    encoder: State
    rest: State
    found: str
    notes: tuple[str, ...]
    cuts_off: bool

    @property
    def state(self) -> State:
        """All weights, as the pretext task has them."""
        return {f"encoder.{name}": value for name, value in self.encoder.items()} | self.rest

    @property
    def digest(self) -> str:
        """SHA-256 of the weights."""
        return weights_digest(self.state)

    @property
    def fingerprint(self) -> str:
        """What identifies it: weights and settings, so that importing twice gives the same run."""
        return pretrain_fingerprint(self.config, self.digest)

    @property
    def described(self) -> str:
        """What was read, and its sizes: `official MAE release with decoder: ViT-B/16, 224 px`."""
        return f"{self.found}: {size_in_words(self.config)}"

    def pretext(self) -> Pretext:
        """Return the task with its weights; without the rest, one that can be neither trained nor shown."""
        return saved_pretext(self.config, self.facts, self.state)


def size_in_words(config: Config) -> str:
    """Return what people call an encoder: `ViT-B/16, 224 px`."""
    encoder, patch, image = config.model.encoder, config.model.patch_size, config.data.image_size
    sides = [str(size[0]) if size[0] == size[1] else f"{size[0]} x {size[1]}" for size in (patch, image)]
    size = SIZES.get((encoder.dim, encoder.depth))
    name = f"ViT-{size}" if size else f"ViT {encoder.dim} x {encoder.depth}"
    if config.pixel_tokens:
        return f"{name} of {config.grid[0]} x {config.grid[1]} pixels in {config.colors} colours, {sides[1]} px"
    return f"{name}/{sides[0]}, {sides[1]} px"


def read_model(path: Path, settings: Sequence[str] = ()) -> Model:
    """Return the model in a checkpoint, a Hugging Face folder or a run's folder; `settings` are `dotted.key=value`.

    `UserError` if it is none of these or no plain ViT, or if no setting says what shapes do not tell.
    """
    own = path.parent if path.name == ENCODER else path
    if (own / "config.toml").exists() and (own / ENCODER).exists():
        return _own_run(RunDirectory(own), settings)
    content = read_checkpoint(path)
    state, found = _under_our_names(path, content)
    given = _of_parts_there(state, content.settings) | dict(map(parse_setting, settings))
    assumed, notes = _assumed(path, state, given)
    grid, learned = _grid(state[ENCODER_POSITIONS])
    sizes = _sizes(path, state, given)
    if grid is not None:
        sides = zip(grid, sizes["model.patch_size"], strict=True)
        sizes["data.image_size"] = [count * side for count, side in sides]
    elif "data.image_size" not in given:
        count = state[ENCODER_POSITIONS].shape[1] - 1
        raise UserError(
            f"{path}: {count} positions of patches do not tell the image's sides; {_ask('data.image_size', '[H,W]')}"
        )
    config = build({"data.source": NO_IMAGES} | assumed | sizes | given)
    if learned:
        notes.append("its positions are learned ones; they are kept, and fixed")
    cuts_off = bool(split(state)[1]) and not content.ours
    if cuts_off and (same := keeping_as_officially(config)) != config:
        ratio, config = config.mask.ratio, same
        notes.append(
            f"mask.ratio={ratio:g} is {same.mask.ratio:.6g} here, where {same.kept_patches} patches stay visible too"
        )
    if learned and prod(config.grid) == state[ENCODER_POSITIONS].shape[1] - 1:
        grid = config.grid  # as the user says: learned ones could be of any
    facts = DataFacts(mean=config.data.mean or (), std=config.data.std or (), class_names=(), train_images=0)
    encoder, rest = _fitted(path, config, *split(state), grid or config.grid, notes)
    return Model(config, facts, encoder, rest, found, tuple(notes), cuts_off)


def _own_run(run: RunDirectory, settings: Sequence[str]) -> Model:
    """Return the model of a finished run; its mean and standard deviation become settings, whatever it is probed on."""
    facts, trained = facts_of(run), resolve(file=run.path / "config.toml")
    record, known = run.read_record(), {"data.mean": facts.mean, "data.std": facts.std}
    assert record is not None  # facts_of has read it
    given = known | dict(map(parse_setting, settings))
    config = change(trained, given)
    rest = read_weights(run.path / PRETEXT) if (run.path / PRETEXT).exists() else {}
    notes: list[str] = []
    encoder, rest = _fitted(run.path, config, read_weights(run.path / ENCODER), rest, trained.grid, notes)
    kept = facts.model_copy(update={"mean": config.data.mean, "std": config.data.std})
    return Model(config, kept, encoder, rest, f"run {run.path.name}", tuple(notes), record.cuts_off)


def _under_our_names(path: Path, content: Content) -> tuple[State, str]:
    """Return float32 weights under our names, without a classifier, and in words what they are."""
    given = {name.removeprefix("module."): value for name, value in content.tensors.items()}  # of several processes
    if is_hugging_face(given):
        named = from_hugging_face(given)
    elif is_ours(given):
        named = dict(given)
    else:
        raise UserError(
            f"{path}: expected a ViT with the names of the official release or timm (patch_embed.proj.weight) or of "
            f"Hugging Face (embeddings.patch_embeddings.projection.weight); found {told(given)}"
        )
    state = {name: value.float() for name, value in named.items() if not name.startswith(CLASSIFIERS)}
    for name, dimensions in (("patch_embed.proj.weight", 4), (ENCODER_POSITIONS, 3)):
        if name not in state or state[name].ndim != dimensions:
            shape = f"of shape {tuple(state[name].shape)}" if name in state else "missing"
            raise UserError(f"{path}: expected a plain ViT, with {name} of {dimensions} dimensions; found it {shape}")
    decoder, classifier = "decoder_embed.weight" in state, len(state) < len(named)
    if content.ours:
        found = f"model that mae-cli exported, {'with decoder' if decoder else 'encoder only'}"
    elif classifier:
        found = "supervised ViT, encoder only (its classifier is left out)"
    elif is_hugging_face(given):
        found = f"Hugging Face {'ViTMAEForPreTraining' if decoder else 'ViTMAEModel, encoder only'}"
    elif decoder or content.container == "model":
        found = f"official MAE release {'with decoder' if decoder else ', encoder only'}".replace(" ,", ",")
    else:
        found = "ViT under timm's names, encoder only"
    return state, found


def _of_parts_there(state: State, settings: Overrides) -> Overrides:
    """Return settings without those of the decoder's task where there is none: they may be of another kind of model."""
    if "decoder_embed.weight" in state:
        return settings
    return {key: value for key, value in settings.items() if not key.startswith(("model.decoder.", "mask.", "target."))}


def _assumed(path: Path, state: State, given: Overrides) -> tuple[Overrides, list[str]]:
    """Return settings that neither file nor user tells, and sentences about them."""
    assumed: Overrides = {}
    notes: list[str] = []
    if not {"data.mean", "data.std"} & given.keys():
        if (channels := state["patch_embed.proj.weight"].shape[1]) != 3:
            raise UserError(
                f"{path}: {channels} channel(s) of unknown normalisation; {_ask('data.mean', '[...]')} and data.std"
            )
        assumed |= IMAGENET
        notes.append(
            "images are normalised with ImageNet's mean and deviation; if it saw others, set data.mean and data.std"
        )
    if "decoder_embed.weight" in state and "target.kind" not in given:
        notes.append(
            "it is taken to predict pixels; if they were normalised per patch, set target.kind=normalized_pixels"
        )
    return assumed, notes


def _sizes(path: Path, state: State, given: Overrides) -> Overrides:
    """Return what shapes tell, and the heads of the known sizes."""
    dim, channels, *patch = state["patch_embed.proj.weight"].shape
    if len(patch) != 2:
        raise UserError(
            f"{path}: its patches have {len(patch)} sides; an encoder of clips is read from its run's folder"
        )
    sizes: Overrides = {"model.patch_size": patch, "data.channels": channels}
    sizes["model.encoder_mask_tokens"] = "encoder_mask_token" in state
    parts = [("encoder", "blocks", dim, ENCODER_HEADS)]
    if "decoder_embed.weight" in state:
        parts.append(("decoder", "decoder_blocks", len(state["decoder_embed.weight"]), DECODER_HEADS))
    for part, blocks, width, heads in parts:
        numbers = [int(found[1]) for name in state if (found := re.match(rf"{blocks}\.(\d+)\.", name))]
        sizes |= {f"model.{part}.dim": width, f"model.{part}.depth": 1 + max(numbers, default=0)}
        if width in heads:
            sizes[f"model.{part}.heads"] = heads[width]
        elif f"model.{part}.heads" not in given:
            raise UserError(
                f"{path}: shapes do not tell the heads of a width of {width}; {_ask(f'model.{part}.heads', 'N')}"
            )
    return sizes


def _ask(key: str, value: str) -> str:
    return f"give --set {key}={value}"


def _grid(positions: Tensor) -> tuple[Size | None, bool]:
    """Return rows and columns of patches of positions (1, 1 + N, D), and whether they are learned.

    Sines and cosines tell them; learned ones are of a square, or may be of any grid.
    """
    count, dim = positions.shape[1] - 1, positions.shape[2]
    for rows in range(1, count + 1):
        if count % rows == 0 and dim % 4 == 0:
            grid = rows, count // rows
            if torch.allclose(positions, sincos_positions(dim, grid), atol=1e-3):  # files of half precision too
                return grid, False
    side = isqrt(count)
    return ((side, side) if side**2 == count else None), True


def _fitted(
    path: Path, config: Config, encoder: State, rest: State, grid: Size, notes: list[str]
) -> tuple[State, State]:
    """Return weights whose positions, of `grid` in the file, are those of the config's image size.

    `UserError` if names or shapes are not those of a plain ViT of the config.
    """
    if grid != config.grid and config.data.has_clips:
        raise UserError(f"{path}: an encoder of clips reads {grid} patches; data.frames and sizes stay as they are")
    if grid != config.grid:
        encoder, rest = dict(encoder), dict(rest)
        for state, name in ((encoder, ENCODER_POSITIONS), (rest, DECODER_POSITIONS)):
            if name in state:
                state[name] = resample_abs_pos_embed(state[name], list(config.grid), list(grid)).contiguous()
        notes.append(
            f"its positions, of {grid[0]} x {grid[1]} patches, are interpolated to {config.grid[0]} x {config.grid[1]}"
        )
    with torch.device("meta"):
        _check(path, encoder_of(config).state_dict(), encoder, config)
        if config.pretext.kind == "mae" and rest:
            outputs = prod(config.model.patch_size) * config.data.channels
            if config.target.kind in ("pca", "tokens"):
                outputs = len(rest["decoder.decoder_pred.weight"])
            expected = {f"decoder.{name}": value for name, value in build_decoder(config, outputs).state_dict().items()}
            _check(path, expected, {name: value for name, value in rest.items() if name.startswith("decoder.")}, config)
    return encoder, rest


def _check(path: Path, expected: State, found: State, config: Config) -> None:
    missing, unknown = (
        [name for name in expected if name not in found],
        [name for name in found if name not in expected],
    )
    problems = [f"{word} {told(names)}" for word, names in (("no", missing), ("besides", unknown)) if names]
    for name, value in expected.items():
        if name in found and found[name].shape != value.shape:
            shapes = (" x ".join(map(str, tensor.shape)) for tensor in (found[name], value))
            problems.append("{} of {}, not {}".format(name, *shapes))
            break
    if problems:
        raise UserError(f"{path}: expected a plain {size_in_words(config)}; found {'; '.join(problems)}")
