"""The typed config tree: every setting of a pipeline with its unit, range and default.

Nothing else in the program has defaults of its own. They fit small colour images and a CPU; the mask is the paper's.
Sources and their precedence are in `mae.config.resolve`, experiments on known data sets in `mae.config.presets`, what
identifies a run in `mae.config.fingerprint`.
"""

import math
from collections.abc import Mapping
from typing import Annotated, Any, Literal, get_args

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, model_validator

PretextKind = Literal[
    "mae",
    "denoise",
    "inpaint",
    "igpt_ar",
    "igpt_bert",
    "vqvae",
    "dvae",
    "beit",
    "rotation",
    "context",
    "jigsaw",
    "colorize",
    "instance",
    "moco",
    "simsiam",
    "cvrl",
    "video_mae",
    "supervised",
    "random",
]
PIXEL_KINDS: tuple[PretextKind, ...] = ("igpt_ar", "igpt_bert")
"""Tasks whose encoder reads pixels of a palette in place of patches."""

CLIP_KINDS: tuple[PretextKind, ...] = ("cvrl", "video_mae")
"""Tasks on clips of video."""

EITHER_KINDS: tuple[PretextKind, ...] = ("supervised", "random")
"""Tasks on images or on clips; all that are not named here are on images."""

CLIP_SOURCES = ("moving_digits", "clips")
"""Sources of clips."""

VIEWED: tuple[PretextKind, ...] = ("instance", "moco", "simsiam", "cvrl")
"""Tasks whose views are distorted as `views` says."""

ProbeKind = Literal["linear", "knn", "attentive", "partial", "finetune"]
FROZEN: tuple[ProbeKind, ...] = ("linear", "knn", "attentive")
"""Probes that read a frozen encoder, at any of its blocks."""


def _as_tuple(value: Any) -> Any:
    return tuple(value) if isinstance(value, list) else value


def _as_size(value: Any) -> Any:
    """`32` means a square of 32 x 32; a list from TOML becomes the tuple (height, width)."""
    return (value, value) if type(value) is int else _as_tuple(value)


def _as_pair(value: Any) -> Any:
    """`0.5` means 0.5 for both of two views."""
    return (value, value) if isinstance(value, int | float) and not isinstance(value, bool) else _as_tuple(value)


def _shares(bounds: tuple[float, float]) -> tuple[float, float]:
    low, high = bounds
    if not 0 < low <= high <= 1:
        raise ValueError("expected 0 < low <= high <= 1")
    return bounds


def _ascending(values: tuple[int, ...]) -> bool:
    return list(values) == sorted(set(values))


Positive = Annotated[int, Field(ge=1)]
Size = Annotated[tuple[Positive, Positive], BeforeValidator(_as_size)]
Range = Annotated[tuple[float, float], BeforeValidator(_as_tuple)]
CropScale = Annotated[Range, AfterValidator(_shares)]
PerChannel = Annotated[tuple[float, ...], BeforeValidator(_as_tuple)]
Share = Annotated[float, Field(gt=0, lt=1)]
Chance = Annotated[float, Field(ge=0, le=1)]
Chances = Annotated[tuple[Chance, Chance], BeforeValidator(_as_pair)]
Width = Annotated[int, Field(ge=4, multiple_of=4)]  # the 2-D sin-cos code splits a width into four equal parts


def _acts(when: Mapping[str, tuple[str | int, ...]]) -> dict[str, Any]:
    """Say under which values of other keys a key, or a section's keys, act: under others they change nothing.

    A key that does not act itself sets no condition: `denoise.noise` has no say in masked autoencoding. Of a key whose
    value is a list, one of its members is enough.
    """
    return {"acts": when}


MAE = _acts({"pretext.kind": ("mae", "video_mae")})
DENOISE = _acts({"pretext.kind": ("denoise",)})
INPAINT = _acts({"pretext.kind": ("inpaint",)})
CVRL = _acts({"pretext.kind": ("cvrl",)})
DECODED = _acts({"pretext.kind": ("mae", "denoise", "inpaint", "vqvae", "dvae", "video_mae")})
IGPT = _acts({"pretext.kind": PIXEL_KINDS})
OF_PATCHES = _acts({"pretext.kind": tuple(kind for kind in get_args(PretextKind) if kind not in PIXEL_KINDS)})
TRAINED = _acts({"pretext.kind": tuple(kind for kind in get_args(PretextKind) if kind != "random")})
RECONSTRUCTION = _acts({"pretext.kind": ("mae", "denoise", "video_mae")})
TARGET = _acts({"pretext.kind": ("mae", "denoise", "beit", "video_mae")})
COLORIZE = _acts({"pretext.kind": ("colorize",)})
INSTANCE = _acts({"pretext.kind": ("instance",)})
SUPERVISED = _acts({"pretext.kind": ("supervised",)})
BEIT = _acts({"pretext.kind": ("beit",)})
ROTATION = _acts({"pretext.kind": ("rotation",)})
CONTEXT = _acts({"pretext.kind": ("context",)})
JIGSAW = _acts({"pretext.kind": ("jigsaw",)})
TILES = _acts({"jigsaw.pieces": ("tiles",)})
TOKENIZERS = ("vqvae", "dvae")
"""Pretext tasks whose codes other runs may predict."""
TOKENIZER = _acts({"pretext.kind": TOKENIZERS})
VQVAE = _acts({"pretext.kind": ("vqvae",)})
DVAE = _acts({"pretext.kind": ("dvae",)})
PATCHES = _acts({"pretext.kind": ("mae", "denoise", "video_mae"), "denoise.noise": ("masked_patches",)})
PARTS = _acts(
    {
        "pretext.kind": ("mae", "denoise", "video_mae"),
        "denoise.noise": ("masked_pixels", "masked_patches", "salt_and_pepper"),
    }
)
MOCO = _acts({"pretext.kind": ("moco",)})
SIMSIAM = _acts({"pretext.kind": ("simsiam",)})
VIEWS = _acts({"pretext.kind": VIEWED})
LARS = _acts({"probe.linear.solver": ("lars",)})
AUGMENTED = _acts({"probe.finetune.augment": (True,)})


