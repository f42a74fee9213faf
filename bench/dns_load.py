"""dnsperf, and what it says: rate, losses, latencies, and the server's CPU time for each answer."""

from __future__ import annotations

import random
import re
import subprocess
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median

from aspen.z32 import encode_key
from bench.dns_servers import HOST, ORIGIN, ZONE, Server, cpu_s, wire_name

SERVER_CORE, LOAD_CORE = 0, 1


@dataclass(frozen=True)
class Figures:
    """One run of dnsperf against one server."""

    qps: float
    cpu_us: float
    """The server's CPU time, user and system, for each query answered."""
    lost: float
    """Of all queries."""
    p99_ms: float = 0.0


@dataclass(frozen=True)
class Load:
    """What dnsperf is to send."""

    queries: Path
    binary: bool = False
    """The file holds messages, each behind its length in two octets."""
    rcodes: tuple[str, ...] = ("NOERROR",)
    """What an answer may be."""
    options: tuple[str, ...] = ()


def dnsperf(server: Server, load: Load, seconds: int, *, qps: int = 0, latencies: bool = False) -> Figures:
    """Run it on `LOAD_CORE`: 20 clients, at most 200 queries under way, or `qps` a second."""
    command = ["taskset", "-c", str(LOAD_CORE), "dnsperf", "-s", HOST, "-p", str(server.port)]
    command += [
        "-d",
        str(load.queries),
        "-l",
        str(seconds),
        "-c",
        "20",
        "-T",
        "1",
        "-q",
        "200",
        *load.options,
    ]
    command += ["-B"] * load.binary + ["-Q", str(qps)] * bool(qps) + ["-v"] * latencies
    before = cpu_s(server.pids)
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    spent = cpu_s(server.pids) - before

    def said(pattern: str) -> float:
        found = re.search(pattern, done.stdout)
        if found is None:
            raise RuntimeError(f"dnsperf said: {done.stdout[-2_000:]}")
        return float(found[1])

    sent, completed = said(r"Queries sent:\s+(\d+)"), said(r"Queries completed:\s+(\d+)")
    codes = re.search(r"Response codes:\s+(.*)", done.stdout)
    if codes is None or set(re.findall(r"[A-Z]{4,}", codes[1])) - set(load.rcodes):
        raise RuntimeError(f"{server.name}: not a clean run: {done.stdout[-2_000:]}")
    p99_ms = 0.0
    if latencies:
        times = sorted(
            float(line.rsplit(None, 1)[1]) for line in done.stdout.splitlines() if line.startswith("> ")
        )
        p99_ms = times[len(times) * 99 // 100] * 1e3
    lost = said(r"Queries lost:\s+(\d+)") / sent
    if lost > 0.001:
        print(f"# {server.name}: {lost:.2%} of {sent:.0f} queries lost")
    return Figures(said(r"Queries per second:\s+([\d.]+)"), spent / completed * 1e6, lost, p99_ms)


def hot_queries(path: Path, keys: Sequence[bytes]) -> Load:
    """TXT of every key's `_iroh` name, in random order."""
    names = [f"_iroh.{encode_key(key)}.{ORIGIN} TXT" for key in keys]
    random.Random(11).shuffle(names)
    path.write_text("\n".join(names) + "\n")
    return Load(path)


def random_queries(path: Path, keys: Sequence[bytes], count: int) -> Load:
    """As `hot_queries`, but keys are drawn anew for each of `count` queries."""
    with open(path, "w") as file:
        for key in random.Random(11).choices(keys, k=count):
            file.write(f"_iroh.{encode_key(key)}.{ORIGIN} TXT\n")
    return Load(path)


def missing_queries(path: Path, count: int) -> Load:
    """Random names under the origin that nobody has."""
    rng = random.Random(13)
    path.write_text("".join(f"x{rng.getrandbits(64):x}.{ORIGIN} A\n" for _ in range(count)))
    return Load(path, rcodes=("NXDOMAIN",))


def zone_queries(path: Path, names: int, count: int) -> Load:
    """A of random names of the authored zone."""
    rng = random.Random(17)
    path.write_text("".join(f"h{rng.randrange(names)}.{ZONE} A\n" for _ in range(count)))
    return Load(path)


def cookie_queries(path: Path, keys: Sequence[bytes], count: int) -> Load:
    """Queries as dig writes them: AD, EDNS of 1232 octets, a client cookie that is another in each.

    Knot answers them with its cookie alone, under BADCOOKIE, which dnsperf, seeing four of the five bits,
    calls YXRRSET; we with data and cookie.
    """
    rng = random.Random(19)
    with open(path, "wb") as file:
        for key in rng.choices(keys, k=count):
            name = wire_name(f"_iroh.{encode_key(key)}.{ORIGIN}")
            opt = b"\x00\x00\x29\x04\xd0" + bytes(4) + b"\x00\x0c\x00\x0a\x00\x08" + rng.randbytes(8)
            query = b"\x00\x00\x01\x20\x00\x01" + bytes(4) + b"\x00\x01" + name + b"\x00\x10\x00\x01" + opt
            file.write(len(query).to_bytes(2, "big") + query)
    return Load(path, binary=True, rcodes=("NOERROR", "YXRRSET"))


def rounds_of(servers: Sequence[Server], load: Load, seconds: int, rounds: int) -> dict[str, Figures]:
    """Rounds of all servers in turn, after a short warm-up of each; medians by the server's name."""
    measured: dict[str, list[Figures]] = {server.name: [] for server in servers}
    for server in servers:
        dnsperf(server, load, 1)
    for _ in range(rounds):
        for server in servers:
            measured[server.name].append(dnsperf(server, load, seconds))
    return {name: medians(runs) for name, runs in measured.items()}


def medians(runs: Sequence[Figures]) -> Figures:
    def of(figure: Callable[[Figures], float]) -> float:
        return median(figure(run) for run in runs)

    return Figures(of(lambda r: r.qps), of(lambda r: r.cpu_us), of(lambda r: r.lost), of(lambda r: r.p99_ms))


def report(name: str, ours: float, theirs: float, peer: str, digits: int) -> None:
    ratio = ours / theirs if theirs else float("nan")
    print(
        f"bench: {name} aspen={ours:.{digits}f} peer={theirs:.{digits}f} ({peer}) ratio={ratio:.2f}",
        flush=True,
    )


def report_both(name: str, ours: Figures, theirs: Figures, peer: str) -> None:
    """The lines of rate, where a high ratio is good, and of CPU time, where a low one is."""
    report(f"{name}_qps", ours.qps, theirs.qps, peer, 0)
    report(f"{name}_cpu_us", ours.cpu_us, theirs.cpu_us, peer, 2)
