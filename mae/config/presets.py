"""Presets: the settings of a known experiment as differences from the defaults, keyed by dotted names.

Recipes of the `imagenet-*` presets: the paper's appendix A.1, Tables 8 (pretraining), 9 (fine-tuning) and 10 (linear
probe). Two things differ: crops come from the centre square of an image, kept at 256 pixels, not from the whole image;
and fine-tuning erases boxes, as the official code does, but has no RandAugment.
"""

from typing import Any

from pydantic import BaseModel

Overrides = dict[str, Any]


class Preset(BaseModel):
    """A named starting point: what it is for, and its differences from the defaults."""

    purpose: str
    overrides: Overrides


DEFAULT = "digits"
"""Where no preset is named, this one is taken, unless another `data.source` is given."""

_CIFAR: Overrides = {
    "data.source": "cifar10",
    "data.crop_scale": [0.2, 1.0],
    "data.flip": True,
    "probe.finetune.crop_scale": [0.5, 1.0],
    "probe.finetune.flip": True,
}

_MIXED: Overrides = {
    "probe.finetune.base_lr": 1e-3,
    "probe.finetune.drop_path": 0.1,
    "probe.finetune.randaugment": 9.0,
    "probe.finetune.erasing": 0.25,
    "probe.finetune.mixup": 0.8,
    "probe.finetune.cutmix": 1.0,
}

_IMAGENET: Overrides = {
    "data.source": "imagenet:imagenet",
    "data.image_size": 224,
    "data.stored_size": 256,
    "data.crop_scale": [0.2, 1.0],
    "data.flip": True,
    "data.mean": [0.485, 0.456, 0.406],
    "data.std": [0.229, 0.224, 0.225],
    "model.patch_size": 16,
    "model.decoder.dim": 512,
    "model.decoder.depth": 8,
    "model.decoder.heads": 16,
    "train.epochs": 800,
    "train.batch_size": 4096,
    "train.micro_batches": 16,
    "train.base_lr": 1.5e-4,
    "train.precision": "bf16",
    "probe.linear.solver": "lars",
    "probe.features": "class_token",
    "probe.attentive.epochs": 90,
    "probe.attentive.batch_size": 1024,
    "probe.attentive.base_lr": 1e-3,
    "probe.finetune.epochs": 50,
    "probe.finetune.batch_size": 1024,
    "probe.finetune.micro_batches": 8,
    "probe.finetune.crop_scale": [0.08, 1.0],
    "probe.finetune.flip": True,
    "run.loader_workers": 12,
} | _MIXED

PRESETS: dict[str, Preset] = {
    "digits": Preset(
        purpose="1,797 handwritten digits of 8 x 8 pixels, embedded: seconds per run on a CPU",
        overrides={"data.source": "digits", "data.image_size": 8, "data.channels": 1, "model.patch_size": 2},
    ),
    "moving-digits": Preset(
        purpose="clips of 8 frames of 16 x 16 pixels, in which an embedded digit moves: a minute per run on a CPU",
        overrides={
            "data.source": "moving_digits",
            "data.image_size": 16,
            "data.channels": 1,
            "data.frames": 8,
            "data.stored_frames": 16,
            "data.augmentation": "fixed_crop",
            "pretext.kind": "video_mae",
            "mask.ratio": 0.9,
            "train.epochs": 20,
        },
    ),
    "cifar10-tiny": Preset(
        purpose="a 128 x 6 encoder on CIFAR-10, patch 4: minutes on a CPU, seconds per epoch on a GPU",
        overrides=_CIFAR
        | {
            "model.encoder.dim": 128,
            "model.encoder.depth": 6,
            "model.decoder.dim": 64,
            "model.decoder.depth": 2,
            "probe.finetune.epochs": 20,
            "train.batch_size": 64,  # small batches are many steps: after an epoch k-NN is at 35 %, with 256 at 28 %
            "train.base_lr": 4e-3,
        },
    ),
    "cifar10-vit-t": Preset(
        purpose="ViT-T on CIFAR-10, patch 2, for hundreds of epochs on one GPU",
        overrides=_CIFAR
        | _MIXED
        | {
            "probe.finetune.epochs": 100,
            "probe.finetune.batch_size": 256,
            "model.patch_size": 2,
            "model.encoder.dim": 192,
            "model.encoder.depth": 12,
            "model.encoder.heads": 3,
            "model.decoder.dim": 192,
            "model.decoder.depth": 4,
            "model.decoder.heads": 3,
            "train.epochs": 400,
            "train.batch_size": 1024,
            "train.base_lr": 1.5e-4,
            "train.precision": "bf16",
        },
    ),
    "imagenet-vit-b": Preset(
        purpose="the paper's ViT-B/16 on ImageNet-1K",
        overrides=_IMAGENET
        | {
            "probe.finetune.epochs": 100,
            "model.encoder.dim": 768,
            "model.encoder.depth": 12,
            "model.encoder.heads": 12,
        },
    ),
    "imagenet-vit-l": Preset(
        purpose="the paper's ViT-L/16 on ImageNet-1K, the default of its Table 1",
        overrides=_IMAGENET | {"model.encoder.dim": 1024, "model.encoder.depth": 24, "model.encoder.heads": 16},
    ),
    "imagenet-vit-h": Preset(
        purpose="the paper's ViT-H/14 on ImageNet-1K",
        overrides=_IMAGENET
        | {
            "probe.finetune.drop_path": 0.2,
            "model.patch_size": 14,
            "model.encoder.dim": 1280,
            "model.encoder.depth": 32,
            "model.encoder.heads": 16,
        },
    ),
}
