"""An encoder that came without the rest of its task: it is probed, and can neither be trained nor reconstruct."""

from collections.abc import Callable
from typing import Any

from torch import Tensor

from mae.config.tree import Config
from mae.models.encoders import encoder_of
from mae.pretext.base import Pretext, Surroundings


class EncoderOnly(Pretext):
    """What is left of a pretext task: the encoder, and how the task has it `look` at images."""

    def __init__(
        self, config: Config, surroundings: Surroundings, look: Callable[[Any, Tensor], Tensor] = Pretext.look
    ):
        super().__init__(config, surroundings)
        self.encoder = encoder_of(config)
        self._look = look

    def look(self, images: Tensor) -> Tensor:
        return self._look(self, images)
