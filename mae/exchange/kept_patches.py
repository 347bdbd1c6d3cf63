"""How many patches stay visible: rounded here, cut off in the official code and in Hugging Face's.

At a ratio of 0.9 of 196 patches that is 20 here and 19 there. A ratio a little to one side says the same to both.
"""

from mae.config.resolve import change
from mae.config.tree import Config


def kept_when_cut_off(config: Config) -> int:
    """Return how many patches the official code keeps under a config."""
    return int(config.patches * (1 - config.mask.ratio))


def ratio_for_both(kept: int, patches: int) -> float:
    """Return a ratio under which `kept` of `patches` stay visible, whether they are rounded or cut off."""
    return 1 - (kept + 0.25) / patches  # a quarter: neither half a patch nor a rounding error matters


def keeping_as_officially(config: Config) -> Config:
    """Return the config under which as many patches stay as the official code keeps; the same one if they do already.

    The same one too where the official code would keep none.
    """
    kept = kept_when_cut_off(config)
    if kept in (0, config.kept_patches):
        return config
    return change(config, {"mask.ratio": ratio_for_both(kept, config.patches)})


def official_ratio(config: Config) -> float:
    """Return the ratio under which the official code keeps as many patches as this config says."""
    same = kept_when_cut_off(config) == config.kept_patches
    return config.mask.ratio if same else ratio_for_both(config.kept_patches, config.patches)
