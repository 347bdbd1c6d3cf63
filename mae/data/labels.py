"""Images without labels can be pretrained on; probes need some that have them."""

from pathlib import Path

from mae.config.tree import Config
from mae.data.image_files import shown
from mae.data.sources import identify
from mae.errors import UserError
from mae.runtime.progress import Progress

WITHOUT = "give images with labels to probe on: --set probe.source=folder:OTHER"


def check_labels(config: Config, progress: Progress, work: str) -> None:
    """Raise `UserError` unless the images that probes see are there and have labels; `work` says what needs them."""
    data = config.probed_data
    if not identify(data, progress).labelled:
        key = "probe.source" if config.probe.source else "data.source"
        raise UserError(f"{key}={shown(Path(data.source))} has images without labels, and {work}; {WITHOUT}")