class Section(BaseModel):
    """One table of the config: frozen, strict about types, closed to unknown keys."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, allow_inf_nan=False)


class DataConfig(Section):
    """Which images, and how they reach the model."""

    source: str = Field(
        "digits",
        min_length=1,
        description="digits, folder:PATH, or a torchvision data set; of clips: moving_digits, or clips:PATH",
    )
    image_size: Size = Field((32, 32), description="height and width fed to the model, pixels")
    stored_size: Size | None = Field(
        None,
        description="height and width images are decoded to, pixels, as the centre of the whole; image_size if unset. "
        "Crops come from this, not from the whole image as in the official code",
    )
    channels: Literal[1, 3] = Field(3, description="1 (grey) or 3 (RGB)")
    augmentation: Literal["none", "fixed_crop", "random_resized_crop", "color_jitter"] = Field(
        "random_resized_crop", description="Table 1e; color_jitter is random_resized_crop plus colour jitter"
    )
    crop_scale: CropScale = Field(
        (0.5, 1.0),
        description="share of the image's area a crop covers, low and high, 0 to 1",
        json_schema_extra=_acts({"data.augmentation": ("random_resized_crop", "color_jitter")}),
    )
    flip: bool = Field(False, description="mirror left-right with probability one half")
    mean: PerChannel | None = Field(None, description="per channel, of pixels in 0..1; measured on train if unset")
    std: PerChannel | None = Field(None, description="per channel, of pixels in 0..1; measured on train if unset")
    test_fraction: Share = Field(0.2, description="share held out for testing where no split is given")
    split_seed: int = Field(0, ge=0, description="seed of that split")
    skip_bad_images: bool = Field(False, description="leave out unreadable files, counted, instead of stopping")
    frames: Positive | None = Field(
        None,
        description="frames of a clip that the model reads, one after the other; sources of clips need it, images have "
        "none",
        json_schema_extra={"before": None},
    )
    stored_frames: Positive | None = Field(
        None,
        description="frames that are decoded of the middle of each video, from which clips are cut; frames if unset",
        json_schema_extra={"before": None},
    )
    frame_stride: Positive = Field(
        1,
        description="every how many of a video's frames one is decoded",
        json_schema_extra={"before": 1},
    )

    @property
    def has_clips(self) -> bool:
        """Whether the source is one of clips, not of images."""
        return self.source.partition(":")[0] in CLIP_SOURCES

    @property
    def stored_sides(self) -> tuple[int, int]:
        """Height and width of the decoded images, or frames, pixels."""
        return self.stored_size or self.image_size

    @property
    def stored(self) -> tuple[int, ...]:
        """What a decoded image measures, without its channels: height and width; a clip has its frames before them."""
        frames = self.stored_frames or self.frames
        return self.stored_sides if frames is None else (frames, *self.stored_sides)

    @property
    def seen(self) -> tuple[int, ...]:
        """What the model reads of it, likewise: `image_size`, behind `frames` where there are clips."""
        return self.image_size if self.frames is None else (self.frames, *self.image_size)

    @model_validator(mode="after")
    def _possible(self) -> "DataConfig":
        for name in ("mean", "std"):
            values = getattr(self, name)
            if values is not None and len(values) != self.channels:
                raise ValueError(f"{name}: expected {self.channels} value(s), one per channel")
        if (self.mean is None) != (self.std is None):
            raise ValueError("mean: set both mean and std, or neither")
        if self.std is not None and min(self.std) <= 0:
            raise ValueError("std: expected values above 0")
        if any(stored < size for stored, size in zip(self.stored_sides, self.image_size, strict=True)):
            raise ValueError("stored_size: expected at least image_size in both directions")
        self._check_frames()
        return self

    def _check_frames(self) -> None:
        if self.has_clips and self.frames is None:
            raise ValueError(f"frames: data.source={self.source} has clips; expected the number that the model reads")
        if not self.has_clips:
            given = {"frames": self.frames, "stored_frames": self.stored_frames, "frame_stride": self.frame_stride - 1}
            if key := next((key for key, value in given.items() if value), ""):
                raise ValueError(
                    f"{key}: data.source={self.source} has images; it acts with data.source=moving_digits or "
                    "clips:PATH only"
                )
        elif self.stored[0] < self.seen[0]:
            raise ValueError(f"stored_frames: expected at least data.frames={self.frames}")


class TransformerConfig(Section):
    """A stack of ViT blocks (MLP ratio 4, pre-norm)."""

    dim: Width = Field(64, description="token width; a multiple of 4 and of heads")
    depth: Positive = Field(4, description="number of blocks")
    heads: Positive = Field(4, description="attention heads; divides dim")

    @model_validator(mode="after")
    def _possible(self) -> "TransformerConfig":
        if self.dim % self.heads:
            raise ValueError(f"heads: expected a divisor of dim={self.dim}")
        return self


class DecoderConfig(TransformerConfig):
    """The light decoder, and what gives it more context than its blocks have: nothing, in the paper."""

    dim: Width = Field(32, description="token width; a multiple of 4 and of heads")
    depth: Positive = Field(2, description="number of blocks")
    mixing: Literal["none", "convolutions"] = Field(
        "none",
        description="what patches pass between blocks, besides attention: depthwise convolutions over their grid",
        json_schema_extra={"before": "none"},
    )
    kernels: Annotated[tuple[Annotated[int, Field(ge=1, le=31)], ...], BeforeValidator(_as_tuple)] = Field(
        (3, 5, 7),
        min_length=1,
        description="their sizes in patches, side by side; odd, in ascending order",
        json_schema_extra=_acts({"model.decoder.mixing": ("convolutions",)}),
    )
    global_token: bool = Field(
        False,
        description="add the mean of the visible patches, as they are encoded, to every mask token",
        json_schema_extra=_acts({"pretext.kind": ("mae", "video_mae"), "model.encoder_mask_tokens": (False,)})
        | {"before": False},
    )
    fusion: Annotated[tuple[Positive, ...], BeforeValidator(_as_tuple)] = Field(
        (),
        description="encoder blocks, counted from 1, whose outputs are read besides the last one's (MFF); in ascending "
        "order",
        json_schema_extra=_acts({"pretext.kind": ("mae", "denoise", "inpaint", "video_mae")}) | {"before": []},
    )

    @model_validator(mode="after")
    def _context(self) -> "DecoderConfig":
        if any(size % 2 == 0 for size in self.kernels) or not _ascending(self.kernels):
            raise ValueError("kernels: expected odd numbers in ascending order, each once")
        if not _ascending(self.fusion):
            raise ValueError("fusion: expected blocks in ascending order, each once")
        if self.mixing != "none" and self.depth == 1:
            raise ValueError("mixing: it is between blocks; expected a depth of at least 2")
        return self


class ModelConfig(Section):
    """The asymmetric autoencoder of section 3."""

    patch_size: Size = Field(
        (4, 4),
        description="height and width of a patch, pixels; divides image_size",
        json_schema_extra=OF_PATCHES,
    )
    tubelet: Positive = Field(
        2,
        description="frames that a patch of a clip spans; divides data.frames; images have none",
        json_schema_extra={"before": 2},
    )
    encoder: TransformerConfig = Field(TransformerConfig(), description="the ViT that is kept")
    decoder: DecoderConfig = Field(
        DecoderConfig(),
        description="the decoder used in pretraining only (Table 1a, 1b)",
        json_schema_extra=DECODED,
    )
    encoder_mask_tokens: bool = Field(
        False,
        description="give the encoder mask tokens for the hidden patches instead of leaving them out (Table 1c)",
        json_schema_extra=MAE,
    )
    norm_eps: float = Field(
        1e-6,
        gt=0,
        description="added to the variance in layer norms; Hugging Face's models have 1e-12, which `import` keeps",
        json_schema_extra={"before": 1e-6},
    )

    @model_validator(mode="after")
    def _possible(self) -> "ModelConfig":
        if any(block >= self.encoder.depth for block in self.decoder.fusion):
            raise ValueError(
                f"decoder.fusion: expected blocks before the last of model.encoder.depth={self.encoder.depth}, which "
                "is read in any case"
            )
        return self


class PretextConfig(Section):
    """What the encoder is pretrained on."""

    kind: PretextKind = Field(
        "mae",
        description="the pretext task; random: none, the encoder stays as it is initialised",
        json_schema_extra={"before": "mae"},
    )


class DenoiseConfig(Section):
    """What a denoising autoencoder's images are corrupted by (Vincent et al., 2010, "Types of Corruption")."""

    noise: Literal["gaussian", "masked_pixels", "masked_patches", "salt_and_pepper"] = Field(
        "gaussian",
        description="added to every pixel; or pixels set to the training mean, patches replaced by mask tokens in the "
        "encoder as `mask` says, pixels set to black or white",
    )
    deviation: float = Field(
        1.0,
        gt=0,
        description="of gaussian noise, in standard deviations of the training pixels",
        json_schema_extra=_acts({"denoise.noise": ("gaussian",)}),
    )
    share: Share = Field(
        0.25,
        description="share of an image's pixels that are corrupted, all channels of one together; rounded to whole "
        "pixels",
        json_schema_extra=_acts({"denoise.noise": ("masked_pixels", "salt_and_pepper")}),
    )


