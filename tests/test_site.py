"""The documentation site: built with strict links, whole without the network, with every command and setting."""

import html
import re
import subprocess
import sys
from pathlib import Path

import pytest

import cli
from docs.site_pages import FROM_THE_TOP
from mae.config.presets import PRESETS
from mae.config.resolve import config_fields

ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("site")
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--quiet", "--site-dir", str(folder)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return folder


def text_of(page: Path) -> str:
    return html.unescape(re.sub(r"<[^>]+>", "", page.read_text(encoding="utf-8")))


def test_the_reference_has_every_setting_command_option_and_preset(site: Path) -> None:
    settings, commands, presets = (
        text_of(site / "reference" / f"{name}.html") for name in ("settings", "commands", "presets")
    )
    assert [key for key, _ in config_fields() if key not in settings] == []
    assert [each.name for each in cli.app.registered_commands if f"mae-cli {each.name}" not in commands] == []
    assert [flag for flag in ("--axis", "--seeds-top", "--notebooks", "--set", "--probe") if flag not in commands] == []
    assert [name for name in PRESETS if name not in presets] == []


def test_the_site_takes_nothing_from_elsewhere(site: Path) -> None:
    loaded = re.compile(
        r"""<(?:script|img|iframe|source)[^>]*\ssrc=["']?(https?:|//)|<link[^>]*(?:stylesheet|preload|icon)[^>]*href=["']?(https?:|//)"""
    )
    assert [page.name for page in site.rglob("*.html") if loaded.search(page.read_text(encoding="utf-8"))] == []
    assert [
        css.name for css in site.rglob("*.css") if re.search(r"url\(.?https?:|@import", css.read_text(encoding="utf-8"))
    ] == []


def test_every_page_of_the_repository_is_on_the_site(site: Path) -> None:
    pages = [page.relative_to(ROOT / "docs") for page in (ROOT / "docs").rglob("*.md") if page.name != "table.md"]
    built = [
        *(page.with_suffix(".html") for page in pages),
        *(Path(name).with_suffix(".html") for name in FROM_THE_TOP.values()),
    ]
    assert [str(page) for page in built if not (site / page).exists() and page.stem != "README"] == []
    assert (site / "results" / "index.html").exists()
