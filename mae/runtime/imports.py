"""Imports beside other work."""

import importlib
import os
import sys
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress


@contextmanager
def importing(modules: Sequence[str]) -> Iterator[None]:
    """Import modules in a thread while the block waits for other processes; when it ends, they are there.

    The block should import nothing itself: two threads that import the same packages can see one half made.
    """

    def work() -> None:
        if sys.platform == "linux":  # elsewhere the number of a thread is no process's, or another's
            os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), 10)  # of this thread: other work comes first
        for module in modules:
            with suppress(Exception):  # the code that needs it meets the error
                importlib.import_module(module)

    thread = threading.Thread(target=work, name="imports", daemon=True)
    thread.start()
    try:
        yield
    finally:
        thread.join()
