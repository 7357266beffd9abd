"""`python -m models benchmark`: how fast each deep model trains on this machine's device.

The data are drawn, so that the command needs no file. Throughput is of whole training epochs,
batches made on the CPU included, after one epoch of warm-up. The share of the card's limit is the
floating-point work of an epoch, as torch counts its matrix products, attention and convolutions
(recurrences on CUDA are not counted: no share is given), over the time of the epoch, over what a
large matrix product in the same precision was measured to reach.
"""

import argparse
import platform
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.utils.flop_counter import FlopCounterMode

from contracts import atomic
from contracts.errors import SettingsError
from contracts.events import EVENT_TYPES, EVENT_WEIGHTS
from contracts.state import MICROS_PER_DAY
from models.base import Catalogue, TrainingData
from models.device import choose_device
from models.registry import make_retriever
from models.training_run import EpochDone, TrainingRun

SIZES = {
    "sasrec": "batch_size",
    "gru4rec": "batch_size",
    "nextitnet": "batch_size",
    "two_tower": "batch_size",
    "neumf": "batch_size",
    "item2vec": "batch_size",
    "ials": "",
}
"""Model -> the option that says how many samples a step has; "" where an epoch is one step."""
_MATMUL_ROUNDS = 10


@dataclass(frozen=True)
class Shop:
    """Sizes of the drawn data."""

    users: int
    items: int
    events_per_user: int


@dataclass(frozen=True)
class Measured:
    """One model on one device."""

    model: str
    device: str
    samples_per_second: float
    epoch_seconds: float
    tflops: float | None
    """10^12 counted operations a second; None where torch cannot count them."""
    limit_share: float | None
    """Of the measured matrix product in the precision of the training."""


def benchmark(words: Sequence[str]) -> None:
    """Measure what the command line names; print a table, and write JSON with --out."""
    options = _parser().parse_args(words)
    names = [name.strip() for name in options.models.split(",") if name.strip()]
    if unknown := sorted(set(names) - set(SIZES)):
        raise SettingsError(f"--models {unknown}: not measured here; known: {sorted(SIZES)}")
    shop = Shop(options.users, options.items, options.events_per_user)
    device = choose_device(options.device).type
    devices = [device] if device == "cpu" or options.no_cpu else [device, "cpu"]
    data = drawn_data(shop, options.seed)
    limits = {kind: matmul_tflops(kind, options.matmul_size) for kind in devices}
    found = []
    for name in names:
        for kind in devices:
            found.append(measure(name, data, kind, limits[kind], options))
            sys.stderr.write(f"measured {name} on {kind}\n")
    facts = _facts(shop, options, limits)
    sys.stdout.write("\n".join(table(found, facts)) + "\n")
    if options.out is not None:
        rows = [vars(one) for one in found]
        atomic.write_json(options.out, {**facts, "measured": rows})


def drawn_data(shop: Shop, seed: int) -> TrainingData:
    """Return drawn purchases, one a day and shopper, of items of falling popularity."""
    rng = np.random.default_rng(seed)
    count = shop.users * shop.events_per_user
    share = 1 / np.arange(1, shop.items + 1) ** 0.8
    items = rng.choice(shop.items, count, p=share / share.sum()).astype(np.int32)
    blank = ("",) * shop.items
    catalogue = Catalogue(
        item_ids=tuple(f"i{item:07d}" for item in range(shop.items)),
        titles=blank,
        descriptions=blank,
        categories=tuple(f"a{item % 10} > b{item % 100}" for item in range(shop.items)),
        brands=tuple(f"brand{item % 200}" for item in range(shop.items)),
        tags=((),) * shop.items,
        prices=np.exp(rng.normal(3, 1, shop.items)).astype(np.float32),
    )
    return TrainingData(
        users=np.repeat(np.arange(shop.users, dtype=np.int32), shop.events_per_user),
        items=items,
        event_types=np.full(count, EVENT_TYPES.index("purchase"), dtype=np.int8),
        times=np.tile(np.arange(shop.events_per_user), shop.users) * MICROS_PER_DAY,
        n_users=shop.users,
        catalogue=catalogue,
        now=shop.events_per_user * MICROS_PER_DAY,
    )


def matmul_tflops(device: str, size: int) -> float:
    """Return 10^12 operations a second of (size, size) products in the precision of training."""
    kind = torch.bfloat16 if device == "cuda" else torch.float32
    one = torch.randn(size, size, device=device, dtype=kind)
    for _ in range(2):
        one @ one
    _wait(device)
    started = time.perf_counter()
    for _ in range(_MATMUL_ROUNDS):
        one @ one
    _wait(device)
    return 2 * size**3 * _MATMUL_ROUNDS / (time.perf_counter() - started) / 1e12