BLOCKS = 4
"""Blocks per image under `inpaint.region=blocks`, equally large."""


class InpaintConfig(Section):
    """What a context encoder has to fill in, and how that is judged (Pathak et al., 2016, sections 3.2 and 3.3)."""

    region: Literal["centre", "blocks", "shapes"] = Field(
        "centre",
        description="pixels that are predicted: the centre, half as high and wide as the image; four blocks anywhere, "
        "which may overlap; or random smooth shapes",
    )
    share: Share = Field(
        0.25,
        description="share of an image's pixels in its region: exactly with shapes, rounded to whole pixels; with "
        "blocks at most, reached where none overlap",
        json_schema_extra=_acts({"inpaint.region": ("blocks", "shapes")}),
    )
    overlap: float = Field(
        7 / 128,
        ge=0,
        lt=0.5,
        description="width of a band inside the region's border that the encoder sees too and whose error weighs 10 "
        "times, as a share of the image's height and width, rounded to whole pixels; the paper: 7 of 128",
    )
    adversarial_weight: float = Field(
        0.001,
        ge=0,
        le=1,
        description="weight of the adversarial loss, the squared error having the rest of 1; 0: no discriminator",
    )


class IgptConfig(Section):
    """What pixels are tokens of (Generative Pretraining from Pixels, section 3)."""

    side: Positive = Field(
        32,
        description="longest side of the images whose pixels are tokens, pixels; larger ones are averaged down to it",
    )
    colors: int = Field(
        512,
        ge=2,
        description="colours of the palette, found by k-means on training images; of grey images at most 256",
    )
    mask_ratio: Share = Field(
        0.15,
        description="share of pixels that are hidden, the same number of each image",
        json_schema_extra=_acts({"pretext.kind": ("igpt_bert",)}),
    )


class TokenizerConfig(Section):
    """How a tokenizer makes codes of patches (VQ-VAE; DALL-E's dVAE)."""

    codes: int = Field(512, ge=2, description="codes there are; VQ-VAE: 512, DALL-E: 8192")
    width: Positive = Field(32, description="numbers that a code stands for in front of the decoder")
    commitment: float = Field(
        0.25,
        ge=0,
        description="weight of the squared distance from codes, which draws the encoder to them",
        json_schema_extra=VQVAE,
    )
    decay: float = Field(
        0.99,
        ge=0,
        lt=1,
        description="of the moving averages that the codebook is, per step",
        json_schema_extra=VQVAE,
    )
    temperature: Range = Field(
        (1.0, 0.0625),
        description="of Gumbel-softmax at the start and at the end of training; half a cosine leads from one to the "
        "other",
        json_schema_extra=DVAE,
    )
    kl_weight: float = Field(
        0.05,
        ge=0,
        description="weight at the end of training of the codes' divergence from the uniform distribution, in nats per "
        "patch; it rises from 0 as the temperature falls",
        json_schema_extra=DVAE,
    )

    @model_validator(mode="after")
    def _possible(self) -> "TokenizerConfig":
        if min(self.temperature) <= 0:
            raise ValueError("temperature: expected two values above 0")
        return self


class CvrlConfig(Section):
    """How clips of videos are contrasted (Qian et al., 2021, sections 3.1 and 4.1)."""

    temperature: float = Field(0.1, gt=0, description="similarities are divided by it")
    hidden: Positive = Field(256, description="width of the projection head's hidden layers; the paper: 2048")
    hidden_layers: int = Field(3, ge=0, description="hidden layers of the projection head")
    outputs: Positive = Field(128, description="width of what is compared")


class MaskConfig(Section):
    """Which patches are hidden."""

    ratio: Share = Field(
        0.75,
        description="share of patches hidden (Fig. 5); the patches kept are rounded, where the official code cuts off: "
        "at 0.9 of 196 it keeps 19, this one 20",
    )
    sampling: Literal["random", "block", "grid", "colored_noise"] = Field(
        "random", description="how they are chosen (Table 1f; colored_noise: ColorMAE)"
    )
    color: Literal["red", "green", "blue", "purple"] = Field(
        "green",
        description="of the noise: low, middle, high frequencies, or all but the middle ones",
        json_schema_extra=_acts({"mask.sampling": ("colored_noise",)}),
    )


class BeitConfig(Section):
    """Which patches BEiT hides (Bao et al., 2021, section 2.3)."""

    ratio: Share = Field(0.4, description="share of patches hidden, in blocks; the patches kept are rounded")


class RotationConfig(Section):
    """How images are turned (Gidaris et al., 2018)."""

    all_four: bool = Field(
        False,
        description="show every image in all four rotations at once, as the paper does, in place of one at random: "
        "four times the work per step",
        json_schema_extra={"before": False},
    )


TileColor = Literal["keep", "project", "drop"]


class ContextConfig(Section):
    """Where two tiles of an image lie (Doersch et al., 2015, section 3.1). They are as large as leaves room for three
    in a row."""

    gap: float = Field(
        0.5, ge=0, description="between neighbouring tiles, as a share of a tile's height and width, rounded to pixels"
    )
    jitter: float = Field(
        7 / 96,
        ge=0,
        description="each tile is moved by up to this in every direction, as a share of its height and width, rounded "
        "to pixels; the paper: 7 of 96",
    )
    magnify: bool = Field(
        True,
        description="resize tiles to the size of images, so that the encoder reads them as such; else it reads as few "
        "patches as a tile has: faster, but it never learns to read as many as an image has",
    )
    color: TileColor = Field(
        "drop",
        description="against lenses that displace colours: drop all channels of a tile but one, or project out the "
        "axis from green to magenta; keep: neither",
        json_schema_extra=_acts({"data.channels": (3,)}),
    )


class JigsawConfig(Section):
    """What is shuffled (Noroozi & Favaro, 2016, section 3; patches: Zhai et al., 2022)."""

    pieces: Literal["tiles", "patches"] = Field(
        "tiles",
        description="3 x 3 tiles in one of a set of permutations, or patches, of which an encoder without positions "
        "has to tell the place",
    )
    permutations: int = Field(
        100,
        ge=2,
        le=10_000,
        description="the set's size; the paper: 64 to 1000",
        json_schema_extra=TILES,
    )
    gap: float = Field(
        11 / 64,
        ge=0,
        description="mean gap between tiles, as a share of a tile's height and width, rounded to pixels; each tile "
        "lies anywhere in its ninth of the image; the paper: 11 of 64",
        json_schema_extra=TILES,
    )
    magnify: bool = Field(
        False,
        description="as `context.magnify`; nine tiles then cost as much as nine images",
        json_schema_extra=TILES,
    )
    color: TileColor = Field(
        "drop",
        description="as `context.color`",
        json_schema_extra=_acts({"jigsaw.pieces": ("tiles",), "data.channels": (3,)}),
    )
    dropped: float = Field(
        0.5,
        ge=0,
        lt=1,
        description="share of patches that the encoder does not get; those left are rounded",
        json_schema_extra=_acts({"jigsaw.pieces": ("patches",)}),
    )


