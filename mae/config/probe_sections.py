"""How encoders are probed: a section per kind of probe."""

from typing import Annotated, Literal

from pydantic import BeforeValidator, Field, model_validator

from mae.config.kinds import FROZEN, ProbeKind
from mae.config.section import CropScale, Positive, Section, Share, acts, as_tuple

LARS = acts({"probe.linear.solver": ("lars",)})
AUGMENTED = acts({"probe.finetune.augment": (True,)})


class LinearProbeConfig(Section):
    """Linear classifier on frozen features, batch norm without affine before it."""

    solver: Literal["lbfgs", "lars"] = Field("lbfgs", description="logistic regression, or the paper's LARS protocol")
    penalties: Annotated[tuple[Annotated[float, Field(ge=0)], ...], BeforeValidator(as_tuple)] = Field(
        (1e-6, 1e-5, 1e-4, 1e-3, 1e-2, 1e-1),
        min_length=1,
        description="L2 penalties tried on the held-out part of train; where an end of several is best, more are tried "
        "beyond it by factors of 10, one alone is taken as it is",
        json_schema_extra=acts({"probe.linear.solver": ("lbfgs",)}),
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

    kinds: Annotated[tuple[ProbeKind, ...], BeforeValidator(as_tuple)] = Field(
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
        json_schema_extra=acts({"probe.kinds": FROZEN}) | {"before": None},
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