def measure(
    name: str, data: TrainingData, device: str, limit: float, options: argparse.Namespace
) -> Measured:
    """Fit for --epochs epochs and one before them; then one more under torch's counter of work."""
    wanted: dict[str, Any] = {"device": device, "epochs": options.epochs + 1}
    if SIZES[name]:
        wanted["patience"] = 0
    if name == "item2vec":
        wanted["subsample"] = 0.0  # every event gives pairs, whatever the sizes
    if options.embedding_size:
        wanted["embedding_size"] = options.embedding_size
    if options.batch_size and SIZES[name]:
        wanted[SIZES[name]] = options.batch_size
    ends: list[float] = []

    def tick(_done: EpochDone) -> None:
        _wait(device)
        ends.append(time.perf_counter())

    weights = np.array([EVENT_WEIGHTS[kind] for kind in EVENT_TYPES], dtype=np.float32)
    model = make_retriever(name, wanted)
    model.run = TrainingRun(progress=tick)
    model.fit(data, event_weights=weights, seed=options.seed)
    seconds = (ends[-1] - ends[0]) / (len(ends) - 1)
    report = getattr(model, "report", None)
    samples = len(data.items)
    if report is not None:
        samples = report.steps // len(ends) * getattr(model.config, SIZES[name])
    counted = None
    if report is not None and not (name == "gru4rec" and device == "cuda"):
        counter = FlopCounterMode(display=False)
        with counter:
            once = make_retriever(name, {**wanted, "epochs": 1})
            once.fit(data, event_weights=weights, seed=options.seed)
        counted = counter.get_total_flops() or None
    tflops = None if counted is None else counted / seconds / 1e12
    share = None if tflops is None else tflops / limit
    return Measured(name, device, samples / seconds, seconds, tflops, share)


def table(found: Sequence[Measured], facts: dict[str, Any]) -> list[str]:
    """Return Markdown lines: a row for each model and device, with its gain over the CPU."""
    on_cpu = {one.model: one.samples_per_second for one in found if one.device == "cpu"}
    lines = [
        f"{facts['machine']}, torch {facts['torch']}, {facts['threads']} threads, seed "
        f"{facts['seed']}; {facts['users']:,} shoppers, {facts['items']:,} items, "
        f"{facts['events_per_user']} events each; matrix product, TFLOP/s: "
        + ", ".join(f"{kind} {value:.2f}" for kind, value in facts["matmul_tflops"].items()),
        "",
        "| model | device | samples a second | seconds an epoch | TFLOP/s | of limit | times CPU |",
        "| --- | --- | ---: | ---: | ---: | ---: | ---: |",
    ]
    for one in found:
        work = "" if one.tflops is None else f"{one.tflops:.3f}"
        share = "" if one.limit_share is None else f"{one.limit_share:.1%}"
        times = f"{one.samples_per_second / on_cpu[one.model]:.1f}" if one.model in on_cpu else ""
        lines.append(
            f"| {one.model} | {one.device} | {one.samples_per_second:,.0f} | "
            f"{one.epoch_seconds:.2f} | {work} | {share} | {times} |"
        )
    return lines


def _facts(shop: Shop, options: argparse.Namespace, limits: dict[str, float]) -> dict[str, Any]:
    machine = torch.cuda.get_device_name() if "cuda" in limits else platform.processor()
    return {
        **vars(shop),
        "machine": machine or platform.machine(),
        "torch": torch.__version__,
        "threads": torch.get_num_threads(),
        "seed": options.seed,
        "epochs": options.epochs,
        "matmul_tflops": limits,
    }


def _wait(device: str) -> None:
    if device == "cuda":
        torch.cuda.synchronize()


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m models benchmark",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--models", default=",".join(SIZES), help="names, comma-separated")
    parser.add_argument("--device", default="auto", choices=("auto", "cpu", "cuda"))
    parser.add_argument("--no-cpu", action="store_true", help="the GPU alone, without CPU ratio")
    parser.add_argument("--users", type=_positive, default=20_000)
    parser.add_argument("--items", type=_positive, default=20_000)
    parser.add_argument("--events-per-user", type=_positive, default=40)
    parser.add_argument("--embedding-size", type=_positive, help="default: each model's own")
    parser.add_argument("--batch-size", type=_positive, help="default: each model's own")
    parser.add_argument("--epochs", type=_positive, default=2, help="timed; one more comes before")
    parser.add_argument("--matmul-size", type=_positive, default=4096)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, help="JSON file")
    return parser


def _positive(text: str) -> int:
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError(f"{text}: must be at least 1")
    return value
