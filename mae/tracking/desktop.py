"""Opens a page once its server answers, from a process of its own: the one that asks becomes the server."""

import os
import subprocess
import sys
import time
import urllib.error
import urllib.request
import webbrowser

WAIT = 60.0
"""Most seconds to wait for the server."""


def open_when_up(page: str) -> None:
    """Open `page` in the browser of a desktop as soon as its server answers; do nothing where there is no desktop."""
    if sys.platform == "linux" and not (os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY")):
        return
    subprocess.Popen([sys.executable, "-m", __name__, page], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)


def wait_and_open(page: str) -> bool:
    """Wait for `/health` of the page's server, then open the page; say whether the server came up."""
    end = time.monotonic() + WAIT
    while time.monotonic() < end:
        try:
            with urllib.request.urlopen(page.split("/#")[0] + "/health", timeout=5):
                return webbrowser.open(page)
        except (urllib.error.URLError, TimeoutError):
            time.sleep(0.3)
    return False


if __name__ == "__main__":
    wait_and_open(sys.argv[1])
