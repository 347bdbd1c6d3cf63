"""Pages of the documentation site that are made when it is built (`make docs`): what the program says of itself, and
the files at the top of the repository.

Links to files that are no pages, such as notebooks, become plain text on the site.
"""

import inspect
import json
import posixpath
import re
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, Literal, get_args, get_origin

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.exceptions import PluginError
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page
from typer.models import ArgumentInfo, OptionInfo

import cli
from mae.command_line.options import PANEL
from mae.config.presets import PRESETS
from mae.config.reference import schema
from mae.config.tree import Config

ROOT = Path(__file__).resolve().parents[1]
FROM_THE_TOP = {
    "README.md": "index.md",
    "CONTRIBUTING.md": "contributing.md",
    "CHANGELOG.md": "changelog.md",
    "SECURITY.md": "security.md",
    "benchmarks/README.md": "benchmarks.md",
}
"""Pages that lie elsewhere in the repository, and their names on the site."""

_LINK = re.compile(r"(!?)\[([^\]]*)\]\(([^)\s]+)\)")


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the pages that are made."""
    made = {
        "reference/settings.md": settings_page(),
        "reference/commands.md": commands_page(),
        "reference/presets.md": presets_page(),
    }
    made |= {page: (ROOT / source).read_text(encoding="utf-8") for source, page in FROM_THE_TOP.items()}
    for name, text in made.items():
        files.append(File.generated(config, name, content=text))
    return files


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Lead links between files of the repository to the pages that they are on the site."""
    own = page.file.src_uri
    source = next((source for source, name in FROM_THE_TOP.items() if name == own), f"docs/{own}")

    def led(link: re.Match[str]) -> str:
        image, text, target = link.groups()
        path, hash_, anchor = target.partition("#")
        if not path or ":" in path:
            return link[0]
        there = posixpath.normpath(posixpath.join(posixpath.dirname(source), path))
        name = FROM_THE_TOP.get(there, there.removeprefix("docs/"))
        if files.get_file_from_path(name):
            return f"{image}[{text}]({posixpath.relpath(name, posixpath.dirname(own) or '.')}{hash_}{anchor})"
        if there.startswith("docs/reference/") or not (ROOT / there).exists():
            raise PluginError(f"{source}: the link to {target} leads nowhere")
        return text

    return _LINK.sub(led, markdown)


def settings_page() -> str:
    """Return the reference of all settings, a table per section of the config tree."""
    lines = [
        "# Settings",
        "",
        "Every key of `--set key=value`, of a TOML file (`--config`) and of axes (`--axis key=value,value`), as "
        "`mae-cli config --schema` lists them. *Acts with* names the values of other keys under which a key changes "
        "anything; elsewhere it is refused. Defaults belong to no experiment: [presets](presets.md) are the "
        "experiments.",
    ]
    described = {name: field.description or "" for name, field in Config.model_fields.items()}
    last = ""
    for row in schema():
        section = row["key"].partition(".")[0]
        if section != last:
            lines += ["", f"## {section}", "", described[section].partition("\n")[0], ""]
            lines += ["| key | type and range | default | meaning |", "|---|---|---|---|"]
            last = section
        meaning, _, when = row["description"].partition("; acts with ")
        meaning += f"<br>*Acts with* {_code_of_conditions(when)}" if when else ""
        default = "unset" if row["default"] is None else f"`{json.dumps(row['default'])}`"
        lines.append(_row(f"`{row['key']}`", row["type"], default, meaning))
    return "\n".join(lines) + "\n"


def _code_of_conditions(told: str) -> str:
    return " and ".join(f"`{each}`" for each in told.split(" and "))


def presets_page() -> str:
    """Return the reference of presets, with what each sets."""
    lines = ["# Presets", "", "What `--preset NAME` sets; all else keeps its [default](settings.md)."]
    for name, preset in PRESETS.items():
        lines += ["", f"## {name}", "", f"{preset.purpose[0].upper()}{preset.purpose[1:]}.", ""]
        lines += ["| key | value |", "|---|---|"]
        lines += [_row(f"`{key}`", f"`{json.dumps(value)}`") for key, value in preset.overrides.items()]
    return "\n".join(lines) + "\n"


def commands_page() -> str:
    """Return the reference of commands and their options, as their help has them."""
    lines = ["# Commands", "", "Every command takes the options of the last section too."]
    shared: dict[str, inspect.Parameter] = {}
    for command in cli.app.registered_commands:
        assert command.callback is not None
        given = inspect.signature(command.callback).parameters
        own = {name: each for name, each in given.items() if _info(each).rich_help_panel != PANEL}
        shared |= {name: each for name, each in given.items() if name not in own}
        arguments = [_name(each) for each in own.values() if isinstance(_info(each), ArgumentInfo)]
        lines += ["", f"## {command.name}", "", f"`{' '.join(['mae-cli', str(command.name), *arguments])}`", ""]
        lines += [inspect.cleandoc(text) for text in (command.help or command.callback.__doc__, command.epilog) if text]
        lines += _table(own.values())
    lines += ["", "## Options of every command", *_table(shared.values())]
    return "\n".join(lines) + "\n"


def _info(parameter: inspect.Parameter) -> OptionInfo | ArgumentInfo:
    """Return what Typer is told of a parameter: `Annotated[type, typer.Option(...)]`."""
    return next(each for each in get_args(parameter.annotation) if isinstance(each, OptionInfo | ArgumentInfo))


def _name(parameter: inspect.Parameter) -> str:
    info = _info(parameter)
    if isinstance(info, OptionInfo):
        # In `Annotated[..., typer.Option("--name")]` Typer takes the first name for a default until it is called.
        return next(flag for flag in (info.default, *(info.param_decls or ())) if str(flag).startswith("--"))
    name = info.metavar or parameter.name.upper()
    return name if parameter.default is parameter.empty or "[" in name else f"[{name}]"


def _choices(annotation: Any) -> tuple[str, ...]:
    """Return the words that an option is restricted to, if any."""
    if get_origin(annotation) is Literal:
        return get_args(annotation)
    return next((found for each in get_args(annotation) if (found := _choices(each))), ())


def _table(parameters: Iterable[inspect.Parameter]) -> Iterator[str]:
    """Yield a Markdown table of arguments and options; nothing where there are none."""
    rows = []
    for each in parameters:
        meaning = _info(each).help or ""
        if choices := _choices(each.annotation):
            meaning += f" One of {', '.join(f'`{choice}`' for choice in choices)}."
        default = "" if any(each.default is no for no in (None, False, "", each.empty)) else f"`{each.default}`"
        rows.append(_row(f"`{_name(each)}`", default, meaning))
    yield from ["", "| option | default | meaning |", "|---|---|---|", *rows] if rows else []


def _row(*cells: str) -> str:
    return f"| {' | '.join(cell.replace('|', '&#124;').replace(chr(10), ' ') for cell in cells)} |"
