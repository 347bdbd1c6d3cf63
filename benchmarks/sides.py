"""The sides of a comparison, each in a process of its own, which take turns."""

import multiprocessing
import sys
import time
from collections.abc import Callable, Iterable
from multiprocessing.connection import Connection
from typing import Any

import torch


def start(serve: Callable[..., None], calls: Iterable[tuple[Any, ...]]) -> list[Connection]:
    """Call `serve(*arguments, line)` in a process for each of `calls`; return the lines once all have warmed up."""
    context, lines = multiprocessing.get_context("spawn"), []
    for arguments in calls:
        here, there = context.Pipe()
        context.Process(target=serve, args=(*arguments, there), daemon=True).start()
        there.close()  # or the end of a side that fails would never come
        lines.append(here)
    for line in lines:
        try:
            line.recv()
        except EOFError:
            sys.exit("a side failed, see above")
    return lines


def take_turns(step: Callable[[int], object], steps: int, device: torch.device, line: Connection) -> None:
    """Warm up, then answer each message with the seconds of `steps` steps until one is false."""
    for index in range(3):
        step(index)
    line.send("ready")
    while line.recv():
        wait_for(device)
        began = time.perf_counter()
        for index in range(steps):
            step(index)
        wait_for(device)
        line.send(time.perf_counter() - began)


def wait_for(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize()
