"""How often a study's table is wrong, and how often it finds a difference: simulated studies under every test.

A study is a table of cells and seeds: normal noise of deviation 1 per run, an effect per seed, the first cell the
default. Prints the share of tables that show a difference where there is none (asked: 5 %), and how often a cell that
is 2.5 deviations worse is found. Then the same for studies that add seeds until their intervals are precise.
"""

import argparse
from collections.abc import Callable

import numpy as np

from analysis.statistics.comparisons import Test, compare
from analysis.studies.enough_seeds import LEAST_FREEDOM

EFFECT = 2.5
TESTS: tuple[Test | None, ...] = (None, "blocks", "paired", "welch")
Spread = Callable[[np.random.Generator, int], np.ndarray]

SPREADS: dict[str, Spread] = {
    "equal": lambda draws, cells: np.ones(cells),
    "each drawn from 1 to 2": lambda draws, cells: draws.uniform(1, 2, cells),
    "the default's twice": lambda draws, cells: np.array([2.0] + [1.0] * (cells - 1)),
}


def study(draws: np.random.Generator, cells: int, seeds: int, of_seeds: float, spread: Spread) -> np.ndarray:
    """Return results (cells, seeds) without any true difference between the cells."""
    noise = draws.normal(0, spread(draws, cells)[:, None], (cells, seeds))
    return noise + draws.normal(0, of_seeds, seeds) if of_seeds else noise


def rejections(runs: np.ndarray, test: Test | None) -> list[bool]:
    """Return for every cell but the first whether it is told apart from the first."""
    cells, seeds = runs.shape
    names = np.repeat(np.arange(cells), seeds).astype(str).tolist()
    found = compare(runs.ravel().tolist(), names, [*range(seeds)] * cells, "0", test).differences
    return [each.p < 0.05 for each in found.values()]


def stopped(draws: np.random.Generator, cells: int, precision: float) -> tuple[bool, int]:
    """Add seeds until all intervals are within ± `precision`; return whether a cell is told apart, and the seeds."""
    runs = study(draws, cells, 30, 0.0, SPREADS["equal"])
    for seeds in range(2, runs.shape[1] + 1):
        names = np.repeat(np.arange(cells), seeds).astype(str).tolist()
        compared = compare(runs[:, :seeds].ravel().tolist(), names, [*range(seeds)] * cells, "0", "blocks")
        half = max(each.high - each.low for each in compared.differences.values()) / 2
        if half <= precision and compared.model.freedom >= LEAST_FREEDOM:
            break
    return any(each.p < 0.05 for each in compared.differences.values()), seeds


def print_stopped(studies: int) -> None:
    print("\n| cells | --precision, in deviations | seeds, mean | wrong |\n|---|---|---|---|")
    for cells in (2, 3, 4, 10):
        for precision in (2.5, 1.5, 1.0):
            draws = np.random.default_rng(0)
            wrong, seeds = np.mean([stopped(draws, cells, precision) for _ in range(studies)], axis=0)
            print(f"| {cells} | {precision:g} | {seeds:.1f} | {100 * wrong:.1f} % |", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--studies", type=int, default=1000)
    options = parser.parse_args()
    names = [test or "chosen" for test in TESTS]
    print(f"| cells | seeds | spread of seeds | spread of cells | {' | '.join(f'wrong: {name}' for name in names)} | "
          f"{' | '.join(f'found: {name}' for name in names)} |")  # fmt: skip
    print("|" + "---|" * (4 + 2 * len(TESTS)))
    for cells, seeds in ((2, 5), (4, 2), (4, 3), (10, 2), (10, 4)):
        for of_seeds, spread in (
            (0.0, "equal"),
            (3.0, "equal"),
            (1.0, "each drawn from 1 to 2"),
            (1.0, "the default's twice"),
        ):
            draws = np.random.default_rng(0)
            wrong, found = np.zeros(len(TESTS)), np.zeros(len(TESTS))
            for _ in range(options.studies):
                runs = study(draws, cells, seeds, of_seeds, SPREADS[spread])
                wrong += [any(rejections(runs, test)) for test in TESTS]
                runs[-1] -= EFFECT
                found += [rejections(runs, test)[-1] for test in TESTS]
            shares = " | ".join(f"{100 * share / options.studies:.1f} %" for share in (*wrong, *found))
            print(f"| {cells} | {seeds} | {of_seeds:g} | {spread} | {shares} |", flush=True)
    print_stopped(options.studies)


if __name__ == "__main__":
    main()