COLOR_CELL = 4
"""Longest side of the cells whose colours are predicted, pixels: a quarter of the resolution."""


class ColorizeConfig(Section):
    """How colours are predicted of lightness (Zhang et al., 2016, section 2)."""

    loss: Literal["classification", "regression"] = Field(
        "classification", description="of the bins of the ab plane, 10 units wide, or of a and b themselves"
    )
    uniform: float = Field(
        0.5,
        ge=0,
        le=1,
        description="share of a uniform distribution in the frequencies of bins, whose inverses their weights are; 1: "
        "all weigh the same",
        json_schema_extra=_acts({"colorize.loss": ("classification",)}),
    )


class InstanceConfig(Section):
    """How images are told from one another (Wu et al., 2018, section 3)."""

    loss: Literal["softmax", "nce"] = Field(
        "softmax",
        description="over all training images; or noise-contrastive, against some drawn for each image: for millions",
    )
    negatives: Positive = Field(
        4096,
        description="rows of the memory bank that are drawn for each image",
        json_schema_extra=_acts({"instance.loss": ("nce",)}),
    )
    width: int = Field(128, ge=2, description="numbers of a vector in the memory bank")
    temperature: float = Field(0.07, ge=0.02, le=1, description="cosines are divided by it")
    momentum: float = Field(0.5, ge=0, lt=1, description="share that an image's vector keeps when it is visited")
    proximal: float = Field(
        0.0, ge=0, description="weight of the squared distance of an image's vector from the one in the memory bank"
    )


class MocoConfig(Section):
    """How keys are made and compared in Momentum Contrast (v1: He et al., 2020; v2: Chen et al., 2020; v3: 2021)."""

    version: Literal["v2", "v3"] = Field(
        "v2", description="v2: a queue of keys; v3: the keys of the batch, both ways, with a predictor"
    )
    queue: Positive = Field(
        4096,
        description="keys that are kept; on ImageNet: 65536",
        json_schema_extra=_acts({"moco.version": ("v2",)}),
    )
    momentum: float = Field(
        0.99,
        ge=0,
        le=1,
        description="share that the moving averages keep per step; with v3 at the start, from where it rises to 1. On "
        "ImageNet 0.999, v3: 0.99",
    )
    temperature: float = Field(0.2, gt=0, description="similarities are divided by it")
    hidden: Positive = Field(256, description="width of the heads' hidden layers; with a ResNet-50 2048, v3: 4096")
    dim: Positive = Field(128, description="numbers in a key; v3: 256")
    batch_norm: bool = Field(
        True,
        description="end v2's heads in a batch norm, so that a drift common to all keys tells no new one from old ones",
        json_schema_extra=_acts({"moco.version": ("v2",)}) | {"before": False},
    )
    frozen_patches: bool = Field(
        False,
        description="leave the encoder's patch projection as it is initialised, which keeps ViTs stable",
        json_schema_extra=_acts({"moco.version": ("v3",)}),
    )


class SimSiamConfig(Section):
    """SimSiam's heads, and what keeps its outputs apart (Chen and He, 2021)."""

    dim: Positive = Field(256, description="width of the projector's layers and of outputs; with a ResNet-50 2048")
    bottleneck: Positive = Field(64, description="width of the predictor's hidden layer; with a ResNet-50 512")
    stop_gradient: bool = Field(
        True, description="take what is predicted for fixed; without it outputs collapse to one point (Fig. 2)"
    )


class SupervisedConfig(Section):
    """What is classified where the encoder is trained with labels."""

    features: Literal["class_token", "patch_mean", "both"] = Field(
        "patch_mean", description="what the linear head reads off the encoder's last norm"
    )


class ViewsConfig(Section):
    """How views are distorted that a task compares, after crops and flips as `data` says (MoCo v2; BYOL, MoCo v3)."""

    jitter: Chance = Field(0.8, description="chance of colour jitter")
    jitter_strength: Annotated[tuple[Chance, Chance, Chance, Chance], BeforeValidator(_as_tuple)] = Field(
        (0.4, 0.4, 0.4, 0.1),
        description="how much brightness, contrast and saturation may change, as a share, and hue, in turns; the last "
        "two where there is colour. MoCo v3: 0.4, 0.4, 0.2, 0.1",
    )
    grayscale: Chance = Field(0.2, description="chance that colours are taken away")
    blur: Chances = Field(
        (0.0, 0.0),
        description="chance of Gaussian blur in the first and the second view, or one number for both. SimSiam: none "
        "on CIFAR-10; of 224 pixels MoCo v2: 0.5, MoCo v3: 1.0 and 0.1",
    )
    solarize: Chances = Field(
        (0.0, 0.0),
        description="chance that values above one half are inverted, in the first and the second view, or one number "
        "for both. MoCo v3: 0.0 and 0.2",
    )

    @model_validator(mode="after")
    def _possible(self) -> "ViewsConfig":
        if self.jitter_strength[3] > 0.5:
            raise ValueError("jitter_strength: expected a hue of at most 0.5 turns")
        return self


class TargetConfig(Section):
    """What is predicted (Table 1d)."""

    kind: Literal["pixels", "normalized_pixels", "pca", "low_pass", "tokens"] = Field(
        "pixels",
        description="the reconstruction target; low_pass: the image's low frequencies (PixMIM, not in Table 1d); "
        "tokens: codes of target.tokenizer, by cross-entropy",
        json_schema_extra=RECONSTRUCTION,
    )
    tokenizer: str | None = Field(
        None,
        min_length=1,
        description="the finished run that makes the codes, of pretext.kind=vqvae or dvae, in the same runs folder: "
        "its fingerprint, the start of it, or its folder",
        json_schema_extra=_acts({"target.kind": ("tokens",)}),
    )
    pca_variance: float = Field(
        0.99,
        gt=0,
        le=1,
        description="share of the patches' variance the PCA target keeps",
        json_schema_extra=_acts({"pretext.kind": ("mae", "denoise", "video_mae"), "target.kind": ("pca",)}),
    )
    cutoff: float = Field(
        40 / 112,
        gt=0,
        le=1,
        description="highest frequency the low_pass target keeps, as a share of the highest along a side (half a cycle "
        "per pixel); PixMIM: 40 of 112 cycles per image of 224 pixels",
        json_schema_extra=_acts({"pretext.kind": ("mae", "denoise", "video_mae"), "target.kind": ("low_pass",)}),
    )


class LossConfig(Section):
    """On which patches, or corrupted pixels, the squared error counts (footnote 1)."""

    region: Literal["masked", "all", "weighted"] = Field(
        "masked", description="patches the loss reads; of corrupted pixels, those are the masked ones"
    )
    visible_weight: float = Field(
        0.5,
        ge=0,
        le=1,
        description="weight of a visible patch or clean pixel, a masked one having 1",
        json_schema_extra=_acts({"loss.region": ("weighted",)}),
    )

    @property
    def weight_of_visible(self) -> float:
        """Weight of a visible patch in the loss, a masked one having 1; at 0 `mae` predicts masked ones only."""
        return {"masked": 0.0, "all": 1.0, "weighted": self.visible_weight}[self.region]


