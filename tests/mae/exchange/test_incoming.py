"""Checkpoints of others become models that compute the same, or are refused in one line."""

import os
import pickle
import tracemalloc
from argparse import Namespace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from timm.models.vision_transformer import checkpoint_filter_fn

from mae.config.resolve import build
from mae.config.tree import Config
from mae.errors import UserError
from mae.exchange.incoming import read_model
from mae.exchange.kept_patches import keeping_as_officially, official_ratio
from mae.exchange.naming import from_hugging_face
from mae.pretext.masked_autoencoder import MaskedAutoencoder
from mae.pretext.masking import Mask
from tests.helpers.checkpoints import (
    HEADS,
    HEADS_SET,
    SIZES,
    hugging_face,
    hugging_face_encoder,
    imported,
    invoke,
    official,
    ours,
    saved,
    timm_model,
    write_image,
)

IMAGENET_MEAN = (0.485, 0.456, 0.406)


@pytest.fixture
def config() -> Config:
    return build(SIZES)


def encoded(model: Any, images: torch.Tensor) -> torch.Tensor:
    with torch.no_grad():
        tokens: torch.Tensor = model.pretext().encoder(images)
    return tokens


@pytest.mark.parametrize("more", [{}, {"norm_pix_loss": True}, {"layer_norm_eps": 1e-6, "mask_ratio": 0.6}])
def test_a_hugging_face_model_keeps_its_loss(more: dict[str, Any], tmp_path: Path) -> None:
    theirs = hugging_face(**more)
    theirs.save_pretrained(tmp_path / "theirs")
    pretext = read_model(tmp_path / "theirs").pretext()
    images, noise = torch.randn(3, 3, 16, 16), torch.rand(3, 16)
    assert isinstance(pretext, MaskedAutoencoder)
    mask = Mask(noise.argsort(dim=1), pretext.config.kept_patches)
    expected = theirs(images, noise=noise).loss.item()
    epsilons = {norm.eps for norm in pretext.modules() if isinstance(norm, torch.nn.LayerNorm)}
    assert epsilons == {theirs.config.layer_norm_eps}
    assert pretext.loss(images, mask).item() == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("what", ["whole", "encoder", "bin", "state_dict"])
def test_a_hugging_face_encoder_keeps_its_features(what: str, tmp_path: Path) -> None:
    theirs = hugging_face()
    encoder = hugging_face_encoder(theirs)
    (encoder if what == "encoder" else theirs).save_pretrained(tmp_path)
    if what == "bin":
        (tmp_path / "model.safetensors").unlink()
        saved(theirs.state_dict(), tmp_path / "pytorch_model.bin")
    settings = (*HEADS_SET, "model.norm_eps=1e-12") if what == "state_dict" else ()
    source = saved(theirs.state_dict(), tmp_path / "own.pt") if what == "state_dict" else tmp_path
    images = torch.randn(2, 3, 16, 16)
    expected = encoder(images, noise=torch.arange(16.0).expand(2, -1)).last_hidden_state
    assert (encoded(read_model(source, settings), images) - expected).abs().max() < 1e-5


def test_names_of_the_released_hugging_face_files_are_known() -> None:
    block = "attention.attention.query", "attention.attention.key", "attention.attention.value"
    old = {f"decoder.decoder_layers.1.{name}.bias": torch.full((2,), i) for i, name in enumerate(block)}
    assert from_hugging_face(old)["decoder_blocks.1.attn.qkv.bias"].tolist() == [0, 0, 1, 1, 2, 2]


@pytest.mark.parametrize("kind", ["pth", "state_dict", "safetensors", "without classifier"])
def test_a_timm_vit_keeps_its_features(kind: str, tmp_path: Path) -> None:
    theirs = timm_model(num_classes=0 if kind == "without classifier" else 10)
    state, file = theirs.state_dict(), tmp_path / "vit"
    if kind == "safetensors":
        save_file(state, file)
    else:
        saved({"state_dict": state} if kind == "state_dict" else state, file)
    model, images = read_model(file, HEADS_SET[:1]), torch.randn(2, 3, 16, 16)
    assert (encoded(model, images) - theirs.forward_features(images)).abs().max() < 1e-5
    assert "its positions are learned ones; they are kept, and fixed" in model.notes
    assert model.found.startswith("ViT under timm's names" if kind == "without classifier" else "supervised ViT")


