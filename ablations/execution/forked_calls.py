"""Calls of a function in processes like those of workers: forked from their server, with their device and threads."""

import signal
from collections.abc import Callable, Sequence
from multiprocessing.connection import Connection
from typing import Any, TypeVar

from ablations.execution.forkserver import fork_context
from ablations.execution.worker_pool import Slot
from mae.errors import RunError

Answer = TypeVar("Answer")


def call_in(slots: Sequence[Slot], function: Callable[..., Answer], *arguments: Any) -> list[Answer]:
    """Return what `function(device, *arguments)` returns in each slot, called in all of them at once.

    The function should import what is heavy itself: the server has it. Raises `RunError` if a call fails.
    """
    context = fork_context()
    processes, pipes = [], []
    try:
        for slot in slots:
            ours, theirs = context.Pipe()
            processes.append(context.Process(target=_call, args=(theirs, slot, function, arguments), daemon=True))
            processes[-1].start()
            theirs.close()
            pipes.append(ours)
        return [_receive(pipe) for pipe in pipes]
    finally:
        for process in processes:
            process.terminate()
            process.join()


def _receive(pipe: Connection) -> Any:
    try:
        answer, error = pipe.recv()
    except EOFError:
        raise RunError("measuring failed: its process died, most often for lack of memory") from None
    if error:
        raise RunError(f"measuring failed: {error}")
    return answer


def _call(pipe: Connection, slot: Slot, function: Callable[..., Any], arguments: tuple[Any, ...]) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the command, which ends this process
    import torch

    from mae.runtime.machine import choose_device
    from mae.runtime.threads import limited

    torch.set_num_threads(limited(slot.threads))
    try:
        pipe.send((function(choose_device(slot.device), *arguments), ""))
    except Exception as error:  # whatever it is, the command tells it
        pipe.send((None, f"{type(error).__name__}: {str(error).partition(chr(10))[0]}"))
