"""The table at the end, the same as JSON, and whether all was well."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any, Final

from soak_runner.measures import Measures
from soak_runner.samples import Process

GROWTH: Final = 0.05
"""Of memory and of open files, in an hour."""
JUDGED: Final = {"memory": "memory does not grow", "files": "open files do not grow"}
PROBLEMS_SHOWN: Final = 10


def figures(
    *,
    seconds: float,
    measures: Measures,
    verdicts: dict[str, str | None],
    acts: Sequence[tuple[float, float, str]],
    snapshots: int,
    watched: dict[str, int],
    processes: Sequence[Process],
) -> dict[str, Any]:
    """All there is to say of a run, as JSON can hold it."""
    kinds = sorted({*measures.times, *measures.failures})
    operations = {
        kind: {
            "done": measures.times[kind].count,
            "per_s": round(measures.times[kind].count / seconds, 1),
            "p50_ms": round(measures.times[kind].quantile_s(0.5) * 1_000, 2),
            "p99_ms": round(measures.times[kind].quantile_s(0.99) * 1_000, 2),
            "slowest_ms": round(measures.times[kind].slowest_s * 1_000, 1),
            "failures": dict(measures.failures[kind].most_common()),
        }
        for kind in kinds
    }
    growths = [
        {
            "process": process.name,
            "seconds": round(process.span_s),
            **{what: process.median(what) for what in ("memory", "files", "threads", "store")},
            **{f"{what}_growth_per_hour": process.growth(what) for what in (*JUDGED, "store")},
        }
        for process in processes
    ]
    problems = {
        "no answer was wrong": None
        if not measures.problem_count
        else f"{measures.problem_count} times, first: {measures.problems[0]}",
        **verdicts,
        **{name: _grows(processes, what) for what, name in JUDGED.items()},
    }
    return {
        "seconds": round(seconds, 1),
        "operations": operations,
        "watched": watched,
        "upheaval": [
            {"at_s": round(at_s, 1), "took_s": round(took_s, 1), "what": what} for at_s, took_s, what in acts
        ],
        "snapshots": snapshots,
        "processes": growths,
        "problems": measures.problems,
        "verdicts": problems,
        "well": not any(problems.values()),
    }


def _grows(processes: Sequence[Process], what: str) -> str | None:
    found = [
        f"{process.name} by {growth:.1%} an hour"
        for process in processes
        if (growth := process.growth(what)) is not None and growth > GROWTH
    ]
    return "; ".join(found) or None


def show(said: dict[str, Any]) -> None:
    print(f"\n{'operation':<18}{'done':>10}{'a second':>10}{'p50':>10}{'p99':>10}{'slowest':>11}  failures")
    for kind, row in said["operations"].items():
        failures = ", ".join(f"{name} {count}" for name, count in row["failures"].items()) or "none"
        print(
            f"{kind:<18}{row['done']:>10}{row['per_s']:>10}{row['p50_ms']:>7} ms{row['p99_ms']:>7} ms"
            f"{row['slowest_ms']:>8} ms  {failures}"
        )
    print("watched: " + ", ".join(f"{count} {what}" for what, count in said["watched"].items()))
    counts = Counter(act["what"].partition(":")[0] for act in said["upheaval"])
    acts = ", ".join(f"{name} {count}" for name, count in sorted(counts.items()))
    print(f"upheaval: {acts or 'none'}; snapshots installed: {said['snapshots']}")
    print(f"\n{'process':<22}{'seen for':>9}{'memory':>12}{'an hour':>9}{'files':>7}{'an hour':>9}", end="")
    print(f"{'threads':>9}{'store':>12}{'an hour':>9}")
    for row in said["processes"]:
        print(
            f"{row['process']:<22}{row['seconds']:>7} s{row['memory'] / 1_024:>8.1f} MiB"
            f"{_part(row['memory_growth_per_hour'])}{row['files']:>7.0f}{_part(row['files_growth_per_hour'])}"
            f"{row['threads']:>9.0f}{row['store'] / 1_024:>8.1f} MiB{_part(row['store_growth_per_hour'])}"
        )
    print()
    for name, problem in said["verdicts"].items():
        print(f"  {'ok' if problem is None else 'FAILED':<6} {name}{f': {problem}' if problem else ''}")
    for problem in said["problems"][1:PROBLEMS_SHOWN]:
        print(f"         also: {problem}")


def _part(growth: float | None) -> str:
    return f"{'–':>9}" if growth is None else f"{growth:>+9.1%}"
