"""The typed config tree: every setting of a pipeline with its unit, range and default.

Nothing else in the program has defaults of its own. They fit small colour images and a CPU; the mask is the paper's.
Sources and their precedence are in `mae.config.resolve`, experiments on known data sets in `mae.config.presets`, what
identifies a run in `mae.config.fingerprint`.
"""

import math
from typing import Annotated, Any, Literal, get_args

from pydantic import BeforeValidator, Field, model_validator

from mae.config.data_section import DataConfig
from mae.config.kinds import CLIP_KINDS, EITHER_KINDS, PIXEL_KINDS, TOKENIZERS, VIEWED, PretextKind
from mae.config.model_sections import ModelConfig
from mae.config.pretext_sections import (
    BLOCKS,
    COLOR_CELL,
    BeitConfig,
    ColorizeConfig,
    ContextConfig,
    CvrlConfig,
    DenoiseConfig,
    IgptConfig,
    InpaintConfig,
    InstanceConfig,
    JigsawConfig,
    LossConfig,
    MaskConfig,
    MocoConfig,
    PretextConfig,
    RotationConfig,
    SimSiamConfig,
    SupervisedConfig,
    TargetConfig,
    TileColor,
    TokenizerConfig,
    ViewsConfig,
)
from mae.config.probe_sections import ProbeConfig
from mae.config.section import Positive, Section, acts, acts_in

TRAINED = acts_in(*(kind for kind in get_args(PretextKind) if kind != "random"))
MASKED = acts({"pretext.kind": ("mae", "denoise", "video_mae"), "denoise.noise": ("masked_patches",)})
IN_PARTS = acts(
    {
        "pretext.kind": ("mae", "denoise", "video_mae"),
        "denoise.noise": ("masked_pixels", "masked_patches", "salt_and_pepper"),
    }
)


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


def _table(section: type[Section], extra: dict[str, Any] | None = None) -> Any:
    return Field(section(), description=section.__doc__, json_schema_extra=extra)


class Config(Section):
    """Everything a pipeline needs to know."""

    data: DataConfig = _table(DataConfig)
    model: ModelConfig = _table(ModelConfig)
    pretext: PretextConfig = _table(PretextConfig)
    denoise: DenoiseConfig = _table(DenoiseConfig, acts_in("denoise"))
    inpaint: InpaintConfig = _table(InpaintConfig, acts_in("inpaint"))
    igpt: IgptConfig = _table(IgptConfig, acts_in(*PIXEL_KINDS))
    tokenizer: TokenizerConfig = _table(TokenizerConfig, acts_in(*TOKENIZERS))
    beit: BeitConfig = _table(BeitConfig, acts_in("beit"))
    rotation: RotationConfig = _table(RotationConfig, acts_in("rotation"))
    context: ContextConfig = _table(ContextConfig, acts_in("context"))
    jigsaw: JigsawConfig = _table(JigsawConfig, acts_in("jigsaw"))
    colorize: ColorizeConfig = _table(ColorizeConfig, acts_in("colorize"))
    instance: InstanceConfig = _table(InstanceConfig, acts_in("instance"))
    moco: MocoConfig = _table(MocoConfig, acts_in("moco"))
    simsiam: SimSiamConfig = _table(SimSiamConfig, acts_in("simsiam"))
    cvrl: CvrlConfig = _table(CvrlConfig, acts_in("cvrl"))
    supervised: SupervisedConfig = _table(SupervisedConfig, acts_in("supervised"))
    views: ViewsConfig = _table(ViewsConfig, acts_in(*VIEWED))
    mask: MaskConfig = _table(MaskConfig, MASKED)
    target: TargetConfig = _table(TargetConfig, acts_in("mae", "denoise", "beit", "video_mae"))
    loss: LossConfig = _table(LossConfig, IN_PARTS)
    train: TrainConfig = _table(TrainConfig)
    probe: ProbeConfig = _table(ProbeConfig)
    run: RunConfig = _table(RunConfig)

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
