"""Many seeds, one after the other or in several processes, and what came of them."""

from __future__ import annotations

import gc
import multiprocessing
import os
import subprocess
import sys
import traceback
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from raft_sim.kernel import Violation
from raft_sim.mutations import mutated
from raft_sim.world import EVENTS, World

RUN: Final = Path(__file__).parent.parent / "run.py"
TWICE_EVERY: Final = 100
"""One seed in so many is run twice more, under two hash seeds."""


@dataclass(frozen=True, slots=True)
class Verdict:
    """What came of one seed. `invariant` is empty if all held."""

    seed: int
    events: int
    trace_hash: int
    invariant: str = ""
    detail: str = ""
    seen: dict[str, int] = field(default_factory=dict)
    """How often what happened, for people who wonder what the seeds cover."""


def run_seed(seed: int, *, mutation: str = "", events: int = EVENTS, trace: bool = False) -> Verdict:
    """Run one seed to its end. Whatever goes wrong in it is in the verdict."""
    collecting = gc.isenabled()
    gc.disable()  # a world is one big cycle, and short-lived: collect it when it is over
    try:
        with mutated(mutation):
            return _run(World(seed, trace=print if trace else None), events)
    finally:
        if collecting:
            gc.enable()
        gc.collect()


def _run(world: World, events: int) -> Verdict:
    invariant = detail = ""
    try:
        world.run(events)
    except Violation as violation:
        invariant, detail = violation.invariant, violation.detail
    except Exception as error:  # the simulator failed, or a mutation broke the core
        where = traceback.extract_tb(error.__traceback__)[-1]
        invariant = "nothing raises"
        detail = f"{type(error).__name__}: {error} ({Path(where.filename).name}:{where.lineno})"
    kernel = world.kernel
    return Verdict(world.seed, kernel.events, kernel.trace_hash, invariant, detail, world.seen())


def _run_in_worker(task: tuple[int, str, int]) -> Verdict:
    seed, mutation, events = task
    return run_seed(seed, mutation=mutation, events=events)


def run_seeds(
    seeds: Sequence[int], *, processes: int = 1, mutation: str = "", events: int = EVENTS
) -> Iterator[Verdict]:
    """The verdicts on `seeds`, in order."""
    tasks = [(seed, mutation, events) for seed in seeds]
    if processes == 1:
        yield from map(_run_in_worker, tasks)
        return
    # Spawned, so that nothing of this process is in the workers.
    with multiprocessing.get_context("spawn").Pool(processes) as pool:
        yield from pool.imap(_run_in_worker, tasks, chunksize=4)


def replay_command(seed: int, mutation: str = "", events: int = EVENTS) -> str:
    command = f"{os.path.relpath(sys.executable)} {os.path.relpath(RUN)} --start {seed} --trace"
    if events != EVENTS:
        command += f" --events {events}"
    return f"{command} --mutation {mutation}" if mutation else command


def unequal_hashes(seeds: Sequence[int], events: int = EVENTS) -> list[int]:
    """Run `seeds` under two hash seeds each: those whose runs differ."""
    hashes = [_hashes_under(hash_seed, seeds, events) for hash_seed in ("1", "2")]
    return [seed for seed, one, other in zip(seeds, *hashes, strict=True) if one != other]


def _hashes_under(hash_seed: str, seeds: Sequence[int], events: int) -> list[str]:
    command = [sys.executable, str(RUN), "--events", str(events), "--hashes", *map(str, seeds)]
    environment = {**os.environ, "PYTHONHASHSEED": hash_seed}
    done = subprocess.run(command, env=environment, check=True, capture_output=True, text=True)
    return done.stdout.split()


def total_seen(verdicts: Sequence[Verdict]) -> Counter[str]:
    total: Counter[str] = Counter()
    for verdict in verdicts:
        total.update(verdict.seen)
    return total
