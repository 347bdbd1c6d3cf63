"""Masked autoencoding of clips (Feichtenhofer et al., 2022): tubelets are hidden in place of patches."""

from matplotlib.figure import Figure
from torch import Tensor

from mae.pretext.masked_autoencoder import Draws, MaskedAutoencoder
from mae.pretext.pictures import clip_rows


class VideoMaskedAutoencoder(MaskedAutoencoder):
    """Masks are random in space and time together ("spacetime-agnostic", section 3.1)."""

    def picture(self, images: Tensor, draws: Draws) -> Figure:
        """Of clips (n, C, T, H, W): original, masked, reconstruction, frame beside frame."""
        masked, completed = self.reconstruct(images, self.mask(draws))
        return clip_rows({"original": images, "masked": masked, "reconstruction": completed})
