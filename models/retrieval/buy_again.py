"""Buy again: what the shopper bought before and is due, by the item's own rhythm."""

from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from contracts.errors import SettingsError
from contracts.events import EVENT_CODES, EVENT_TYPES
from contracts.state import MICROS_PER_DAY
from models.artifacts import load_arrays, save_arrays
from models.base import Catalogue, FloatArray, Histories, TrainingData
from models.retrieval.dense import DenseRetriever
from models.retrieval.matrices import useful_events
from models.retrieval.weighting import standing


@dataclass(frozen=True)
class BuyAgainConfig:
    """Options of BuyAgain."""

    event_types: tuple[str, ...] = ("purchase",)
    """Events that are a purchase, in the history and in the training."""
    prior_repeats: float = 5.0
    """Weight, in shoppers and in gaps, of the average item against an item's own numbers."""
    prior_gaps: float = 2.0
    """Weight, in gaps, of the item's rhythm against the shopper's own rhythm for it."""
    least_gap_days: float = 0.5
    """Purchases nearer than this are one; also the least time since, so that logs are finite."""
    overdue_power: float = 0.5
    """How fast interest falls after an item was due (0: never; 1: as the log-normal does)."""

    def __post_init__(self) -> None:
        if unknown := sorted(set(self.event_types) - set(EVENT_TYPES)):
            raise ValueError(f"event_types: unknown {unknown}; known: {list(EVENT_TYPES)}")
        if min(self.prior_repeats, self.prior_gaps, self.least_gap_days) <= 0:
            raise ValueError("prior_repeats, prior_gaps and least_gap_days must be above 0")
        if not 0 <= self.overdue_power <= 1:
            raise ValueError("overdue_power must be in [0, 1]")


class BuyAgain(DenseRetriever):
    """score_j = P(j is bought again) x exp(-z^2 / 2), z = (log t - mean_j) / spread_j.

    Bhagat et al. 2018 ("Buy it again", KDD): the repeat probability of an item (RCP) times its
    log-normal aggregate time distribution (ATD). t is the days since the shopper's last purchase of
    j; a shopper with gaps of their own for j moves the mean (as their modified Poisson-gamma does
    the rate). Item numbers are shrunk towards the average item's. Past the due time z counts times
    overdue_power: late is better than early. Items never bought by the shopper score 0; one that
    came after the fit has the mean of the items' numbers. Size 3 I floats; training O(N log N), a
    score O(L log L).
    """

    name: ClassVar[str] = "buy_again"
    config_class = BuyAgainConfig
    config: BuyAgainConfig

    def _fit(self, data: TrainingData, seed: int) -> None:
        bought = useful_events(data, self._strength())
        days = data.times[bought] / MICROS_PER_DAY
        pairs, items, _, gaps, owners = _visits(
            data.users[bought], data.items[bought], days, self.config.least_gap_days
        )
        prior, n_items = self.config.prior_repeats, self.n_items
        buyers = np.bincount(items, minlength=n_items)
        again = np.unique(owners)
        repeaters = np.bincount(items[again], minlength=n_items)
        average = repeaters.sum() / len(pairs) if len(pairs) else 0.0
        self._chance = ((repeaters + prior * average) / (buyers + prior)).astype(np.float32)
        logs = np.log(gaps)
        mean, spread = (float(logs.mean()), float(logs.std())) if len(logs) else (3.0, 1.0)
        of_item = items[owners]
        count = np.bincount(of_item, minlength=n_items) + prior
        means = (np.bincount(of_item, weights=logs, minlength=n_items) + prior * mean) / count
        off = (logs - means[of_item]) ** 2
        variance = np.bincount(of_item, weights=off, minlength=n_items) + prior * (spread**2 + 0.01)
        self._means = means.astype(np.float32)
        self._spreads = np.sqrt(variance / count).astype(np.float32)

    def _extend(self, added: Catalogue) -> None:
        self._chance = _with_average(self._chance, len(added))
        self._means = _with_average(self._means, len(added))
        self._spreads = _with_average(self._spreads, len(added))

    def _scores(self, histories: Histories) -> FloatArray:
        scores = np.zeros((len(histories), self.size), dtype=np.float32)
        strength = self._strength()
        useful = standing(histories, strength) & (strength[histories.event_types] > 0)
        useful &= histories.items < self.size
        rows, places = np.nonzero(useful)
        days = -histories.ages_days[rows, places].astype(np.float64)
        least = self.config.least_gap_days
        pairs, items, last, gaps, owners = _visits(rows, histories.items[rows, places], days, least)
        prior = self.config.prior_gaps
        count = np.bincount(owners, minlength=len(pairs))
        own = np.bincount(owners, weights=np.log(gaps), minlength=len(pairs))
        means = (prior * self._means[items].astype(np.float64) + own) / (prior + count)
        z = (np.log(np.maximum(-last, least)) - means) / self._spreads[items]
        z = np.where(z > 0, z * self.config.overdue_power, z)
        found = self._chance[items] * np.exp(-0.5 * np.minimum(z**2, 80.0))
        # At least the smallest positive number: bought before is never the same as never bought.
        scores[pairs, items] = np.maximum(found, 1e-30)
        return scores

    def _strength(self) -> NDArray[np.float32]:
        """Return (event codes,) weights: of the types that are a purchase, and below 0."""
        bought = np.zeros(len(self.event_weights), dtype=bool)
        codes = [EVENT_CODES[name] for name in self.config.event_types]
        if max(codes, default=0) >= len(bought):
            raise SettingsError(
                f"retrievers.buy_again.event_types = {self.config.event_types}: there are only "
                f"{len(bought)} event_weights"
            )
        bought[codes] = True
        return np.where(bought | (self.event_weights < 0), self.event_weights, np.float32(0))

    def _save(self, folder: Path) -> None:
        arrays = {"chance": self._chance, "means": self._means, "spreads": self._spreads}
        save_arrays(folder, self.name, **arrays)

    def _load(self, folder: Path) -> None:
        arrays = load_arrays(folder, self.name, mmap=True)
        self._chance, self._means = arrays["chance"], arrays["means"]
        self._spreads = arrays["spreads"]


def _with_average(of_items: FloatArray, n: int) -> FloatArray:
    """Return (I + n,): the items' numbers, then their mean n times."""
    average = of_items.mean(dtype=np.float64)
    return np.append(of_items, np.full(n, average, np.float32))


def _visits(
    owners: NDArray[np.integer],
    items: NDArray[np.integer],
    days: NDArray[np.float64],
    least_gap_days: float,
) -> tuple[
    NDArray[np.int64],
    NDArray[np.int64],
    NDArray[np.float64],
    NDArray[np.float64],
    NDArray[np.int64],
]:
    """Group events by (owner, item): P pairs and the G gaps between their purchases.

    Returns owners (P,), items (P,), the day of the last purchase (P,), gaps in days (G,), at least
    `least_gap_days`, and the pair of each gap (G,).
    """
    order = np.lexsort((days, items, owners))
    owners, items, days = owners[order], items[order], days[order]
    opens = np.ones(len(days), dtype=bool)
    opens[1:] = (owners[1:] != owners[:-1]) | (items[1:] != items[:-1])
    pair = np.cumsum(opens) - 1
    gaps = np.diff(days, prepend=days[:1])
    far = ~opens & (gaps >= least_gap_days)
    closes = np.roll(opens, -1)
    return (
        owners[opens].astype(np.int64),
        items[opens].astype(np.int64),
        days[closes],
        gaps[far],
        pair[far],
    )
