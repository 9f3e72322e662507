"""Each stage trained for a few steps in every way: its losses against the CPU's in float32."""

from __future__ import annotations

import importlib.util
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any, NamedTuple

import torch
from torch._dynamo.utils import counters

from unclip.machine.check import Check, Machine, Row, Unavailable, agreement
from unclip.machine.stages import REFERENCE, STAGES, expected, trained
from unclip.training.stage import Stage

EXACT, HALF = 1e-3, 2e-2
"""How far losses may be apart: sums in another order; products of 8 bits in the place of
24, as Muon's are."""
OF_CPU = "CPU"


class Way(NamedTuple):
    """A way to train."""

    changes: dict[str, str]
    within: float = EXACT
    stages: tuple[str, ...] = tuple(STAGES)


BF16 = {"trainer.precision": "bf16-mixed"}
COMPILE = {"trainer.compile": "blocks"}
SHARD = {"trainer.strategy": "fsdp"}
BLOCKS = ("prior", "decoder", "upsampler")
MORE = {"trainer.val_every": "2", "trainer.sample_every": "2"}  # what is gathered for them
WAYS = {
    "float32": Way({}),
    "bf16": Way(BF16, HALF),
    "compiled": Way(COMPILE | BF16, HALF),
    "compiled, float32": Way(COMPILE, EXACT, ("decoder",)),
    "fsdp": Way(SHARD | MORE, EXACT, ("clip", "prior", "decoder")),
    "fsdp, bf16": Way(SHARD | MORE | BF16, HALF, ("clip", "prior", "decoder")),
    "fsdp, offloaded": Way(
        SHARD | MORE | {"trainer.cpu_offload": "true"}, EXACT, ("clip", "prior", "decoder")
    ),
    "recomputed": Way(
        COMPILE | {"trainer.activation_checkpointing": "full"}, EXACT, ("decoder", "prior")
    ),
    "recomputed in part": Way(
        COMPILE | {"trainer.activation_checkpointing": "selective"}, EXACT, ("decoder", "prior")
    ),
    "math": Way({"trainer.attention": "math"}, EXACT, ("prior", "decoder")),
    "xformers": Way(BF16 | {"trainer.attention": "xformers"}, HALF, ("prior", "decoder")),
    "accumulate": Way({"trainer.accumulate": "4"}),
    "sam": Way({"optim.sam_rho": "0.05"}, EXACT, ("clip",)),
    "sam, fsdp": Way({"optim.sam_rho": "0.05"} | SHARD, EXACT, ("clip",)),
    "muon": Way({"optim.name": "muon"}, HALF, ("prior", "decoder")),
    "muon, fsdp": Way({"optim.name": "muon"} | SHARD, HALF, ("prior", "decoder")),
}
OWN_REFERENCE = ("sam", "sam, fsdp", "muon", "muon, fsdp")
"""Ways whose curve is another one: they are compared with the same on the CPU."""


def measure(item: str, machine: Machine) -> list[Row]:
    """``item`` is "WAY: STAGE"."""
    name, _, kind = item.partition(": ")
    way = WAYS[name]
    if name == "xformers" and importlib.util.find_spec("xformers") is None:
        raise Unavailable("xformers is not installed; pip install 'unclip[xformers]'")
    if "trainer.cpu_offload" in way.changes and not machine.gpu:
        raise Unavailable("needs a GPU")
    with _counting() as seen:
        found = _train(machine, name, kind, way.changes)
    of = expected(machine, kind)
    if name in OWN_REFERENCE:
        alone = {key: value for key, value in way.changes.items() if key not in SHARD}
        of = _train(machine._replace(device="cpu"), f"{name} on the CPU", kind, alone)
    rows = [agreement(item, found, of, way.within, OF_CPU)]
    if "trainer.compile" in way.changes:
        rows.append(_graphs(item, seen))
    if machine.gpu:
        torch.cuda.empty_cache()
    return rows


def _train(machine: Machine, name: str, kind: str, changes: dict[str, str]) -> list[float]:
    folder = machine.folder / "training" / name.replace(", ", "_").replace(" ", "_") / kind
    return trained(machine, kind, folder, **changes)


@contextmanager
def _counting() -> Iterator[list[int]]:
    """While it lasts, note how many graphs dynamo has made when a step begins."""
    seen: list[int] = []
    begin = Stage.on_train_batch_start

    def begun(self: Stage, batch: Any, batch_idx: int) -> None:
        seen.append(counters["stats"]["unique_graphs"])
        begin(self, batch, batch_idx)

    Stage.on_train_batch_start = begun  # type: ignore[method-assign]
    try:
        yield seen
    finally:
        Stage.on_train_batch_start = begin  # type: ignore[method-assign]


def _graphs(item: str, seen: list[int]) -> Row:
    """Blocks are compiled in the first step, and not again for what later ones are like."""
    first, later = seen[1] - seen[0], seen[-1] - seen[2]
    return Row(
        f"{item}, graphs",
        f"{first} in the first step, {later} after the second",
        "some, and none",
        first > 0 and later == 0,
        {"graphs": float(first), "later": float(later)},
    )


def _check(name: str, about: str, *ways: str, seconds: float = 120.0) -> Check:
    items = [f"{way}: {kind}" for way in ways for kind in WAYS[way].stages]
    return Check(name, about, items, measure, seconds, (REFERENCE,))


PLAIN = _check("train", "each stage in float32 and bfloat16", "float32", "bf16")
COMPILED = _check("compile", "the same compiled", "compiled", "compiled, float32", seconds=240)
SHARDED = _check("shard", "FSDP2 on one device", "fsdp", "fsdp, bf16", "fsdp, offloaded")
RECOMPUTED = _check(
    "recompute",
    "activation checkpointing, compiled",
    "recomputed",
    "recomputed in part",
    seconds=240,
)
ATTENTION = _check("attention", "the other attentions", "math", "xformers")
OPTIMIZERS = _check(
    "optimize", "micro-batches, SAM, Muon", "accumulate", "sam", "sam, fsdp", "muon", "muon, fsdp"
)


def measure_strict(item: str, machine: Machine) -> list[Row]:
    """Train the stage ``item`` twice: the same bits."""
    strict = {"trainer.deterministic": "strict"}
    once = partial(_train, machine, kind=item, changes=strict)
    first, second = once("strict 1"), once("strict 2")
    worst = max(abs(a - b) for a, b in zip(first, second))
    same = "the same bits" if first == second else f"up to {worst:.1e} apart"
    return [Row(f"{item}, strict, twice", same, "the same bits", first == second)]


STRICT = Check(
    "strict",
    "trainer.deterministic=strict twice",
    tuple(STAGES),
    measure_strict,
    after=(REFERENCE,),
)
