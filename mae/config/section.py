"""What sections of the config tree are made of: types of values, and when a setting acts."""

from collections.abc import Mapping
from typing import Annotated, Any

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field

from mae.config.kinds import PretextKind


def as_tuple(value: Any) -> Any:
    return tuple(value) if isinstance(value, list) else value


def _as_size(value: Any) -> Any:
    """`32` means a square of 32 x 32; a list from TOML becomes the tuple (height, width)."""
    return (value, value) if type(value) is int else as_tuple(value)


def _as_pair(value: Any) -> Any:
    """`0.5` means 0.5 for both of two views."""
    return (value, value) if isinstance(value, int | float) and not isinstance(value, bool) else as_tuple(value)


def _shares(bounds: tuple[float, float]) -> tuple[float, float]:
    low, high = bounds
    if not 0 < low <= high <= 1:
        raise ValueError("expected 0 < low <= high <= 1")
    return bounds


def ascending(values: tuple[int, ...]) -> bool:
    return list(values) == sorted(set(values))


Positive = Annotated[int, Field(ge=1)]
Size = Annotated[tuple[Positive, Positive], BeforeValidator(_as_size)]
Range = Annotated[tuple[float, float], BeforeValidator(as_tuple)]
CropScale = Annotated[Range, AfterValidator(_shares)]
PerChannel = Annotated[tuple[float, ...], BeforeValidator(as_tuple)]
Share = Annotated[float, Field(gt=0, lt=1)]
Chance = Annotated[float, Field(ge=0, le=1)]
Chances = Annotated[tuple[Chance, Chance], BeforeValidator(_as_pair)]
Width = Annotated[int, Field(ge=4, multiple_of=4)]  # the 2-D sin-cos code splits a width into four equal parts


def acts(when: Mapping[str, tuple[str | int, ...]]) -> dict[str, Any]:
    """Say under which values of other keys a key, or a section's keys, act: under others they change nothing.

    A key that does not act itself sets no condition: `denoise.noise` has no say in masked autoencoding. Of a key whose
    value is a list, one of its members is enough.
    """
    return {"acts": when}


def acts_in(*kinds: PretextKind) -> dict[str, Any]:
    """Say that a key, or a section's keys, act in these pretext tasks only."""
    return acts({"pretext.kind": kinds})


class Section(BaseModel):
    """One table of the config: frozen, strict about types, closed to unknown keys."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, allow_inf_nan=False)