class TrainConfig(Section):
    """Pretraining: AdamW (0.9, 0.95), linear warm-up, cosine decay to 0."""

    epochs: Positive = Field(40, description="passes over the training images")
    batch_size: Positive = Field(32, description="images per optimiser step, over all processes and micro-batches")
    micro_batches: Positive = Field(1, description="pieces a batch is computed in, gradients accumulated; divides it")
    base_lr: float = Field(8e-3, gt=0, description="learning rate per 256 images: lr = base_lr * batch_size / 256")
    weight_decay: float = Field(0.05, ge=0, description="AdamW's, on weight matrices and tokens only")
    warmup_epochs: float | None = Field(
        None, ge=0, description="epochs of linear warm-up; a twentieth of epochs (the paper: 40 of 800) if unset"
    )
    clip_norm: float | None = Field(None, gt=0, description="largest gradient norm; no clipping if unset")
    precision: Literal["fp32", "bf16", "fp16"] = Field("fp32", description="of matrix products; weights stay fp32")
    compile: Annotated[
        Literal["off", "default", "max-autotune", "cudagraphs"],
        BeforeValidator(lambda value: {"True": "default", "False": "off"}.get(str(value), value)),  # before: a switch
    ] = Field(
        "off",
        description="compile the forward and backward pass: torch.compile's modes; cudagraphs, its reduce-overhead, "
        "and max-autotune replay kernels without the host",
    )
    checkpoint_blocks: bool = Field(
        False,
        description="keep no activations within a transformer block but compute them again in the backward pass: "
        "less memory, about a third more time",
        json_schema_extra={"before": False},
    )
    deterministic: bool = Field(False, description="deterministic CUDA kernels: same bits every time, slower")
    seed: int = Field(0, ge=0, lt=2**32, description="of weights, data order, augmentation and masks")
    init_from: str | None = Field(
        None,
        min_length=1,
        description="the finished run, trained or imported, whose weights are begun with, in the same runs folder: its "
        "fingerprint, the start of it, or its folder; random weights if unset",
        json_schema_extra=TRAINED | {"before": None},
    )

    @property
    def warmup(self) -> float:
        """Epochs of linear warm-up."""
        return self.epochs / 20 if self.warmup_epochs is None else self.warmup_epochs

    @model_validator(mode="after")
    def _possible(self) -> "TrainConfig":
        if self.batch_size % self.micro_batches:
            raise ValueError(f"micro_batches: expected a divisor of batch_size={self.batch_size}")
        if self.warmup > self.epochs:
            raise ValueError(f"warmup_epochs: expected at most epochs={self.epochs}")
        return self


class LinearProbeConfig(Section):
    """Linear classifier on frozen features, batch norm without affine before it."""

    solver: Literal["lbfgs", "lars"] = Field("lbfgs", description="logistic regression, or the paper's LARS protocol")
    penalties: Annotated[tuple[Annotated[float, Field(ge=0)], ...], BeforeValidator(_as_tuple)] = Field(
        (1e-6, 1e-5, 1e-4, 1e-3, 1e-2, 1e-1),
        min_length=1,
        description="L2 penalties tried on the held-out part of train; where an end of several is best, more are tried "
        "beyond it by factors of 10, one alone is taken as it is",
        json_schema_extra=_acts({"probe.linear.solver": ("lbfgs",)}),
    )
    lars_epochs: Positive = Field(90, description="passes over the training images (Table 10)", json_schema_extra=LARS)
    lars_batch_size: Positive = Field(
        16384, description="at most; the training set if it is smaller", json_schema_extra=LARS
    )
    lars_base_lr: float = Field(
        0.1,
        gt=0,
        description="learning rate per 256 images; LARS moves the weights by about lars_epochs * lars_base_lr * "
        "images / 51200 of their norm: 225 on ImageNet, but 0.25 on the digits, which need 5.0",
        json_schema_extra=LARS,
    )
    lars_warmup_epochs: float | None = Field(
        None,
        ge=0,
        description="epochs of linear warm-up; a ninth of lars_epochs (the paper: 10 of 90) if unset",
        json_schema_extra=LARS,
    )
    lars_augment: bool = Field(
        True, description="random resized crops, features anew each epoch; else features once", json_schema_extra=LARS
    )
    lars_crop_scale: CropScale = Field(
        (0.08, 1.0),
        description="share of the image's area a crop covers, low and high, 0 to 1; with lars_augment",
        json_schema_extra=LARS,
    )
    lars_flip: bool = Field(
        True,
        description="mirror left-right with probability one half; with lars_augment; mirrored digits make no sense",
        json_schema_extra=LARS,
    )

    @property
    def lars_warmup(self) -> float:
        """Epochs of linear warm-up under LARS."""
        return self.lars_epochs / 9 if self.lars_warmup_epochs is None else self.lars_warmup_epochs

    @model_validator(mode="after")
    def _possible(self) -> "LinearProbeConfig":
        if self.lars_warmup > self.lars_epochs:
            raise ValueError(f"lars_warmup_epochs: expected at most lars_epochs={self.lars_epochs}")
        return self


class KnnProbeConfig(Section):
    """Weighted nearest-neighbour vote by cosine similarity."""

    k: Positive = Field(20, description="neighbours that vote; at most the training images")
    temperature: float = Field(0.07, gt=0, description="a vote weighs exp(similarity / temperature)")


class FitConfig(Section):
    """A classifier trained by AdamW (0.9, 0.999): linear warm-up, cosine decay to 0."""

    epochs: Positive = Field(50, description="passes over the training images that are not held out")
    batch_size: Positive = Field(64, description="images per step; those there are if they are fewer")
    micro_batches: Positive = Field(1, description="pieces a batch is computed in, gradients accumulated")
    base_lr: float = Field(8e-3, gt=0, description="learning rate per 256 images: lr = base_lr * batch_size / 256")
    weight_decay: float = Field(0.05, ge=0, description="AdamW's, on weight matrices only")
    warmup_epochs: float | None = Field(
        None, ge=0, description="epochs of linear warm-up; a twentieth of epochs (the paper: 5 of 100) if unset"
    )

    @property
    def warmup(self) -> float:
        """Epochs of linear warm-up."""
        return self.epochs / 20 if self.warmup_epochs is None else self.warmup_epochs

    @model_validator(mode="after")
    def _possible(self) -> "FitConfig":
        if self.warmup > self.epochs:
            raise ValueError(f"warmup_epochs: expected at most epochs={self.epochs}")
        return self