def test_positions_are_interpolated_to_another_image_size_as_timm_does(tmp_path: Path) -> None:
    small, large, images = timm_model(), timm_model(img_size=24), torch.randn(2, 3, 24, 24)
    model = read_model(saved(small.state_dict(), tmp_path / "vit.pth"), (HEADS_SET[0], "data.image_size=24"))
    large.load_state_dict(checkpoint_filter_fn(small.state_dict(), large))
    assert (encoded(model, images) - large.forward_features(images)).abs().max() < 1e-5
    assert model.notes[-1] == "its positions, of 4 x 4 patches, are interpolated to 6 x 6"


def test_an_official_release_is_told_with_all_that_its_file_says(config: Config, tmp_path: Path) -> None:
    args = Namespace(norm_pix_loss=True, mask_ratio=0.5, model="mae_vit_tiny", lr=None)
    file = saved({"model": official(config), "args": args, "epoch": 3}, tmp_path / "mae.pth")
    model = read_model(file, HEADS_SET)
    assert model.described == "official MAE release with decoder: ViT 32 x 2/4, 16 px"
    assert (model.config.target.kind, model.config.mask.ratio) == ("normalized_pixels", 0.5)
    assert model.facts.mean == model.config.data.mean == IMAGENET_MEAN


def test_the_sizes_of_the_release_need_no_setting(tmp_path: Path) -> None:
    config = build(SIZES | {"model.encoder.dim": 192, "model.encoder.depth": 12, "model.encoder.heads": 3})
    state = dict(ours(config).encoder.state_dict())
    model = read_model(saved({"model": state}, tmp_path / "mae.pth"))
    assert model.described == "official MAE release, encoder only: ViT-Ti/4, 16 px"
    assert model.config.model.encoder == config.model.encoder


def test_images_that_are_no_squares_are_told_by_their_positions(tmp_path: Path) -> None:
    config = build(SIZES | {"data.image_size": [8, 32]})  # 2 x 8 patches: 16, as of a square
    model = read_model(saved({"model": official(config)}, tmp_path / "mae.pth"), HEADS_SET)
    assert model.config.data.image_size == (8, 32)


def test_learned_positions_are_of_the_grid_that_the_user_names(tmp_path: Path) -> None:
    file = saved(timm_model(img_size=(8, 12)).state_dict(), tmp_path / "vit.pth")
    with pytest.raises(UserError, match=r"6 positions .* give --set data.image_size=\[H,W\]"):
        read_model(file, HEADS_SET)
    assert read_model(file, (*HEADS_SET, "data.image_size=[8,12]")).config.grid == (2, 3)
    theirs = timm_model(img_size=(16, 36))  # 4 x 9 patches: as many as 6 x 6
    model = read_model(saved(theirs.state_dict(), file), (*HEADS_SET, "data.image_size=[16,36]"))
    assert model.encoder["pos_embed"].equal(theirs.pos_embed)


def test_a_file_of_half_precision_and_of_several_processes_is_read(config: Config, tmp_path: Path) -> None:
    state = official(config)
    halves = {f"module.{name}": value.half() for name, value in state.items()}
    model = read_model(saved({"model": halves}, tmp_path / "mae.pth"), HEADS_SET)
    assert model.encoder["norm.bias"].equal(state["norm.bias"].half().float())
    assert not [note for note in model.notes if "learned" in note]


@pytest.mark.parametrize("patches", [9, 16, 49, 196, 256])
def test_as_many_patches_stay_as_in_the_official_code(patches: int) -> None:
    for ratio in (0.1, 0.25, 0.4, 0.5, 0.6, 0.75, 0.8, 0.85):
        config = build(SIZES | {"data.image_size": [4, 4 * patches], "mask.ratio": ratio})
        same = keeping_as_officially(config)
        assert same.kept_patches == int(patches * (1 - ratio))
        assert keeping_as_officially(same) == same
        assert int(patches * (1 - official_ratio(config))) == config.kept_patches


def test_an_official_model_hides_as_many_patches_here_as_there(
    tmp_path: Path, runs_dir: Path, monkeypatch: Any
) -> None:
    settings = {"data.image_size": 14, "model.patch_size": 1, "model.decoder.depth": 1}
    args = Namespace(mask_ratio=0.9)
    file = saved({"model": official(build(SIZES | settings)), "args": args}, tmp_path / "mae.pth")
    model = read_model(file, HEADS_SET)
    assert model.config.kept_patches == 19
    assert "mask.ratio=0.9 is 0.901786 here, where 19 patches stay visible too" in model.notes
    run, kept = imported(file, runs_dir), []
    monkeypatch.setattr("mae.pipeline.draw", lambda pretext, *_: kept.append(pretext.config.kept_patches) or True)
    picture = str(write_image(tmp_path))
    for ratio in ("0.9", "0.5"):
        arguments = [run, picture, "--set", f"mask.ratio={ratio}", "--to", str(tmp_path / "drawn.png")]
        assert invoke("reconstruct", *arguments, "--runs-dir", str(runs_dir)).exit_code == 0
    assert kept == [19, 98]


