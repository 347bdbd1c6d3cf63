"""What people see: MLflow's pages of a study and the report, in Chromium, at the width of a desktop and of a phone.

Screenshots go to $MAE_SCREENSHOTS if it is set.
"""

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from cli import app
from tests.helpers.study_factory import MASK_RATIO, write_study

playwright = pytest.importorskip("playwright.sync_api", reason="the package playwright is not installed")
CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="Chromium is not installed (Debian: apt-get install chromium)")

WIDTHS = {"desktop": 1280, "phone": 390}
FLAGS = ["--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking"]
QUIET = """
localStorage.setItem('mlflow.assistant.panelOpen_v1', 'false');
localStorage.setItem('mlflow.assistant.fab.autoOpenedOnFirstLoad_v1', 'true');
"""
SECONDS = 60_000  # a busy machine may take long; no test waits for it to pass


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("runs")
    write_study(folder, {cell: values[:2] for cell, values in MASK_RATIO.items()})
    return folder


@pytest.fixture(scope="module")
def pages(runs: Path) -> Iterator[dict[str, str]]:
    """The links that `mae-cli ui --study` prints, while it serves."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    command = [sys.executable, "-m", "cli", "ui", "--study", "mask-ratio", "--runs-dir", str(runs), "--port", port]
    root = Path(__file__).parents[3]
    server = subprocess.Popen([*command, "--json"], cwd=root, stdout=subprocess.PIPE, text=True)
    try:
        assert server.stdout is not None
        links = json.loads(server.stdout.readline())
        while server.poll() is None and not answers(f"http://127.0.0.1:{port}/health"):
            time.sleep(0.2)
        yield links
    finally:
        server.send_signal(signal.SIGTERM)
        server.wait()


def answers(url: str) -> bool:
    try:
        with urllib.request.urlopen(url, timeout=5):
            return True
    except (urllib.error.URLError, TimeoutError):
        return False


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with playwright.sync_playwright() as driver:
        chromium = driver.chromium.launch(executable_path=CHROMIUM, args=FLAGS)
        yield chromium
        chromium.close()


@pytest.fixture(params=list(WIDTHS))
def page(request: pytest.FixtureRequest, browser: Any) -> Iterator[Any]:
    """A page of a width; it fails the test if it asks for anything outside this machine."""
    context = browser.new_context(viewport={"width": WIDTHS[request.param], "height": 900})
    context.set_default_timeout(SECONDS)
    context.add_init_script(QUIET)
    tab, outside = context.new_page(), []
    tab.on("request", lambda sent: outside.append(sent.url) if not is_local(sent.url) else None)
    tab.width_name = request.param
    yield tab
    context.close()
    assert outside == []


def is_local(url: str) -> bool:
    return url.startswith(("http://127.0.0.1", "file:", "data:", "blob:"))


def keep(page: Any, name: str, whole: bool = False) -> None:
    if folder := os.environ.get("MAE_SCREENSHOTS"):
        page.wait_for_timeout(1500)  # fonts and plots settle
        page.screenshot(path=Path(folder) / f"{name}-{page.width_name}.png", full_page=whole)


def test_the_compare_page_shows_every_trial_of_the_study(page: Any, pages: dict[str, str]) -> None:
    page.goto(pages["page"], wait_until="domcontentloaded")
    page.get_by_text("Comparing 6 Runs").first.wait_for()
    assert page.get_by_text("linear/top1").first.is_visible()  # what it compares at first sight
    for name in ("0.5, seed 0", "0.9, seed 1"):
        assert page.get_by_text(name).first.is_visible()
    keep(page, "compare")


def test_the_table_of_trials_shows_their_accuracy_the_best_first(page: Any, pages: dict[str, str]) -> None:
    page.goto(pages["table"], wait_until="domcontentloaded")
    best, worst = page.get_by_text("0.75, seed 1"), page.get_by_text("0.5, seed 0")
    best.first.wait_for()
    assert best.first.bounding_box()["y"] < worst.first.bounding_box()["y"]
    if page.width_name == "desktop":  # a phone has room for the names alone
        assert page.get_by_text("linear/top1").last.is_visible()
    keep(page, "runs")


def test_the_report_fits_the_page_and_shows_findings_tables_and_figures(page: Any, runs: Path, tmp_path: Path) -> None:
    file = tmp_path / "report.html"
    result = CliRunner().invoke(app, ["report", "--runs-dir", str(runs), "--to", str(file)])
    assert result.exit_code == 0, result.output
    page.goto(file.as_uri(), wait_until="load")
    assert page.get_by_text("Linear accuracy rises with the mask ratio").is_visible()
    assert page.get_by_role("cell", name="0.75 *").first.is_visible()
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")
    images = page.evaluate("[...document.images].map(i => [i.complete && i.naturalWidth > 300, i.clientWidth])")
    assert len(images) >= 2
    assert all(loaded and width <= WIDTHS[page.width_name] for loaded, width in images)
    keep(page, "report", whole=True)