class FinetuneProbeConfig(FitConfig):
    """Fine-tuning (Table 9), also the recipe of partial fine-tuning; by default for small images, minutes on a CPU."""

    layer_decay: float = Field(
        0.75, gt=0, le=1, description="factor of the learning rate from a block to the one before; 1: the same for all"
    )
    drop_path: float = Field(
        0.0, ge=0, lt=1, description="chance that an image skips the last block's halves; less before, 0 in the first"
    )
    smoothing: float = Field(0.1, ge=0, lt=1, description="share of a label that all classes get alike")
    augment: bool = Field(
        True, description="crops, flips, RandAugment, erasing, mixup and CutMix; else images as they are"
    )
    crop_scale: CropScale = Field(
        (0.8, 1.0), description="share of the image's area a crop covers, low and high", json_schema_extra=AUGMENTED
    )
    flip: bool = Field(False, description="mirror left-right with probability one half", json_schema_extra=AUGMENTED)
    randaugment: float = Field(
        0.0,
        ge=0,
        le=10,
        description="magnitude of RandAugment, which changes by 0.5 from operation to operation; 0: none",
        json_schema_extra=AUGMENTED | {"before": 0.0},
    )
    erasing: float = Field(
        0.0, ge=0, le=1, description="share of images of which a box is erased", json_schema_extra=AUGMENTED
    )
    mixup: float = Field(
        0.0, ge=0, description="strength of mixup, both of Beta's parameters; 0: none", json_schema_extra=AUGMENTED
    )
    cutmix: float = Field(
        0.0,
        ge=0,
        description="strength of CutMix; 0: none; each in half of the batches if there is mixup too",
        json_schema_extra=AUGMENTED,
    )


class PartialProbeConfig(Section):
    """Fine-tuning of the last blocks only (Fig. 9), under the recipe of `probe.finetune`."""

    blocks: float = Field(
        1.0,
        ge=0,
        description="number of last blocks that are tuned, all if there are no more; 0.5: the last one's MLP; 0: none",
    )

    @model_validator(mode="after")
    def _possible(self) -> "PartialProbeConfig":
        if self.blocks != 0.5 and not self.blocks.is_integer():
            raise ValueError("blocks: expected a whole number, or 0.5")
        return self


class AttentiveProbeConfig(FitConfig):
    """Learned queries that attend to the frozen patches, then a linear classifier (Efficient Probing)."""

    queries: Positive = Field(16, description="learned queries; divides the encoder's dim")
    base_lr: float = Field(2e-2, gt=0, description="learning rate per 256 images: lr = base_lr * batch_size / 256")
    weight_decay: float = Field(0.0, ge=0, description="AdamW's, on weight matrices only")


class ProbeConfig(Section):
    """What the encoder is asked after pretraining."""

    kinds: Annotated[tuple[ProbeKind, ...], BeforeValidator(_as_tuple)] = Field(
        ("linear", "knn"), min_length=1, description="probes to run"
    )
    source: str | None = Field(
        None,
        min_length=1,
        description="images with labels to probe on, named as in data.source, stored and normalised like those of the "
        "pretraining; these themselves if unset",
        json_schema_extra={"before": None},
    )
    features: Literal["class_token", "patch_mean", "both"] = Field(
        "patch_mean", description="what is read off the encoder's last norm; the paper's linear probe: class_token"
    )
    layer: Positive | None = Field(
        None,
        description="block after which a frozen encoder is read, as the next block reads it: after its norm; the last "
        "one if unset",
        json_schema_extra=_acts({"probe.kinds": FROZEN}) | {"before": None},
    )
    seed: int = Field(0, ge=0, lt=2**32, description="of which labels are learned from, what is held out, and draws")
    labels: float = Field(
        1.0,
        gt=0,
        le=1,
        description="share of the labelled training images that probes learn from, of each class, at least one of it; "
        "what is held out is among them",
        json_schema_extra={"before": 1.0},
    )
    labels_per_class: Positive | None = Field(
        None, description="the number of them per class, in place of a share", json_schema_extra={"before": None}
    )
    holdout_fraction: Share = Field(
        0.1, description="share of train held out, to choose a penalty and to measure what a sweep selects by"
    )
    linear: LinearProbeConfig = Field(LinearProbeConfig(), description="the linear probe")
    knn: KnnProbeConfig = Field(KnnProbeConfig(), description="the k-NN probe")
    attentive: AttentiveProbeConfig = Field(AttentiveProbeConfig(), description="the attentive probe")
    partial: PartialProbeConfig = Field(PartialProbeConfig(), description="partial fine-tuning")
    finetune: FinetuneProbeConfig = Field(FinetuneProbeConfig(), description="fine-tuning")

    @model_validator(mode="after")
    def _possible(self) -> "ProbeConfig":
        if self.labels < 1 and self.labels_per_class is not None:
            raise ValueError("labels_per_class: set this or labels, not both")
        return self


class RunConfig(Section):
    """How a run is carried out and watched; nothing here changes a weight."""

    checkpoint_seconds: float = Field(
        120.0,
        ge=0,
        description="least time between checkpoints, s, or 100 times what one costs training; 0: every step",
    )
    log_every: Positive = Field(20, description="optimiser steps between points of the curves")
    knn_every: int = Field(
        10, ge=0, description="epochs between online evaluations (k-NN, RankMe, LiDAR), and one at the end; 0: none"
    )
    picture_every: int = Field(
        25, ge=0, description="epochs between reconstruction pictures, and one at the end; 0: none"
    )
    loader_workers: Positive | None = Field(
        None, description="threads that decode images (processes, if they are streamed); one per core if unset"
    )
    cache_limit_gb: float = Field(
        16.0, ge=0, description="largest decoded data set that is cached, GB; a larger one is decoded at each use"
    )

    @property
    def workers(self) -> int:
        """Threads or processes that decode images."""
        from joblib import cpu_count  # heeds a container's share of the cores

        return self.loader_workers or cpu_count()


