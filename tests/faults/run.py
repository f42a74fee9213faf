"""Harm a cluster of real nodes at random, and judge what its clients were told.

    python tests/faults/run.py --seconds 60 --seed 1 --faults kill,stop,partition

Faults: kill (-9), stop (SIGSTOP), transfer (of leadership), disk (full), fsync (fails), clock (steps),
partition, delay, loss. Those that this machine doesn't grant are left out, with the reason in one line.
With --workload keys, five clients use all commands of the key-value store.
The seed makes the schedule of faults and the choices of the clients; processes and their timing are real,
so a run can't be replayed.
"""

from __future__ import annotations

import argparse
import asyncio
import random
import shutil
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))

from fault_runner.judge import converges, same_state, verdicts
from fault_runner.key_history import KeyHistory
from fault_runner.namespaces import NotGranted, move_inside
from fault_runner.nemesis import Injected, Nemesis
from fault_runner.stories import STORIES
from fault_runner.testbed import FAULTS, Testbed, testbed
from fault_runner.workload import Workload


async def harmed(bed: Testbed, nemesis: Nemesis, seconds: float) -> tuple[str | None, float]:
    """Harm, then heal: why the nodes aren't level again, if they aren't, and how long it took, in seconds."""
    harming = asyncio.create_task(nemesis.run())
    await asyncio.wait([harming], timeout=seconds)
    if harming.done():
        harming.result()  # it never ends by itself: this raises
    harming.cancel()
    await asyncio.gather(harming, return_exceptions=True)
    await asyncio.to_thread(bed.heal)
    healed = time.monotonic()
    problem = await asyncio.to_thread(converges, bed)
    return problem, time.monotonic() - healed


async def harm(bed: Testbed, options: argparse.Namespace, faults: list[str]) -> bool:
    """One run; prints its table. Whether all was well."""
    rng = random.Random(options.seed)
    workload = Workload(bed, random.Random(rng.random()), options.clients, options.publishers, options.reads)
    nemesis = Nemesis(bed, random.Random(rng.random()), faults)
    workload.start()
    problem, converged_s = await harmed(bed, nemesis, options.seconds)
    await workload.stop()
    found = {"converges": problem}
    if problem is None:
        await workload.read_all()
        await asyncio.to_thread(bed.wait_caught_up)
        found |= await asyncio.to_thread(verdicts, bed, workload, nemesis)
    show(nemesis.injected, workload.outcomes, f"{len(workload.uses)} keys judged", found, converged_s)
    return not any(found.values())


async def harm_keys(bed: Testbed, options: argparse.Namespace, faults: list[str]) -> bool:
    """The same for a history of all commands of the key-value store."""
    history = KeyHistory(bed, options.seed, options.clients, options.reads)
    nemesis = Nemesis(bed, random.Random(options.seed), faults)
    await history.start()
    try:
        problem, converged_s = await harmed(bed, nemesis, options.seconds)
        await history.stop()
        found = {"converges": problem}
        if problem is None:
            await asyncio.to_thread(bed.wait_caught_up)
            found |= await history.verdicts()
            found["no node ended by itself"] = "; ".join(nemesis.ended_alone) or None
            found["same state"] = await asyncio.to_thread(same_state, bed)
        show(nemesis.injected, history.outcomes, history.summary(), found, converged_s)
    finally:
        await history.close()
    return not any(found.values())


def show(
    injected: list[Injected],
    outcomes: Counter[str],
    judged: str,
    found: dict[str, str | None],
    converged_s: float,
) -> None:
    print(f"\n{'at':>6}  {'fault':<10} {'held':>6}  what")
    for one in injected:
        print(f"{one.began_s:5.1f}s  {one.fault:<10} {one.held_s:5.1f}s  {one.what}")
    counts = Counter(one.fault for one in injected)
    print("faults: " + (", ".join(f"{name} {count}" for name, count in sorted(counts.items())) or "none"))
    print("clients: " + ", ".join(f"{name} {count}" for name, count in sorted(outcomes.items())))
    print(f"healed: all nodes level after {converged_s:.1f} s; {judged}")
    for name, problem in found.items():
        print(
            f"  {'ok' if problem is None else 'FAILED':<6} {name}{'' if problem is None else ': ' + problem}"
        )


def chosen(text: str, bed: Testbed) -> list[str]:
    wanted = [name for name in text.split(",") if name]
    for reason in sorted(set(bed.missing.values())):
        names = [name for name in wanted if bed.missing.get(name) == reason]
        if names:
            print(f"skipped: {', '.join(names)}: {reason}", flush=True)
    return [name for name in wanted if name not in bed.missing]


def run(options: argparse.Namespace, base: Path, no_namespaces: NotGranted | None) -> bool:
    well = True
    with testbed(base, options.nodes, options.seed, no_namespaces) as bed:
        faults = chosen(options.faults, bed)
        for name in filter(None, options.stories.split(",")):
            story, needs = STORIES[name]
            if missing := [bed.missing[need] for need in needs if need in bed.missing]:
                print(f"skipped: {name}: {missing[0]}", flush=True)
                continue
            story(bed)
            print(f"ok      {story.__doc__ or name}", flush=True)
        if options.seconds:
            well = asyncio.run((harm_keys if options.workload == "keys" else harm)(bed, options, faults))
        if bed.switch is not None:
            print(f"packets between nodes: {bed.switch.end()}")
    return well


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--seconds", type=float, default=60, help="of harm; 0 for stories only")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--nodes", type=int, default=3)
    parser.add_argument(
        "--workload",
        default="mixed",
        choices=["mixed", "keys"],
        help="mixed: registers and packets; keys: every command of the key-value store on a few keys",
    )
    parser.add_argument("--clients", type=int, help="8, or 5 of the workload keys")
    parser.add_argument("--publishers", type=int, default=2)
    parser.add_argument(
        "--reads",
        default="consistent",
        choices=["consistent", "stale"],
        help="how clients read; stale reads must not pass for consistent ones",
    )
    parser.add_argument("--faults", default=",".join(FAULTS), help="separated by commas; all by default")
    parser.add_argument("--stories", default="", help=f"to play first, of {', '.join(STORIES)}")
    parser.add_argument("--keep", metavar="FOLDER", type=Path, help="leave data and logs here")
    options = parser.parse_args()
    unknown = {*options.faults.split(","), ""} - {*FAULTS, ""}
    unknown |= {*options.stories.split(","), ""} - {*STORIES, ""}
    if unknown:
        parser.error(f"no such fault or story: {', '.join(sorted(unknown))}")
    if options.clients is None:
        options.clients = 5 if options.workload == "keys" else 8
    if not 1 <= options.clients <= 10:
        parser.error("--clients is 1 to 10: with more, a key's history can't be judged in time")
    no_namespaces = move_inside()
    base = options.keep or Path(tempfile.mkdtemp(prefix="aspen-faults-"))
    print(
        f"faults: seed {options.seed}, {options.nodes} nodes, {options.seconds:g} s, data in {base}",
        flush=True,
    )
    well = False
    try:
        well = run(options, base, no_namespaces)
    finally:
        if not well and options.keep is None:
            saved = base.with_name(base.name + "-logs")
            saved.mkdir(exist_ok=True)
            for log_file in base.glob("*.log"):
                shutil.copy(log_file, saved)
            print(f"the nodes' logs are in {saved}")
        if options.keep is None:
            shutil.rmtree(base, ignore_errors=True)
    print(f"verdict: {'ok' if well else 'FAILED'}")
    return 0 if well else 1


if __name__ == "__main__":
    raise SystemExit(main())
