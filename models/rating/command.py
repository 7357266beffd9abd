"""`python -m models rating FILE`: fit and judge the rating model on a Parquet of interactions."""

import argparse
import json
import math
import sys
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

from contracts import columns
from models.artifacts import write_manifest
from models.config import load_config
from models.files import read_parquet, with_sessions_as_users
from models.rating.biased_mf import BiasedMF, BiasedMFConfig
from models.rating.judge import chosen_reg, judged, split_moment
from models.rating.ratings import ratings_from_arrow

_COLUMNS = (
    columns.USER_ID,
    columns.SESSION_ID,
    columns.ITEM_ID,
    columns.EVENT_TYPE,
    columns.EVENT_TIMESTAMP,
    columns.RATING,
)


def rating(words: Sequence[str]) -> None:
    """Print, a JSON line each, MAE and RMSE by model and segment; with --out save the model.

    The saved model is fitted on all ratings, with the options that were judged.
    """
    options = _parser().parse_args(words)
    ratings = ratings_from_arrow(with_sessions_as_users(read_parquet(options.file, _COLUMNS)))
    moment = options.before_us
    if moment is None:
        moment = split_moment(ratings, options.test_share)
    given = {"embedding_size": options.embedding_size, "epochs": options.epochs}
    config = load_config(BiasedMFConfig, given, where="rating")
    reg = options.reg
    if reg is None:
        reg = chosen_reg(ratings.before(moment), config, seed=options.seed)
    config = load_config(BiasedMFConfig, {**given, "reg": reg}, where="rating")
    facts = {"ratings": len(ratings), "shoppers": ratings.n_users, "items": ratings.n_items}
    _say({**facts, "split_us": moment, "seed": options.seed, "config": asdict(config)})
    for name, segments in judged(ratings, moment, config, seed=options.seed).items():
        for segment, found in segments.items():
            numbers = {
                key: None if math.isnan(value) else round(value, 4)
                for key, value in asdict(found).items()
            }
            _say({"model": name, "segment": segment, **numbers})
    if options.out is not None:
        BiasedMF(config).fit(ratings, seed=options.seed).save(options.out)
        write_manifest(options.out, {"model": "rating", "seed": options.seed, **facts})


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m models rating", description=__doc__)
    parser.add_argument("file", type=Path, help="Parquet file or folder of interactions")
    when = parser.add_mutually_exclusive_group()
    when.add_argument("--test-share", type=_share, default=0.2, help="last share that is judged")
    when.add_argument("--before-us", type=int, help="fit before this moment, epoch microseconds")
    parser.add_argument("--embedding-size", type=int, default=BiasedMFConfig.embedding_size)
    parser.add_argument("--epochs", type=int, default=BiasedMFConfig.epochs)
    parser.add_argument("--reg", type=float, help="default: chosen on the end of the fit's ratings")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, help="folder for the model, fitted on all ratings")
    return parser


def _share(text: str) -> float:
    value = float(text)
    if not 0 < value < 1:
        raise argparse.ArgumentTypeError(f"{text}: must be between 0 and 1")
    return value


def _say(facts: dict[str, object]) -> None:
    sys.stdout.write(json.dumps(facts, allow_nan=False) + "\n")
    sys.stdout.flush()
