"""An encoder that came without the rest of its task: it is probed, and can neither be trained nor reconstruct."""

from mae.config.tree import Config
from mae.models.encoders import encoder_of
from mae.pretext.base import Pretext, Surroundings


class EncoderOnly(Pretext):
    """What is left of a pretext task: the encoder, and what it looks at."""

    def __init__(self, config: Config, surroundings: Surroundings):
        super().__init__(config, surroundings)
        self.encoder = encoder_of(config)