class Config(Section):
    """Everything a pipeline needs to know."""

    data: DataConfig = Field(DataConfig(), description=DataConfig.__doc__)
    model: ModelConfig = Field(ModelConfig(), description=ModelConfig.__doc__)
    pretext: PretextConfig = Field(PretextConfig(), description=PretextConfig.__doc__)
    denoise: DenoiseConfig = Field(DenoiseConfig(), description=DenoiseConfig.__doc__, json_schema_extra=DENOISE)
    inpaint: InpaintConfig = Field(InpaintConfig(), description=InpaintConfig.__doc__, json_schema_extra=INPAINT)
    igpt: IgptConfig = Field(IgptConfig(), description=IgptConfig.__doc__, json_schema_extra=IGPT)
    tokenizer: TokenizerConfig = Field(
        TokenizerConfig(), description=TokenizerConfig.__doc__, json_schema_extra=TOKENIZER
    )
    beit: BeitConfig = Field(BeitConfig(), description=BeitConfig.__doc__, json_schema_extra=BEIT)
    rotation: RotationConfig = Field(RotationConfig(), description=RotationConfig.__doc__, json_schema_extra=ROTATION)
    context: ContextConfig = Field(ContextConfig(), description=ContextConfig.__doc__, json_schema_extra=CONTEXT)
    jigsaw: JigsawConfig = Field(JigsawConfig(), description=JigsawConfig.__doc__, json_schema_extra=JIGSAW)
    colorize: ColorizeConfig = Field(ColorizeConfig(), description=ColorizeConfig.__doc__, json_schema_extra=COLORIZE)
    instance: InstanceConfig = Field(InstanceConfig(), description=InstanceConfig.__doc__, json_schema_extra=INSTANCE)
    moco: MocoConfig = Field(MocoConfig(), description=MocoConfig.__doc__, json_schema_extra=MOCO)
    simsiam: SimSiamConfig = Field(SimSiamConfig(), description=SimSiamConfig.__doc__, json_schema_extra=SIMSIAM)
    cvrl: CvrlConfig = Field(CvrlConfig(), description=CvrlConfig.__doc__, json_schema_extra=CVRL)
    supervised: SupervisedConfig = Field(
        SupervisedConfig(), description=SupervisedConfig.__doc__, json_schema_extra=SUPERVISED
    )
    views: ViewsConfig = Field(ViewsConfig(), description=ViewsConfig.__doc__, json_schema_extra=VIEWS)
    mask: MaskConfig = Field(MaskConfig(), description=MaskConfig.__doc__, json_schema_extra=PATCHES)
    target: TargetConfig = Field(TargetConfig(), description=TargetConfig.__doc__, json_schema_extra=TARGET)
    loss: LossConfig = Field(LossConfig(), description=LossConfig.__doc__, json_schema_extra=PARTS)
    train: TrainConfig = Field(TrainConfig(), description=TrainConfig.__doc__)
    probe: ProbeConfig = Field(ProbeConfig(), description=ProbeConfig.__doc__)
    run: RunConfig = Field(RunConfig(), description=RunConfig.__doc__)

    @property
    def probed_data(self) -> DataConfig:
        """Which images probes see, and how these reach the model."""
        return self.data.model_copy(update={"source": self.probe.source or self.data.source})

    @property
    def patch(self) -> tuple[int, ...]:
        """What a patch measures: height and width, pixels; one of a clip has its frames before them."""
        return self.model.patch_size if self.data.frames is None else (self.model.tubelet, *self.model.patch_size)

    @property
    def grid(self) -> tuple[int, ...]:
        """Rows and columns of patches, or of the pixels that are tokens in their place; of clips, times before them."""
        if self.pixel_tokens:
            height, width = self.data.image_size
            scale = min(1.0, self.igpt.side / max(height, width))
            return max(1, round(height * scale)), max(1, round(width * scale))
        return tuple(side // part for side, part in zip(self.data.seen, self.patch, strict=True))

    @property
    def patches(self) -> int:
        """Patches per image, or pixels that are tokens in their place."""
        return math.prod(self.grid)

    @property
    def kept_patches(self) -> int:
        """Patches per image that stay visible: (1 - ratio) of them, rounded to the nearest whole number."""
        ratio = self.beit.ratio if self.pretext.kind == "beit" else self.mask.ratio
        return round(self.patches * (1 - ratio))

    @property
    def epochs(self) -> int:
        """Passes over the training images: none where nothing is learned."""
        return 0 if self.pretext.kind == "random" else self.train.epochs

    @property
    def pixel_tokens(self) -> bool:
        """Whether the encoder reads pixels of a palette in place of patches."""
        return self.pretext.kind in PIXEL_KINDS

    @property
    def sees_lightness(self) -> bool:
        """Whether the encoder sees the lightness of images in place of their colours."""
        return self.pretext.kind == "colorize"

    @property
    def color_cell(self) -> tuple[int, int]:
        """Height and width of the cells whose colours are predicted, pixels: at most `COLOR_CELL`, parts of a patch."""
        height, width = self.model.patch_size
        return math.gcd(COLOR_CELL, height), math.gcd(COLOR_CELL, width)

    @property
    def color_cells(self) -> tuple[int, int]:
        """Rows and columns of these cells in a patch."""
        (height, width), (rows, columns) = self.model.patch_size, self.color_cell
        return height // rows, width // columns

    @property
    def colors(self) -> int:
        """Colours of the palette."""
        return min(self.igpt.colors, 256) if self.data.channels == 1 else self.igpt.colors

    @property
    def masked_pixels(self) -> int:
        """Pixels per image that `igpt.mask_ratio` comes to."""
        return round(self.patches * self.igpt.mask_ratio)

    @property
    def encoder_mask_tokens(self) -> bool:
        """Whether the encoder has mask tokens, for hidden patches."""
        denoised = self.pretext.kind == "denoise" and self.denoise.noise == "masked_patches"
        return self.model.encoder_mask_tokens or denoised or self.pretext.kind == "beit"

    @property
    def couples_images(self) -> bool:
        """Whether the loss of an image depends on the others of its batch, so that parts do not add up to the whole."""
        if self.pretext.kind == "moco":
            return self.moco.version == "v3" or self.moco.batch_norm
        return self.pretext.kind in ("instance", "simsiam", "cvrl")

    @property
    def predicts_codes(self) -> bool:
        """Whether the codes of another run's tokenizer are what is predicted."""
        return self.pretext.kind == "beit" or (self.pretext.kind == "mae" and self.target.kind == "tokens")

    @property
    def corrupted_pixels(self) -> int:
        """Pixels per image that `denoise.share` comes to."""
        return round(math.prod(self.data.image_size) * self.denoise.share)

    @property
    def piece_size(self) -> tuple[int, int]:
        """Height and width, pixels, of the centre that `inpaint.region` names, or of each of its blocks."""
        height, width = self.data.image_size
        part = 0.5 if self.inpaint.region == "centre" else math.sqrt(self.inpaint.share / BLOCKS)
        return math.floor(height * part), math.floor(width * part)

    @property
    def shape_pixels(self) -> int:
        """Pixels per image that `inpaint.share` comes to with shapes."""
        return round(math.prod(self.data.image_size) * self.inpaint.share)

    @property
    def overlap_pixels(self) -> tuple[int, int]:
        """Height and width, pixels, that `inpaint.overlap` comes to."""
        height, width = self.data.image_size
        return round(height * self.inpaint.overlap), round(width * self.inpaint.overlap)

    @property
    def tile_size(self) -> tuple[int, int]:
        """Height and width, pixels, of the tiles of `context` and `jigsaw`: the largest that leave room, or 0."""
        height, width = (
            next((size for size in range(side, 0, -1) if self._tiles_fit(size, side)), 0)
            for side in self.data.image_size
        )
        return height, width

    @property
    def tile_grid(self) -> tuple[int, int]:
        """Rows and columns of patches that the encoder reads of a tile: those of an image, or about its own."""
        if (self.jigsaw if self.pretext.kind == "jigsaw" else self.context).magnify:
            rows, columns = self.grid
            return rows, columns
        rows, columns = (
            max(1, round(size / patch)) for size, patch in zip(self.tile_size, self.model.patch_size, strict=True)
        )
        return rows, columns

    @property
    def tile_color(self) -> TileColor:
        """What is done about the colours of tiles: nothing where there are none."""
        color = self.jigsaw.color if self.pretext.kind == "jigsaw" else self.context.color
        return "keep" if self.data.channels == 1 else color

    @property
    def positions(self) -> bool:
        """Whether the encoder's patches know where they are."""
        return self.pretext.kind != "jigsaw" or self.jigsaw.pieces == "tiles"

    @property
    def jigsaw_patches(self) -> int:
        """Patches per image that `jigsaw.dropped` leaves."""
        return round(self.patches * (1 - self.jigsaw.dropped))

    def _tiles_fit(self, size: int, side: int) -> bool:
        if self.pretext.kind == "jigsaw":
            return size + round(self.jigsaw.gap * size) <= side // 3
        return 3 * size + 2 * round(self.context.gap * size) + 2 * round(self.context.jitter * size) <= side

    @model_validator(mode="after")
    def _possible(self) -> "Config":
        for side, image, patch in zip(("height", "width"), self.data.image_size, self.model.patch_size, strict=True):
            if image % patch and not self.pixel_tokens:
                raise ValueError(f"model.patch_size: expected a divisor of data.image_size ({side} {image})")
        self._check_clips()
        height, width = self.data.image_size
        if self.pretext.kind == "rotation" and height != width:
            raise ValueError(f"pretext.kind: rotation needs square images, not {height} x {width} (data.image_size)")
        if self.pretext.kind == "colorize" and self.data.channels == 1:
            raise ValueError("data.channels: pretext.kind=colorize predicts colours; expected 3, and colour images")
        if "attentive" in self.probe.kinds and self.model.encoder.dim % self.probe.attentive.queries:
            raise ValueError(
                f"probe.attentive.queries: expected a divisor of model.encoder.dim={self.model.encoder.dim}"
            )
        if self.probe.layer is not None and self.probe.layer > self.model.encoder.depth:
            raise ValueError(f"probe.layer: expected at most model.encoder.depth={self.model.encoder.depth}")
        if self.pretext.kind == "igpt_bert" and not 1 <= self.masked_pixels < self.patches:
            raise ValueError(
                f"igpt.mask_ratio: hides {self.masked_pixels} of {self.patches} pixels; expected at least 1, and 1 seen"
            )
        if self.pretext.kind in VIEWED and self.data.augmentation == "color_jitter":
            raise ValueError(
                f"data.augmentation: views.jitter says how colours change with pretext.kind={self.pretext.kind}; "
                "expected random_resized_crop, fixed_crop or none"
            )
        if self.couples_images:
            self._check_batch()
        if self.pretext.kind == "denoise":
            self._check_noise()
        if self.pretext.kind == "inpaint":
            self._check_region()
        if self.pretext.kind in ("context", "jigsaw"):
            self._check_tiles()
        if self.predicts_codes and self.target.tokenizer is None:
            raise ValueError(
                "target.tokenizer: expected a finished run of pretext.kind=vqvae or dvae, whose codes are predicted"
            )
        hides = self.pretext.kind in ("mae", "video_mae") or self.encoder_mask_tokens
        if hides and not 1 <= self.kept_patches < self.patches:
            key = "beit.ratio" if self.pretext.kind == "beit" else "mask.ratio"
            raise ValueError(
                f"{key}: keeps {self.kept_patches} of {self.patches} patches; expected at least 1, and 1 hidden"
            )
        return self

    def _check_batch(self) -> None:
        if self.train.micro_batches > 1:
            raise ValueError(
                f"train.micro_batches: expected 1, as all images of a batch have a part in each one's loss with "
                f"pretext.kind={self.pretext.kind}; give a smaller train.batch_size, or more processes, which exchange "
                "what they need"
            )
        if self.train.batch_size == 1:
            raise ValueError(f"train.batch_size: expected at least 2, to be compared by {self.pretext.kind}")

    def _check_clips(self) -> None:
        kind, data, tubelet = self.pretext.kind, self.data, self.model.tubelet
        if data.frames is None:
            if kind in CLIP_KINDS:
                raise ValueError(
                    f"pretext.kind: {kind} is for clips, and data.source={data.source} has images; expected "
                    "data.source=moving_digits or clips:PATH"
                )
            if tubelet != ModelConfig.model_fields["tubelet"].default:
                raise ValueError(f"model.tubelet: data.source={data.source} has images; it acts on clips only")
            return
        if kind not in (fitting := (*CLIP_KINDS, *EITHER_KINDS)):
            raise ValueError(
                f"pretext.kind: {kind} is for images, and data.source={data.source} has clips; expected one of "
                f"{', '.join(fitting)}"
            )
        if data.frames % tubelet:
            raise ValueError(f"model.tubelet: expected a divisor of data.frames={data.frames}")
        if kind == "cvrl" and data.stored[0] == data.frames:
            raise ValueError(
                f"data.stored_frames: cvrl cuts two clips out of each, at different times; expected more than "
                f"data.frames={data.frames}"
            )
        for key, used, instead in self._of_images_only():
            if used:
                raise ValueError(
                    f"{key}: it is for images, and data.source={data.source} has clips; expected {instead}"
                )

    def _of_images_only(self) -> tuple[tuple[str, bool, str], ...]:
        """Return keys whose values clips cannot have: the key, whether it has such a value, what is expected."""
        target, rebuilt = self.target.kind, self.pretext.kind == "video_mae"
        return (
            ("mask.sampling", rebuilt and self.mask.sampling != "random", "random"),
            ("target.kind", rebuilt and target in ("low_pass", "tokens"), "pixels, normalized_pixels or pca"),
            ("model.decoder.mixing", rebuilt and self.model.decoder.mixing != "none", "none"),
            ("model.encoder.dim", self.model.encoder.dim < 8, "at least 8, as positions are in three directions"),
            ("model.decoder.dim", rebuilt and self.model.decoder.dim < 8, "at least 8"),
            ("probe.finetune.randaugment", self.probe.finetune.randaugment > 0, "0"),
        )

    def _check_noise(self) -> None:
        if self.target.kind == "tokens":
            raise ValueError(
                "target.kind: expected pixels of some kind; codes are predicted with pretext.kind=mae or beit"
            )
        noise, pixels = self.denoise.noise, math.prod(self.data.image_size)
        if noise not in ("masked_pixels", "salt_and_pepper"):
            return
        if not 1 <= self.corrupted_pixels < pixels:
            raise ValueError(
                f"denoise.share: corrupts {self.corrupted_pixels} of {pixels} pixels; expected at least 1, and 1 clean"
            )
        if self.target.kind == "pca":
            raise ValueError(
                f"target.kind: of a coefficient nobody can say whether denoise.noise={noise} has corrupted it; "
                "expected a target of pixels"
            )

    def _check_region(self) -> None:
        pixels, (rows, columns) = math.prod(self.data.image_size), self.overlap_pixels
        if self.inpaint.region == "shapes":
            if not 1 <= self.shape_pixels < pixels:
                raise ValueError(
                    f"inpaint.share: cuts out {self.shape_pixels} of {pixels} pixels; expected at least 1, and 1 left"
                )
            return
        height, width = self.piece_size
        if height <= 2 * rows or width <= 2 * columns:
            raise ValueError(
                f"inpaint.region: cuts nothing out, as pieces of {height} x {width} pixels have a border of {rows} x "
                f"{columns} on either side that is kept; expected a smaller inpaint.overlap, or larger pieces"
            )

    def _check_tiles(self) -> None:
        if self.pretext.kind == "jigsaw" and self.jigsaw.pieces == "patches":
            if self.jigsaw_patches < 2:
                raise ValueError(
                    f"jigsaw.dropped: leaves {self.jigsaw_patches} of {self.patches} patches; expected at least 2"
                )
            return
        (height, width), (rows, columns) = self.data.image_size, self.tile_size
        if min(rows, columns) < 2:
            other = "a smaller gap" + (", or jigsaw.pieces=patches" if self.pretext.kind == "jigsaw" else "")
            raise ValueError(
                f"{self.pretext.kind}.gap: leaves tiles of {rows} x {columns} pixels in images of {height} x {width}; "
                f"expected at least 2 x 2: a larger data.image_size, {other}"
            )
        if self.pretext.kind == "context" and any(
            2 * round(self.context.jitter * size) > round(self.context.gap * size) for size in self.tile_size
        ):
            raise ValueError("context.jitter: tiles could overlap; expected at most half of context.gap")