class Code:
    def __reduce__(self) -> Any:
        return os.mkdir, ("/tmp/run-by-a-checkpoint",)


def bad(kind: str, folder: Path, config: Config) -> Path:
    """Write a file or folder that is no checkpoint of a plain ViT."""
    state, file = official(config), folder / "file"
    if kind == "cut off":
        saved({"model": state}, file)
        os.truncate(file, 5000)
    elif kind == "cut off safetensors":
        save_file(state, file)
        os.truncate(file, 5000)
    elif kind == "code":
        saved({"model": state, "more": Code()}, file)
    elif kind == "pickle":
        file.write_bytes(pickle.dumps({"weights": [1, 2]}, protocol=4))
    elif kind == "other names":
        saved({name.replace("patch_embed", "stem"): value for name, value in state.items()}, file)
    elif kind == "other sizes":
        saved({"model": state | {"blocks.1.mlp.fc1.weight": torch.zeros(64, 32)}}, file)
    elif kind == "no plain ViT":
        saved(timm_model(global_pool="avg", fc_norm=True).state_dict(), file)
    elif kind == "half a model":
        saved({"model": {name: value for name, value in state.items() if not name.startswith("blocks.0.")}}, file)
    elif kind == "without positions":
        saved({"model": {name: value for name, value in state.items() if "pos_embed" not in name}}, file)
    elif kind == "no tensors":
        saved({"epoch": 3, "lr": 0.1}, file)
    elif kind == "large":
        with open(file, "wb") as handle:
            handle.truncate(2 << 30)
    elif kind == "folder":
        file.mkdir()
        (file / "readme.txt").write_text("")
    elif kind == "empty":
        file.write_bytes(b"")
    return file


@pytest.mark.parametrize(
    ("kind", "said"),
    [
        ("cut off", "damaged, cut off or no checkpoint"),
        ("cut off safetensors", "damaged or cut off"),
        ("code", "holds Python code or objects (posix.mkdir), which are not run; expected tensors by name"),
        ("pickle", "expected a checkpoint that torch.save or safetensors wrote"),
        ("other names", "found cls_token, pos_embed, stem.proj.weight and 59 more"),
        ("other sizes", "found blocks.1.mlp.fc1.weight of 64 x 32, not 128 x 32"),
        ("no plain ViT", "no norm.weight, norm.bias; besides fc_norm.weight, fc_norm.bias"),
        ("half a model", "found no blocks.0.norm1.weight, blocks.0.norm1.bias"),
        ("without positions", "expected a plain ViT, with pos_embed of 3 dimensions; found it missing"),
        ("no tensors", "expected tensors by name, alone or under `model`; found epoch, lr"),
        ("large", "found 2,147,483,648 bytes that begin with"),
        ("folder", "lacks config.json beside model.safetensors or pytorch_model.bin, and has readme.txt"),
        ("empty", "is empty"),
        ("not there", "No such file or directory"),
    ],
)
@pytest.mark.filterwarnings("error")
def test_bad_input_is_refused_in_one_line_and_nothing_is_written(
    kind: str, said: str, config: Config, tmp_path: Path, runs_dir: Path
) -> None:
    file = bad(kind, tmp_path, config)
    tracemalloc.start()
    result = invoke("import", str(file), *HEADS, "--runs-dir", str(runs_dir))
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert result.exit_code == 2, result.output
    assert said in result.stderr
    assert result.stderr.count("\n") == 1
    assert not runs_dir.exists()
    assert not Path("/tmp/run-by-a-checkpoint").exists()
    assert peak < 50e6  # of 2 GB


def test_heads_that_no_shape_tells_are_asked_for(config: Config, tmp_path: Path) -> None:
    file = saved({"model": official(config)}, tmp_path / "mae.pth")
    with pytest.raises(UserError, match=r"heads of a width of 32; give --set model.encoder.heads=N"):
        read_model(file)
    with pytest.raises(UserError, match=r"heads of a width of 16; give --set model.decoder.heads=N"):
        read_model(file, HEADS_SET[:1])


def test_the_normalisation_of_grey_images_is_asked_for(tmp_path: Path) -> None:
    file = saved({"model": official(build(SIZES | {"data.channels": 1}))}, tmp_path / "mae.pth")
    with pytest.raises(UserError, match=r"1 channel.*data.mean=\[...\] and data.std"):
        read_model(file, HEADS_SET)
    assert read_model(file, (*HEADS_SET, "data.mean=[0.5]", "data.std=[0.5]")).facts.mean == (0.5,)
