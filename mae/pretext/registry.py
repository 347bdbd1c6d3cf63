"""The pretext tasks there are, by name. To add one, write its file and enter it here and in `PretextConfig.kind`."""

from collections.abc import Mapping
from dataclasses import replace
from types import MappingProxyType

import torch
from torch import Tensor

from mae.config.resolve import build, change, flatten
from mae.config.tree import Config
from mae.data.dataset import ImageData
from mae.data.facts import DataFacts, Statistics
from mae.pretext.base import KnownTokenizer, Pretext, Surroundings
from mae.pretext.beginning import Beginning, begin
from mae.pretext.beit import Beit
from mae.pretext.colorize import Colorize
from mae.pretext.context_prediction import ContextPrediction
from mae.pretext.cvrl import ContrastedClips
from mae.pretext.denoise import DenoisingAutoencoder
from mae.pretext.dvae import DiscreteVAE
from mae.pretext.encoder_only import EncoderOnly
from mae.pretext.frozen_tokenizer import settings_in
from mae.pretext.igpt import AutoregressivePixels, MaskedPixels
from mae.pretext.inpaint import ContextEncoder
from mae.pretext.instance import InstanceDiscrimination
from mae.pretext.jigsaw import Jigsaw
from mae.pretext.masked_autoencoder import MaskedAutoencoder
from mae.pretext.moco import MomentumContrast
from mae.pretext.rotation import Rotation
from mae.pretext.simsiam import SimSiam
from mae.pretext.supervised import Supervised
from mae.pretext.untrained import Untrained
from mae.pretext.video_masked_autoencoder import VideoMaskedAutoencoder
from mae.pretext.vqvae import VectorQuantiser
from mae.runtime.rng import generator

PRETEXTS: dict[str, type[Pretext]] = {
    "mae": MaskedAutoencoder,
    "denoise": DenoisingAutoencoder,
    "inpaint": ContextEncoder,
    "igpt_ar": AutoregressivePixels,
    "igpt_bert": MaskedPixels,
    "vqvae": VectorQuantiser,
    "dvae": DiscreteVAE,
    "beit": Beit,
    "rotation": Rotation,
    "context": ContextPrediction,
    "jigsaw": Jigsaw,
    "colorize": Colorize,
    "instance": InstanceDiscrimination,
    "moco": MomentumContrast,
    "simsiam": SimSiam,
    "cvrl": ContrastedClips,
    "video_mae": VideoMaskedAutoencoder,
    "supervised": Supervised,
    "random": Untrained,
}


def new_pretext(
    config: Config,
    data: ImageData,
    fitted: Mapping[str, Tensor] = MappingProxyType({}),
    tokenizer: KnownTokenizer | None = None,
    beginning: Beginning | None = None,
) -> Pretext:
    """Return the task of a config with its first weights, fitted on the images.

    They follow from `train.seed`, but for those that another run gives as a `beginning`. Where another task of the
    config is there, its state is what this one is `fitted` to: no image is read.
    """

    def sampled(count: int) -> Tensor:
        order = torch.randperm(len(data.train.labels), generator=generator(config.train.seed, "sample"))
        return order[:count].sort().values

    def sample(count: int) -> Tensor:
        return next(iter(data.train.images.batches([sampled(count)]))).cpu()

    torch.manual_seed(config.train.seed)
    tokenizer = tokenizer or _tokenizer_in(fitted)
    sizes = len(data.train.labels), len(data.classes)
    surroundings = Surroundings(*sizes, data, sample, fitted, tokenizer, data.classes, sampled)
    task = PRETEXTS[config.pretext.kind](config, surroundings)
    if beginning:
        begin(task, beginning)
    return task


def untrained_pretext(pretrained: Pretext) -> Pretext:
    """Return the task that was trained with its first weights again, fitted to the same: no image is needed."""
    config, state = pretrained.config, pretrained.state_dict()
    torch.manual_seed(config.train.seed)
    surroundings = replace(pretrained.surroundings, fitted=state, tokenizer=_tokenizer_in(state))
    return PRETEXTS[config.pretext.kind](config, surroundings)


def saved_pretext(config: Config, facts: DataFacts, state: Mapping[str, Tensor]) -> Pretext:
    """Return the task of a finished run from its `state_dict`; no image is needed.

    Of a state with an encoder only, it is one that can be neither trained nor shown.
    """

    sizes = facts.train_images, len(facts.class_names)
    surroundings = Surroundings(*sizes, facts, _no_images, state, _tokenizer_in(state), facts.class_names)
    kind = PRETEXTS[config.pretext.kind]
    whole = any(not name.startswith("encoder.") for name in state) or issubclass(kind, EncoderOnly)
    pretext = kind(config, surroundings) if whole else EncoderOnly(config, surroundings, kind.look)
    pretext.load_state_dict(dict(state))
    return pretext


def known_tokenizer(config: Config, statistics: Statistics, state: Mapping[str, Tensor]) -> KnownTokenizer:
    """Return the tokenizer of a run's config, its images' `statistics` and its state, as another run's task needs it.

    Of the config is left what its codes depend on: where its images were, and how it was trained, is no part of a task.
    """
    values = flatten(config.model_dump(mode="json"))
    kept = {key: value for key, value in values.items() if key.startswith(("model.", "pretext.", "tokenizer."))}
    kept |= {key: values[key] for key in ("data.image_size", "data.channels")}
    known = build(kept | {"data.mean": statistics.mean, "data.std": statistics.std})
    return KnownTokenizer(known, _untrained_tokenizer, state)


def made_up_tokenizer(config: Config) -> KnownTokenizer | None:
    """Return one without training for a config that needs one, of the sizes of its own model; None if it needs none."""
    if not config.predicts_codes:
        return None
    numbers = (0.5,) * config.data.channels
    its = change(config, {"pretext.kind": "vqvae"})
    return known_tokenizer(its, DataFacts(mean=numbers, std=numbers, class_names=(), train_images=0), {})


def _tokenizer_in(state: Mapping[str, Tensor]) -> KnownTokenizer | None:
    config = settings_in(state)
    return KnownTokenizer(config, _untrained_tokenizer) if config else None


def _untrained_tokenizer(config: Config) -> Pretext:
    facts = DataFacts(mean=config.data.mean or (), std=config.data.std or (), class_names=(), train_images=0)
    return PRETEXTS[config.pretext.kind](config, Surroundings(0, 0, facts, _no_images))


def _no_images(count: int) -> Tensor:
    raise AssertionError("a finished run has fitted all that it needs")
