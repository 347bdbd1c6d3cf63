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
    data, key = config.probed_data, "probe.source" if config.probe.source else "data.source"
    try:
        labelled = identify(data, progress).labelled
    except UserError as error:
        raise UserError(str(error).replace("data.source=", f"{key}=", 1)) from None
    if not labelled:
        raise UserError(f"{key}={shown(Path(data.source))} has images without labels, and {work}; {WITHOUT}")
