"""Which images or clips there are, and how they reach the model."""

from contextlib import suppress
from pathlib import Path
from typing import Literal

from pydantic import Field, model_validator

from mae.config.section import CropScale, PerChannel, Positive, Section, Share, Size, acts

CLIP_SOURCES = ("moving_digits", "clips")
"""Sources of clips."""


def local_path(location: str) -> Path:
    """Return the place that a source names behind its colon; the home of a user whom nobody knows stays as written."""
    with suppress(RuntimeError):
        return Path(location).expanduser()
    return Path(location)


class DataConfig(Section):
    """Which images, and how they reach the model."""

    source: str = Field(
        "digits",
        min_length=1,
        description="digits, folder:PATH, images:PATH (all below it, without labels), or a torchvision data set; of "
        "clips: moving_digits, or clips:PATH",
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
        json_schema_extra=acts({"data.augmentation": ("random_resized_crop", "color_jitter")}),
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
