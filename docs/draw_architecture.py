"""Draws `docs/images/architecture.svg` from the imports: `python docs/draw_architecture.py`.

A box is a folder; an arrow says that one imports from another, left out where it follows from others. Everything points
down: a folder stands above all that it imports.
"""

import ast
from graphlib import TopologicalSorter
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
PICTURE = ROOT / "docs" / "images" / "architecture.svg"
PACKAGES = ("mae", "ablations", "analysis")
COLOURS = {"cli": "#d9d9d9", "mae": "#cfe3f7", "ablations": "#fbe0c4", "analysis": "#d5ecd0"}
LANES = {"ablations": (0, 1), "cli": (1, 2), "mae": (1, 2), "analysis": (3, 2)}
"""The first column of each package, and how many it has."""
WIDTH, HEIGHT, ACROSS, DOWN, MARGIN = 150, 34, 20, 46, 20

Graph = dict[str, set[str]]


def folder_of(module: str) -> str:
    """Return the folder that a module is in; a module right in a package counts as one of its own."""
    parts = module.split(".")
    if len(parts) > 2 or (ROOT / Path(*parts)).is_dir():
        return ".".join(parts[:2])
    return module


def imports() -> Graph:
    """Return which folders each folder imports from."""
    graph: Graph = {}
    files = [ROOT / "cli.py", *(file for package in PACKAGES for file in (ROOT / package).rglob("*.py"))]
    for file in files:
        own = folder_of(".".join(file.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__"))
        found = graph.setdefault(own, set())
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            if isinstance(node, ast.ImportFrom) and node.module and node.module.split(".")[0] in PACKAGES:
                names = [f"{node.module}.{alias.name}" for alias in node.names]
                inside = [name for name in names if (ROOT / f"{name.replace('.', '/')}.py").exists()]
                found |= {folder_of(module) for module in inside or [node.module]} - {own}
    kept = {name for name in graph if name not in PACKAGES}
    return {name: graph[name] & kept for name in sorted(kept)}


def levels(graph: Graph) -> dict[str, int]:
    """Return how far below `cli` each folder stands; raises `graphlib.CycleError` where imports run in a circle."""
    level = dict.fromkeys(graph, 0)
    for name in reversed(list(TopologicalSorter(graph).static_order())):
        for other in graph[name]:
            level[other] = max(level[other], level[name] + 1)
    return level


def reduced(graph: Graph) -> Graph:
    """Return the graph without arrows that follow from others."""

    def reached(name: str) -> set[str]:
        return {far for near in graph[name] for far in {near, *reached(near)}}

    return {name: {each for each in found if not any(each in reached(other) for other in found - {each})}
            for name, found in graph.items()}  # fmt: skip


def draw(graph: Graph) -> str:
    """Return the picture as SVG."""
    level, places = levels(graph), {}
    for name, number in level.items():
        lane, lanes = LANES[name.split(".")[0]]
        beside = sorted(other for other in graph if level[other] == number and LANES[other.split(".")[0]][0] == lane)
        column = lane + (lanes - len(beside)) / 2 + beside.index(name)
        places[name] = MARGIN + column * (WIDTH + ACROSS), MARGIN + number * (HEIGHT + DOWN)
    total = 2 * MARGIN + 5 * (WIDTH + ACROSS) - ACROSS, 2 * MARGIN + (max(level.values()) + 1) * (HEIGHT + DOWN) - DOWN
    lines = [
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{total[0]}" height="{total[1]}" font-family="sans-serif">',
        '<defs><marker id="tip" markerWidth="8" markerHeight="8" refX="7" refY="4" orient="auto">'
        '<path d="M0,1 L7,4 L0,7 z" fill="#666"/></marker></defs>',
        '<rect width="100%" height="100%" fill="white"/>',
    ]
    for name, found in sorted(reduced(graph).items()):
        for other in sorted(found):
            (x, y), (u, v) = places[name], places[other]
            start, end = (x + WIDTH / 2, y + HEIGHT), (u + WIDTH / 2, v)
            middle = (start[1] + end[1]) / 2
            lines.append(
                f'<path d="M{start[0]:g},{start[1]:g} C{start[0]:g},{middle:g} {end[0]:g},{middle:g} '
                f'{end[0]:g},{end[1]:g}" fill="none" stroke="#666" stroke-opacity="0.7" marker-end="url(#tip)"/>'
            )
    for name, (x, y) in sorted(places.items()):
        colour = COLOURS[name.split(".")[0]]
        lines.append(
            f'<rect x="{x:g}" y="{y:g}" width="{WIDTH}" height="{HEIGHT}" rx="6" fill="{colour}" stroke="#555"/>'
        )
        lines.append(
            f'<text x="{x + WIDTH / 2:g}" y="{y + HEIGHT / 2 + 5:g}" font-size="13" text-anchor="middle">'
            f"{name.replace('.', '/')}</text>"
        )
    return "\n".join([*lines, "</svg>"]) + "\n"


if __name__ == "__main__":
    PICTURE.write_text(draw(imports()), encoding="utf-8")
