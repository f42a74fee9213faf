"""Put each seeded bug in and run seeds until one finds it: `python tests/sim/mutants.py`.

Prints the bug, the seed that found it and the invariant that did not hold. A bug that no seed
finds fails the gate. `--record` writes down which seed found which, for the test suite to repeat.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Final

sys.path.insert(0, str(Path(__file__).parent))

from raft_sim.campaign import Verdict, run_seed
from raft_sim.mutations import MUTATIONS

RECORD: Final = Path(__file__).parent / "mutants.json"
MOST_SEEDS: Final = 2_000


def find(name: str, first: int = 1, most_seeds: int = MOST_SEEDS) -> Verdict | None:
    """The verdict of the first seed that finds the named bug."""
    for seed in range(first, first + most_seeds):
        verdict = run_seed(seed, mutation=name)
        if verdict.invariant:
            return verdict
    return None


def _find(task: tuple[str, int]) -> tuple[str, Verdict | None]:
    name, most_seeds = task
    return name, find(name, most_seeds=most_seeds)


def _find_all(names: list[str], most_seeds: int, processes: int) -> Iterator[tuple[str, Verdict | None]]:
    tasks = [(name, most_seeds) for name in names]
    if processes == 1:
        yield from map(_find, tasks)
        return
    with multiprocessing.get_context("spawn").Pool(processes) as pool:
        yield from pool.imap(_find, tasks)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("names", nargs="*", help="which bugs; all if none is named")
    parser.add_argument("--seeds", type=int, default=MOST_SEEDS, help="how many may be needed")
    parser.add_argument("--processes", type=int, default=1)
    parser.add_argument("--record", action="store_true")
    options = parser.parse_args()
    if unknown := [name for name in options.names if name not in MUTATIONS]:
        parser.error(f"no such mutation: {', '.join(unknown)}")
    names = options.names or list(MUTATIONS)
    record = json.loads(RECORD.read_text()) if RECORD.exists() else {}
    missed = 0
    for name, verdict in _find_all(names, options.seeds, options.processes):
        origin = MUTATIONS[name].origin
        if verdict is None:
            missed += 1
            record.pop(name, None)
            print(f"{name} ({origin}): NOT FOUND by {options.seeds} seeds", flush=True)
        else:
            record[name] = {"seed": verdict.seed, "invariant": verdict.invariant}
            print(f"{name} ({origin}): seed {verdict.seed}: {verdict.invariant}", flush=True)
        if options.record:
            RECORD.write_text(json.dumps(record, indent=1, sort_keys=True) + "\n")
    print(f"mutants: {len(names)} bugs, {len(names) - missed} found, {missed} not")
    return 1 if missed else 0


if __name__ == "__main__":
    sys.exit(main())
