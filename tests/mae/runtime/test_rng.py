import torch

from mae.runtime.rng import generator


def first(seed: int, purpose: str, position: int) -> float:
    return torch.rand((), generator=generator(seed, purpose, position), dtype=torch.float64).item()


def test_a_stream_depends_on_seed_purpose_and_position() -> None:
    streams = [(0, "mask", 0), (1, "mask", 0), (0, "order", 0), (0, "mask", 1), (1, "mask", 1), (11, "mask", 0)]
    assert len({first(*stream) for stream in streams}) == len(streams)
    assert first(0, "mask", 3) == first(0, "mask", 3)


def test_no_position_is_the_first() -> None:
    assert generator(5, "order").initial_seed() == generator(5, "order", 0).initial_seed()


def test_streams_are_those_of_all_earlier_versions() -> None:
    assert first(0, "mask", 0) == 0.9202472750786133  # another number: all results change, and ARITHMETIC has to rise
