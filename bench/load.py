"""The load generator: wrk, fed with ready-made requests from a file, the same for us and for every peer."""

from __future__ import annotations

import json
import shutil
import struct
import subprocess
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from statistics import median

SCRIPT = Path(__file__).with_name("wrk.lua")
WARM_UP_S = 1
SPARE = 1.6  # requests prepared for each one expected, so that a quick round doesn't run out of them


@dataclass(frozen=True)
class Result:
    """One run: requests per second, and percentiles of their latency."""

    rps: float
    p50_ms: float
    p99_ms: float


Maker = Callable[[int], Iterable[bytes]]
"""Makes that many whole HTTP requests, none of which was made before."""


def http_request(method: str, path: str, host: str, body: bytes, content_type: str) -> bytes:
    head = f"{method} {path} HTTP/1.1\r\nHost: {host}\r\nContent-Type: {content_type}\r\n"
    return f"{head}Content-Length: {len(body)}\r\n\r\n".encode() + body


def available() -> bool:
    return shutil.which("wrk") is not None


def run(url: str, requests: Iterable[bytes], folder: Path, *, connections: int, seconds: int) -> Result:
    """Send the requests in order for `seconds`. Raises `RuntimeError` if any failed."""
    file = folder / "requests.bin"
    with open(file, "wb") as out:
        for request in requests:
            out.write(struct.pack("!I", len(request)) + request)
    command = ["wrk", "-t1", f"-c{connections}", f"-d{seconds}s", "--timeout", "10s", "-s", str(SCRIPT), url]
    done = subprocess.run([*command, "--", str(file)], capture_output=True, text=True, check=True)
    line = next(line for line in done.stdout.splitlines() if line.startswith("result: "))
    said = json.loads(line.removeprefix("result: "))
    if said["exhausted"]:
        raise OutOfRequests(f"{url} took all that was prepared")
    if said["refused"] or said["broken"] or not said["requests"]:
        raise RuntimeError(f"not a clean run against {url}: {said}")
    return Result(
        rps=said["requests"] / said["duration_us"] * 1e6,
        p50_ms=said["p50_us"] / 1e3,
        p99_ms=said["p99_us"] / 1e3,
    )


class OutOfRequests(Exception):
    """A run came to the end of its prepared requests: its figures would be too low."""


@dataclass(frozen=True)
class Side:
    """One of the two that are compared: where to send, and what."""

    name: str
    url: str
    make: Maker


def compare(
    sides: tuple[Side, Side], folder: Path, *, connections: int, seconds: int, rounds: int
) -> tuple[Result, Result]:
    """Interleaved rounds after a short warm-up of each; the medians."""
    expected = {}
    for side in sides:
        warm = run(side.url, side.make(30_000), folder, connections=connections, seconds=WARM_UP_S)
        expected[side.name] = int(warm.rps * seconds * SPARE) + 2_000
    results: dict[str, list[Result]] = {side.name: [] for side in sides}
    for _ in range(rounds):
        for side in sides:
            while True:
                requests = list(side.make(expected[side.name]))
                try:
                    result = run(side.url, requests, folder, connections=connections, seconds=seconds)
                    break
                except OutOfRequests:  # the warm-up was slower by far: this machine is busy
                    expected[side.name] *= 2
            results[side.name].append(result)
    ours, theirs = (_medians(results[side.name]) for side in sides)
    return ours, theirs


def _medians(results: list[Result]) -> Result:
    return Result(
        rps=median(result.rps for result in results),
        p50_ms=median(result.p50_ms for result in results),
        p99_ms=median(result.p99_ms for result in results),
    )


def report(name: str, ours: float, theirs: float, peer: str) -> None:
    """The line of one figure."""
    digits = 0 if max(ours, theirs) >= 1_000 else 2
    ratio = ours / theirs if theirs else float("nan")
    print(
        f"bench: {name} aspen={ours:.{digits}f} peer={theirs:.{digits}f} ({peer}) ratio={ratio:.2f}",
        flush=True,
    )
