"""What a model needs to know of the images it was trained on. A run's record keeps it: the run's folder is enough."""

from typing import Protocol

from pydantic import BaseModel, ConfigDict, ValidationError

from mae.errors import UserError
from mae.runs.directory import RunDirectory


class Statistics(Protocol):
    """Mean and standard deviation per channel, of training pixels in 0..1."""

    @property
    def mean(self) -> tuple[float, ...]: ...

    @property
    def std(self) -> tuple[float, ...]: ...


class DataFacts(BaseModel):
    """What is measured or read off the images; their sizes and channels are settings (`DataConfig`)."""

    model_config = ConfigDict(frozen=True)

    mean: tuple[float, ...]
    std: tuple[float, ...]
    class_names: tuple[str, ...]
    train_images: int


def facts_of(run: RunDirectory) -> DataFacts:
    """Return what a run's record tells of its data; `UserError` if an earlier version of the program wrote it."""
    record = run.read_record()
    try:
        return DataFacts.model_validate(record.data if record else {})
    except ValidationError:
        raise UserError(
            f"{run.path.name} was made by an earlier version of mae-cli, which kept neither the decoder nor the mean, "
            f"standard deviation and classes of the data; delete {run.path} and pretrain again"
        ) from None
