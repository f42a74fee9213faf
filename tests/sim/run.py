"""Run the simulator: `python tests/sim/run.py --seeds 200 --start 1`.

Each seed is a world of its own (see `raft_sim.world`); the same seed is the same run. A seed that
fails is shown with the command that replays it, and `--trace` prints every event of it.
"""

from __future__ import annotations

import argparse
import os
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))

from raft_sim.campaign import (
    TWICE_EVERY,
    Verdict,
    replay_command,
    run_seed,
    run_seeds,
    total_seen,
    unequal_hashes,
)
from raft_sim.world import EVENTS


def main() -> int:
    options = _parser().parse_args()
    if options.hashes is not None:
        for seed in options.hashes:
            print(run_seed(seed, events=options.events).trace_hash)
        return 0
    if options.trace:
        verdict = run_seed(options.start, mutation=options.mutation, events=options.events, trace=True)
        print(f"{verdict.invariant}: {verdict.detail}" if verdict.invariant else "all invariants held")
        return bool(verdict.invariant)
    return _campaign(options)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seeds", type=int, default=1, help="how many")
    parser.add_argument("--start", type=int, default=1, help="the first")
    parser.add_argument("--events", type=int, default=EVENTS, help="how many a seed has, about")
    parser.add_argument("--processes", type=int, default=1)
    parser.add_argument("--mutation", default="", help="with this bug put in")
    parser.add_argument("--trace", action="store_true", help="print all that happens in the first seed")
    parser.add_argument("--coverage", action="store_true", help="say what happened how often")
    parser.add_argument("--once", action="store_true", help="don't repeat any under other hash seeds")
    parser.add_argument("--hashes", type=int, nargs="*", metavar="SEED", help="print trace hashes only")
    return parser


def _campaign(options: argparse.Namespace) -> int:
    seeds = range(options.start, options.start + options.seeds)
    began, cpu_began = time.monotonic(), _cpu_seconds()
    verdicts: list[Verdict] = []
    for verdict in run_seeds(
        seeds, processes=options.processes, mutation=options.mutation, events=options.events
    ):
        verdicts.append(verdict)
        if verdict.invariant:
            print(f"seed {verdict.seed} FAILED: {verdict.invariant}: {verdict.detail}")
            print(f"  replay: {replay_command(verdict.seed, options.mutation, options.events)}", flush=True)
    minutes = (time.monotonic() - began) / 60
    cpu_minutes = max(_cpu_seconds() - cpu_began, 0.01) / 60  # too short to be measured
    twice = [] if options.once or options.mutation else [seed for seed in seeds if seed % TWICE_EVERY == 0]
    unequal = unequal_hashes(twice, options.events)
    for seed in unequal:
        print(f"seed {seed} FAILED: its two runs under two hash seeds differ")
    if options.coverage:
        for name, count in sorted(total_seen(verdicts).items()):
            print(f"  {name}: {count}")
    failed = sum(bool(verdict.invariant) for verdict in verdicts) + len(unequal)
    events = sum(verdict.events for verdict in verdicts)
    print(
        f"sim: {len(verdicts)} seeds from {options.start}, {failed} failed, {events} events, "
        f"{len(twice)} run under two hash seeds, {len(verdicts) / minutes:.0f} seeds a minute, "
        f"{len(verdicts) / cpu_minutes:.0f} a minute of processor time"
    )
    return 1 if failed else 0


def _cpu_seconds() -> float:
    times = os.times()
    return times.user + times.system + times.children_user + times.children_system


if __name__ == "__main__":
    sys.exit(main())
