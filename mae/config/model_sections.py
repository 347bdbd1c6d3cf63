"""The encoder, and the decoder of pretraining."""

from typing import Annotated, Literal, get_args

from pydantic import BeforeValidator, Field, model_validator

from mae.config.kinds import PIXEL_KINDS, PretextKind
from mae.config.section import Positive, Section, Size, Width, acts, acts_in, as_tuple, ascending

OF_PATCHES = acts_in(*(kind for kind in get_args(PretextKind) if kind not in PIXEL_KINDS))


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
    kernels: Annotated[tuple[Annotated[int, Field(ge=1, le=31)], ...], BeforeValidator(as_tuple)] = Field(
        (3, 5, 7),
        min_length=1,
        description="their sizes in patches, side by side; odd, in ascending order",
        json_schema_extra=acts({"model.decoder.mixing": ("convolutions",)}),
    )
    global_token: bool = Field(
        False,
        description="add the mean of the visible patches, as they are encoded, to every mask token",
        json_schema_extra=acts({"pretext.kind": ("mae", "video_mae"), "model.encoder_mask_tokens": (False,)})
        | {"before": False},
    )
    fusion: Annotated[tuple[Positive, ...], BeforeValidator(as_tuple)] = Field(
        (),
        description="encoder blocks, counted from 1, whose outputs are read besides the last one's (MFF); in ascending "
        "order",
        json_schema_extra=acts({"pretext.kind": ("mae", "denoise", "inpaint", "video_mae")}) | {"before": []},
    )

    @model_validator(mode="after")
    def _context(self) -> "DecoderConfig":
        if any(size % 2 == 0 for size in self.kernels) or not ascending(self.kernels):
            raise ValueError("kernels: expected odd numbers in ascending order, each once")
        if not ascending(self.fusion):
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
        json_schema_extra=acts_in("mae", "denoise", "inpaint", "vqvae", "dvae", "video_mae"),
    )
    encoder_mask_tokens: bool = Field(
        False,
        description="give the encoder mask tokens for the hidden patches instead of leaving them out (Table 1c)",
        json_schema_extra=acts_in("mae", "video_mae"),
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
