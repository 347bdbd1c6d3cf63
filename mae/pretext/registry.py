"""The pretext tasks there are, by name. To add one, write its file and enter it here and in `PretextConfig.kind`."""

from collections.abc import Mapping
from types import MappingProxyType

import torch
from torch import Tensor

from mae.config.tree import Config
from mae.data.dataset import ImageData
from mae.data.facts import DataFacts
from mae.pretext.base import Pretext, Surroundings
from mae.pretext.denoise import DenoisingAutoencoder
from mae.pretext.dvae import DiscreteVAE
from mae.pretext.encoder_only import EncoderOnly
from mae.pretext.masked_autoencoder import MaskedAutoencoder
from mae.pretext.rotation import Rotation
from mae.pretext.vqvae import VectorQuantiser
from mae.runtime.rng import generator

PRETEXTS: dict[str, type[Pretext]] = {
    "mae": MaskedAutoencoder,
    "denoise": DenoisingAutoencoder,
    "vqvae": VectorQuantiser,
    "dvae": DiscreteVAE,
    "rotation": Rotation,
}


def new_pretext(config: Config, data: ImageData, fitted: Mapping[str, Tensor] = MappingProxyType({})) -> Pretext:
    """Return the task of a config with its first weights, which follow from `train.seed`, fitted on the images.

    Where another task of the config is there, its state is what this one is `fitted` to: no image is read.
    """

    def sample(count: int) -> Tensor:
        order = torch.randperm(len(data.train.labels), generator=generator(config.train.seed, "sample"))
        return next(iter(data.train.images.batches([order[:count].sort().values]))).cpu()

    torch.manual_seed(config.train.seed)
    surroundings = Surroundings(len(data.train.labels), len(data.classes), data, sample, fitted)
    return PRETEXTS[config.pretext.kind](config, surroundings)


def saved_pretext(config: Config, facts: DataFacts, state: Mapping[str, Tensor]) -> Pretext:
    """Return the task of a finished run from its `state_dict`; no image is needed.

    Of a state with an encoder only, it is one that can be neither trained nor shown.
    """

    def sample(count: int) -> Tensor:
        raise AssertionError("a finished run has fitted all that it needs")

    surroundings = Surroundings(facts.train_images, len(facts.class_names), facts, sample, state)
    whole = any(not name.startswith("encoder.") for name in state)
    pretext = (PRETEXTS[config.pretext.kind] if whole else EncoderOnly)(config, surroundings)
    pretext.load_state_dict(dict(state))
    return pretext
