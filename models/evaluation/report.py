"""The report of a training run: everything that was measured of every system, as plain JSON."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, Final

from models.evaluation.champion import CHALLENGER, CHAMPION, ChampionResult
from models.evaluation.costs import Cost
from models.evaluation.gate import GateVerdict
from models.evaluation.tables import TableResult
from models.ranking.first_stage import POPULARITY

BASELINE: Final = "baseline"
PART: Final = "part"
FUSION: Final = "fusion"


@dataclass(frozen=True)
class EvaluationReport:
    """Every system on the test window, judged once.

    serves         what the release would serve, e.g. fused:lambdamart
    systems        system -> baseline, part, fusion or champion
    tables         repeats allowed, and new items only; the gate looked at the `primary_table`
    champion       on the queries that it could be compared on; None for a first release
    score_profile  how the scores of each source are distributed: what serving is held against
    """

    serves: str
    k: int
    primary_table: str
    systems: Mapping[str, str]
    tables: Mapping[str, TableResult]
    verdict: GateVerdict
    champion: ChampionResult | None
    costs: Mapping[str, Cost]
    score_profile: Mapping[str, Mapping[str, float]]

    @property
    def parts(self) -> tuple[str, ...]:
        """The systems that a fusion is compared with: popularity and every base model."""
        return tuple(name for name, kind in self.systems.items() if kind in {BASELINE, PART})

    def to_json(self) -> dict[str, Any]:
        """Return plain JSON values; what `report_page` reads."""
        return {
            "serves": self.serves,
            "k": self.k,
            "primary_table": self.primary_table,
            "systems": dict(self.systems),
            "verdict": self.verdict.to_json(),
            "tables": {name: table_json(table, self.parts) for name, table in self.tables.items()},
            "champion": None if self.champion is None else champion_json(self.champion),
            "costs": {name: asdict(cost) for name, cost in self.costs.items()},
            "score_profile": {name: dict(values) for name, values in self.score_profile.items()},
        }


def systems_of(parts: tuple[str, ...], fusions: tuple[str, ...], champion: bool) -> dict[str, str]:
    """Return system -> what it is.

    >>> systems_of(("popularity", "ease"), ("blend",), champion=False)
    {'popularity': 'baseline', 'ease': 'part', 'blend': 'fusion'}
    """
    found = {name: BASELINE if name == POPULARITY else PART for name in parts}
    found |= dict.fromkeys(fusions, FUSION)
    return found | ({CHAMPION: CHAMPION} if champion else {})


def table_json(table: TableResult, references: tuple[str, ...]) -> dict[str, Any]:
    """Return one table: means with their bounds, paired intervals against popularity, the best of
    `references` and the champion, and the same of every segment.
    """
    body: dict[str, Any] = {
        "queries": table.n_queries,
        "shoppers": table.n_shoppers,
        "candidate_recall": table.candidate_recall,
        "best_part": None,
        "overlap": table.overlap,
        "models": table.means,
        "mean_bounds": {},
        "intervals": {},
        "segments": {
            name: {
                "group": result.segment.group,
                "judged": result.segment.judged,
                "queries": result.queries,
                "shoppers": result.shoppers,
                "models": result.means,
                "mean_bounds": {},
                "intervals": {},
            }
            for name, result in table.segments.items()
        },
    }
    if table.n_queries == 0:
        return body
    best = table.best_of(references)
    body["best_part"] = best
    against = tuple(
        name for name in dict.fromkeys((POPULARITY, best, CHAMPION)) if name in table.ndcg
    )
    body |= _bounds(table, against, None)
    for name, segment in body["segments"].items():
        if segment["shoppers"]:
            segment.update(_bounds(table, against, name))
    return body


def _bounds(table: TableResult, against: tuple[str, ...], segment: str | None) -> dict[str, Any]:
    return {
        "mean_bounds": {
            system: list(table.mean_interval(system, segment)) for system in table.ndcg
        },
        "intervals": {
            reference: {
                system: asdict(table.interval(system, reference, segment)) for system in table.ndcg
            }
            for reference in against
        },
    }


def champion_json(champion: ChampionResult) -> dict[str, Any]:
    """Return how the champion was compared; `models` are the means on the primary table."""
    tables = {name: table_json(table, (CHAMPION,)) for name, table in champion.tables.items()}
    return asdict(champion.comparison) | {
        "tables": tables,
        "systems": [CHALLENGER, CHAMPION] if tables else [],
        "models": {} if champion.primary is None else champion.primary.means,
    }
