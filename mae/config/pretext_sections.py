"""What the encoder is pretrained on: a section per pretext task, and what several of them share."""

from typing import Annotated, Literal

from pydantic import BeforeValidator, Field, model_validator

from mae.config.kinds import PretextKind
from mae.config.section import Chance, Chances, Positive, Range, Section, Share, acts, acts_in, as_tuple

TILES = acts({"jigsaw.pieces": ("tiles",)})


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
        json_schema_extra=acts({"denoise.noise": ("gaussian",)}),
    )
    share: Share = Field(
        0.25,
        description="share of an image's pixels that are corrupted, all channels of one together; rounded to whole "
        "pixels",
        json_schema_extra=acts({"denoise.noise": ("masked_pixels", "salt_and_pepper")}),
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
        json_schema_extra=acts({"inpaint.region": ("blocks", "shapes")}),
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
        json_schema_extra=acts({"pretext.kind": ("igpt_bert",)}),
    )


class TokenizerConfig(Section):
    """How a tokenizer makes codes of patches (VQ-VAE; DALL-E's dVAE)."""

    codes: int = Field(512, ge=2, description="codes there are; VQ-VAE: 512, DALL-E: 8192")
    width: Positive = Field(32, description="numbers that a code stands for in front of the decoder")
    commitment: float = Field(
        0.25,
        ge=0,
        description="weight of the squared distance from codes, which draws the encoder to them",
        json_schema_extra=acts_in("vqvae"),
    )
    decay: float = Field(
        0.99,
        ge=0,
        lt=1,
        description="of the moving averages that the codebook is, per step",
        json_schema_extra=acts_in("vqvae"),
    )
    temperature: Range = Field(
        (1.0, 0.0625),
        description="of Gumbel-softmax at the start and at the end of training; half a cosine leads from one to the "
        "other",
        json_schema_extra=acts_in("dvae"),
    )
    kl_weight: float = Field(
        0.05,
        ge=0,
        description="weight at the end of training of the codes' divergence from the uniform distribution, in nats per "
        "patch; it rises from 0 as the temperature falls",
        json_schema_extra=acts_in("dvae"),
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
        json_schema_extra=acts({"mask.sampling": ("colored_noise",)}),
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
        json_schema_extra=acts({"data.channels": (3,)}),
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
        json_schema_extra=acts({"jigsaw.pieces": ("tiles",), "data.channels": (3,)}),
    )
    dropped: float = Field(
        0.5,
        ge=0,
        lt=1,
        description="share of patches that the encoder does not get; those left are rounded",
        json_schema_extra=acts({"jigsaw.pieces": ("patches",)}),
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
        json_schema_extra=acts({"colorize.loss": ("classification",)}),
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
        json_schema_extra=acts({"instance.loss": ("nce",)}),
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
        json_schema_extra=acts({"moco.version": ("v2",)}),
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
        json_schema_extra=acts({"moco.version": ("v2",)}) | {"before": False},
    )
    frozen_patches: bool = Field(
        False,
        description="leave the encoder's patch projection as it is initialised, which keeps ViTs stable",
        json_schema_extra=acts({"moco.version": ("v3",)}),
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
    jitter_strength: Annotated[tuple[Chance, Chance, Chance, Chance], BeforeValidator(as_tuple)] = Field(
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
        json_schema_extra=acts_in("mae", "denoise", "video_mae"),
    )
    tokenizer: str | None = Field(
        None,
        min_length=1,
        description="the finished run that makes the codes, of pretext.kind=vqvae or dvae, in the same runs folder: "
        "its fingerprint, the start of it, or its folder",
        json_schema_extra=acts({"target.kind": ("tokens",)}),
    )
    pca_variance: float = Field(
        0.99,
        gt=0,
        le=1,
        description="share of the patches' variance the PCA target keeps",
        json_schema_extra=acts({"pretext.kind": ("mae", "denoise", "video_mae"), "target.kind": ("pca",)}),
    )
    cutoff: float = Field(
        40 / 112,
        gt=0,
        le=1,
        description="highest frequency the low_pass target keeps, as a share of the highest along a side (half a cycle "
        "per pixel); PixMIM: 40 of 112 cycles per image of 224 pixels",
        json_schema_extra=acts({"pretext.kind": ("mae", "denoise", "video_mae"), "target.kind": ("low_pass",)}),
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
        json_schema_extra=acts({"loss.region": ("weighted",)}),
    )

    @property
    def weight_of_visible(self) -> float:
        """Weight of a visible patch in the loss, a masked one having 1; at 0 `mae` predicts masked ones only."""
        return {"masked": 0.0, "all": 1.0, "weighted": self.visible_weight}[self.region]
