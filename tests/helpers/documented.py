"""The commands of the documentation, as somebody would type them."""

import re
import shlex
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[2]
PAGES = sorted([ROOT / "README.md", ROOT / "CONTRIBUTING.md", ROOT / "SECURITY.md", *ROOT.glob("docs/**/*.md")])

OF_THE_PROGRAM = ("--debug",)
"""Options that stand before a command."""

_BLOCK = re.compile(r"^```[^\n]*\n(.*?)^```|((?:^(?: {4}|\t)[^\n]*\n|^\n)+)", re.MULTILINE | re.DOTALL)
_INLINE = re.compile(r"`([^`]+)`")
_PROGRAM = re.compile(r"(?:\S*/)?mae-cli\)?|cli")


@dataclass(frozen=True)
class Documented:
    """A command and the page that has it; `words` are what follows `mae-cli`.

    One in a code block is whole, to be typed as it is; one in running text may leave out arguments.
    """

    page: str
    words: tuple[str, ...]
    whole: bool

    def __str__(self) -> str:
        return f"{self.page}: mae-cli {shlex.join(self.words)}"


def documented(page: Path) -> list[Documented]:
    """Return the commands of `mae-cli` on a page, in order: those of code blocks and those in running text."""
    text = page.read_text(encoding="utf-8")
    name = str(page.relative_to(ROOT))
    found = [Documented(name, words, True) for line in _blocks(text) for words in _commands(line)]
    found += [Documented(name, words, False) for inline in _inlines(text) for words in _commands(inline)]
    return list(dict.fromkeys(found))


def tables(page: Path) -> list[str]:
    """Return the blocks of TOML on a page."""
    return re.findall(r"^```toml\n(.*?)^```", page.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL)


def _blocks(text: str) -> Iterator[str]:
    for fenced, indented in _BLOCK.findall(text):
        yield from (fenced or indented).replace("\\\n", " ").splitlines()


def _inlines(text: str) -> Iterator[str]:
    yield from (inline.replace("\n", " ").replace("\\|", "|") for inline in _INLINE.findall(_BLOCK.sub("\n", text)))


def _commands(line: str) -> Iterator[tuple[str, ...]]:
    """Yield what follows `mae-cli`, or `-m cli`, in a line of a shell, up to what ends the command."""
    if "mae-cli" not in line and "-m cli" not in line:
        return
    lexer = shlex.shlex(line, posix=True, punctuation_chars=";&|")
    lexer.whitespace_split, lexer.commenters = True, "#"
    try:
        tokens = list(lexer)
    except ValueError:  # an apostrophe: a sentence, not a command
        return
    for number, token in enumerate(tokens):
        if not _PROGRAM.fullmatch(token) or (token == "cli" and tokens[number - 1] != "-m"):
            continue
        words = []
        for word in tokens[number + 1 :]:
            if set(word) <= set(";&|>"):
                break
            words.append(word)
        while words and words[0] in OF_THE_PROGRAM:
            del words[0]
        if words and not (words[0].isupper() or words[0].startswith("--")):
            yield tuple(words)
