"""The additive model of a study: every run's result is its cell's mean, plus its seed's effect, plus noise.

Cells share their seeds, and a seed decides the first weights, the order of the images and the draws: most of the spread
between seeds is common to all cells and cancels in a difference within a seed. A seed is a block. Where no seeds are
shared (or only by some of the cells), blocks cannot be told from cells and the model is the one-way model.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from scipy import stats
from scipy.sparse.csgraph import connected_components

from analysis.statistics.intervals import ALPHA, NAN, Contrast
from analysis.statistics.multivariate_t import critical_value, p_of_largest

DOUBT = 0.01
"""Level of the tests of the model's assumptions: one study in a hundred is doubted without cause, by each."""


@dataclass(frozen=True)
class AdditiveModel:
    """A least-squares fit. `deviation` is the noise of a run within its seed, in the unit of the results."""

    cells: tuple[str, ...]
    seeds: tuple[int, ...]
    blocks: bool
    """Whether seeds are in the model; else it is the one-way model."""
    effects: np.ndarray
    """(cells + seeds - 1,): means of the cells in the first seed, then differences of the other seeds from it."""
    inverse: np.ndarray
    """Covariance of `effects` in units of the noise's variance."""
    freedom: int
    design: np.ndarray
    residuals: np.ndarray
    """Of the runs, in the order given, like the rows of `design`."""

    @property
    def deviation(self) -> float:
        """Standard deviation of the noise, 0 where it is rounding alone; NaN without a degree of freedom."""
        if not self.freedom:
            return NAN
        noise = float(np.sqrt(self.residuals @ self.residuals / self.freedom))
        return noise if noise > 1e-12 * np.abs(self.design @ self.effects).max() else 0.0

    def contrasts(self, weights: Sequence[Mapping[str, float]], alpha: float = ALPHA) -> list[Contrast]:
        """Return weighted sums of cell means; all intervals hold together with 1 - `alpha`, and p-values are corrected.

        The correction is that of the multivariate t distribution with the design's own correlations: Dunnett's where
        the contrasts are differences from one cell. Without a degree of freedom, or without any noise, interval and p
        are NaN: nothing is claimed.
        """
        rows = self._rows(weights)
        found = rows @ self.effects
        if not len(rows) or not self.freedom or self.deviation < 1e-12:
            return [Contrast(float(effect), NAN, NAN, NAN) for effect in found]
        correlation = self.correlation(weights)
        errors = self._errors(rows)
        half = critical_value(correlation, self.freedom, alpha) * errors
        return [
            Contrast(
                effect, effect - width, effect + width, p_of_largest(abs(effect) / error, correlation, self.freedom)
            )
            for effect, width, error in zip(found.tolist(), half.tolist(), errors.tolist(), strict=True)
        ]

    def correlation(self, weights: Sequence[Mapping[str, float]]) -> np.ndarray:
        """Return the correlations (m, m) of m weighted sums of cell means, as the design gives them."""
        rows = self._rows(weights)
        covariance = rows @ self.inverse @ rows.T
        scales = np.sqrt(np.diag(covariance))
        return np.asarray(covariance / np.outer(scales, scales))

    def against(self, reference: str) -> dict[str, Contrast]:
        """Return every other cell's difference from `reference`, corrected for all of them (Dunnett, 1955)."""
        others = [cell for cell in self.cells if cell != reference]
        return dict(zip(others, self.contrasts([{cell: 1.0, reference: -1.0} for cell in others]), strict=True))

    def all_pairs(self) -> dict[tuple[str, str], Contrast]:
        """Return the differences of all pairs of cells, corrected for all of them (Tukey and Kramer, 1956)."""
        pairs = [(first, other) for index, first in enumerate(self.cells) for other in self.cells[index + 1 :]]
        return {(first, other): self._pair(first, other) for first, other in pairs}

    def _pair(self, first: str, other: str) -> Contrast:
        weights = {first: 1.0, other: -1.0}
        single = self.contrasts([weights])[0]
        if np.isnan(single.p):
            return single
        error = float(self._errors(self._rows([weights]))[0])
        width = _tukey_critical(len(self.cells), self.freedom) * error
        p = _tukey_p(abs(single.effect) / error, len(self.cells), self.freedom)
        return Contrast(single.effect, single.effect - width, single.effect + width, p)

    def _errors(self, rows: np.ndarray) -> np.ndarray:
        """Return the standard errors (m,) of m weighted sums of cell means."""
        return np.asarray(np.sqrt(np.einsum("ij,jk,ik->i", rows, self.inverse, rows)) * self.deviation)

    def _rows(self, weights: Sequence[Mapping[str, float]]) -> np.ndarray:
        return np.array([self._row(each) for each in weights]).reshape(len(weights), len(self.effects))

    def _row(self, weights: Mapping[str, float]) -> np.ndarray:
        row = np.zeros(len(self.effects))
        for cell, weight in weights.items():
            row[self.cells.index(cell)] = weight
        row[len(self.cells) :] = row.sum() / len(self.seeds)  # a mean over all seeds; 0 where it is a comparison
        return row


@lru_cache
def _tukey_critical(cells: int, freedom: int) -> float:
    """Return the t statistic beyond which a pair of `cells` differs."""
    return float(stats.studentized_range.isf(ALPHA, cells, freedom) / np.sqrt(2))


@lru_cache(maxsize=1024)  # 10 ms each, and several outputs of a study ask for the same
def _tukey_p(t: float, cells: int, freedom: int) -> float:
    """Return the probability that some pair of `cells` has a statistic of `t` or more."""
    return float(stats.studentized_range.sf(np.sqrt(2) * t, cells, freedom))


def fit(values: Sequence[float], cells: Sequence[str], seeds: Sequence[int]) -> AdditiveModel:
    """Return the least-squares fit of one result per run, of the run's cell and seed; any may be missing."""
    names, kept = tuple(dict.fromkeys(cells)), tuple(sorted(set(seeds)))
    of_cell = np.array([[cell == name for name in names] for cell in cells], dtype=float)
    of_seed = np.array([[seed == one for one in kept] for seed in seeds], dtype=float)
    blocks = len(kept) > 1 and _connected(of_cell, of_seed)
    design = np.hstack([of_cell, of_seed[:, 1:]]) if blocks else of_cell
    inverse = np.linalg.pinv(design.T @ design)
    effects = inverse @ design.T @ np.asarray(values)
    freedom = len(design) - int(np.linalg.matrix_rank(design))
    return AdditiveModel(names, kept, blocks, effects, inverse, freedom, design, np.asarray(values) - design @ effects)


def _connected(of_cell: np.ndarray, of_seed: np.ndarray) -> bool:
    """Say whether shared seeds lead from every cell to every other: only then are differences within seeds known."""
    shared = (of_cell.T @ of_seed) @ (of_seed.T @ of_cell)
    return bool(connected_components(shared, directed=False)[0] == 1)


@dataclass(frozen=True)
class Doubts:
    """What speaks against the model: a sentence each; none where it fits or there is too little to tell."""

    spread: str = ""
    interaction: str = ""
    outlier: str = ""

    @property
    def serious(self) -> bool:
        """Whether the model's intervals and p-values are not to be trusted."""
        return bool(self.spread or self.interaction)


def doubts(model: AdditiveModel) -> Doubts:
    """Return what the residuals say against the model: unequal spread, an interaction, an outlying run."""
    return Doubts(_unequal_spread(model), _interaction(model), _outlier(model))


def _unequal_spread(model: AdditiveModel) -> str:
    """Levene's test with medians (Brown and Forsythe, 1974) on the residuals of cells that have three or more."""
    groups = [model.residuals[model.design[:, index] == 1] for index in range(len(model.cells))]
    groups = [group for group in groups if len(group) > 2]
    if len(groups) < 2 or model.deviation < 1e-12:
        return ""
    p = float(stats.levene(*groups, center="median").pvalue)
    return f"the cells' spread differs (Levene, {_p(p)})" if p < DOUBT else ""


def _interaction(model: AdditiveModel) -> str:
    """Tukey's test for one degree of freedom (1949): do seeds matter more in cells that are better?"""
    if not model.blocks or model.freedom < 2 or model.deviation < 1e-12:
        return ""
    squares = (model.design @ model.effects) ** 2
    # What the model does not have of them are the products of the cells' and the seeds' effects.
    product = squares - model.design @ (model.inverse @ (model.design.T @ squares))
    if product @ product < 1e-12:
        return ""
    explained = float((product @ model.residuals) ** 2 / (product @ product))
    left = float(model.residuals @ model.residuals) - explained
    p = float(stats.f.sf(explained / (left / (model.freedom - 1)), 1, model.freedom - 1))
    return f"seeds act differently on the cells (Tukey's one degree of freedom, {_p(p)})" if p < DOUBT else ""


def _outlier(model: AdditiveModel) -> str:
    """The largest externally studentised residual, corrected by Bonferroni for the number of runs."""
    if model.freedom < 2 or model.deviation < 1e-12:
        return ""
    free = 1 - np.einsum("ij,jk,ik->i", model.design, model.inverse, model.design)
    usable = free > 1e-9
    residuals, free = model.residuals[usable], free[usable]
    total = model.residuals @ model.residuals
    others = (total - residuals**2 / free) / (model.freedom - 1)
    t = np.abs(residuals) / np.sqrt(np.clip(others, 1e-300, None) * free)
    worst = int(t.argmax())
    p = 2 * len(t) * float(stats.t.sf(t[worst], model.freedom - 1))
    if p >= DOUBT:
        return ""
    row = model.design[usable][worst]
    cell = model.cells[int(row[: len(model.cells)].argmax())]
    seed = model.seeds[int(row[len(model.cells) :].argmax()) + 1] if row[len(model.cells) :].any() else model.seeds[0]
    where = f"{cell}, seed {seed}" if model.blocks else cell
    return f"the run of {where} lies {residuals[worst] / free[worst]:+.1f} from what the others let expect ({_p(p)})"


def _p(p: float) -> str:
    """Return a p-value in words; a smaller one than 0.0001 says more than normal noise can be trusted with."""
    return f"p {p:.2g}" if p >= 1e-4 else "p < 0.0001"
