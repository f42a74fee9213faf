"""The soak for a short while, and proof that what it judges by bites."""

from __future__ import annotations

import json
import os
import random
import struct
import subprocess
import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))
sys.path.insert(0, str(Path(__file__).parents[1] / "e2e"))
sys.path.insert(0, str(Path(__file__).parents[1] / "faults"))

from clients import sign
from cluster import running
from fault_runner.judge import packets_everywhere
from fault_runner.workload import PublishedKey
from soak_runner.growth import growth_per_hour
from soak_runner.measures import Measures, Times
from soak_runner.questions import question, wrong
from soak_runner.report import GROWTH, figures
from soak_runner.samples import Process

RUN = Path(__file__).with_name("run.py")


def test_a_short_soak_loses_nothing(tmp_path: Path) -> None:
    """Each kind of upheaval once, all transports, and the table."""
    said = tmp_path / "figures.json"
    load = ["--puts", "150", "--queries", "50", "--kv", "12", "--keys", "100", "--log-keep", "1"]
    command = [
        sys.executable,
        str(RUN),
        "--seconds",
        "1",
        "--keep",
        str(tmp_path / "run"),
        "--json",
        str(said),
    ]
    environment = {name: text for name, text in os.environ.items() if not name.startswith("ASPEN_")}
    done = subprocess.run(
        [*command, *load], env=environment, capture_output=True, text=True, timeout=240, check=False
    )
    print(done.stdout)
    print(done.stderr)
    assert done.returncode == 0
    assert done.stdout.endswith("verdict: ok\n")
    figures = json.loads(said.read_text())
    assert figures["well"]
    acts = [act["what"].partition(":")[0] for act in figures["upheaval"]]
    assert len(acts) == len(set(acts)) == 8
    assert figures["snapshots"] > 0
    kinds = {"PUT", "KV read", "KV write", *(f"DNS {t}" for t in ("UDP", "TCP", "TLS", "HTTPS", "QUIC"))}
    assert {kind for kind, row in figures["operations"].items() if row["done"]} == kinds
    assert figures["watched"]["changes of packets"] >= figures["operations"]["PUT"]["done"]


def test_a_lost_packet_is_found_out(tmp_path: Path) -> None:
    stored, lost = sign("n=1"), sign("n=2")
    with running(tmp_path, 1, workers=0) as cluster:
        assert cluster.nodes[0].put(stored).status == 204
        packets = {stored.z32: PublishedKey(acknowledged=stored)}
        assert packets_everywhere(cluster, packets) is None
        packets[lost.z32] = PublishedKey(acknowledged=lost)
        assert lost.z32 in (packets_everywhere(cluster, packets) or "")


# --- growth -----------------------------------------------------------------------------------


def series(per_hour: float, seed: int) -> tuple[list[float], list[float]]:
    """50 minutes of 80 MiB that grow so, with noise, and now and then a spike."""
    rng = random.Random(seed)
    times = [10.0 * n for n in range(300)]
    values = [
        80_000 * (1 + per_hour * at / 3_600 + rng.gauss(0, 0.005)) + (40_000 if rng.random() < 0.1 else 0)
        for at in times
    ]
    return times, values


@pytest.mark.parametrize("seed", range(5))
def test_a_leak_shows_through_noise_and_spikes(seed: int) -> None:
    for leak in (0.0, 0.03, 0.08, -0.05):
        found = growth_per_hour(*series(leak, seed))
        assert found is not None
        assert abs(found - leak) < 0.01


def test_of_a_short_while_no_growth_is_told() -> None:
    times, values = series(1.0, 1)
    assert growth_per_hour(times[:50], values[:50]) is None


@pytest.mark.parametrize("what", ["memory", "files"])
def test_a_process_that_leaks_fails_the_run(what: str) -> None:
    def well(leak: float) -> bool:
        level = [100] * 300
        process = Process("node 1", 1, series(0, 1)[0], list(level), list(level), list(level), list(level))
        setattr(process, what, [round(value) for value in series(leak, 1)[1]])
        said = figures(
            seconds=3_000,
            measures=Measures(),
            verdicts={},
            acts=[],
            snapshots=0,
            watched={},
            processes=[process],
        )
        return bool(said["well"])

    assert well(GROWTH / 2)
    assert not well(2 * GROWTH)


# --- answers and times ------------------------------------------------------------------------


def test_answers_are_judged_by_what_was_acknowledged() -> None:
    query = question("_iroh.key.aspen.local.", 7)

    def answer(number: int | None, rcode: int = 0) -> bytes:
        text = b"" if number is None else b"number=%09d" % number
        return struct.pack("!HHHHHH", 7, 0x8400 | rcode, 1, 1, 0, 0) + query[12:] + text

    assert wrong(answer(5), query, 5, 6, False) is None
    assert wrong(answer(4), query, 5, 6, False)  # older than what this node acknowledged
    assert wrong(answer(7), query, 5, 6, False)  # published by nobody
    assert wrong(answer(None, rcode=3), query, 0, 6, False) is None
    assert wrong(answer(None, rcode=3), query, 5, 6, False)
    assert wrong(answer(None, rcode=3), query, 5, 6, True) is None
    assert wrong(answer(5), query, 5, 6, True)
    assert wrong(answer(5, rcode=2), query, 5, 6, False)
    assert wrong(b"\0\0" + answer(5)[2:], query, 5, 6, False)


def test_quantiles_are_right_to_two_percent() -> None:
    times = Times()
    for n in range(1, 1_001):
        times.add(n / 1_000)
    assert times.quantile_s(0.5) == pytest.approx(0.5, rel=0.03)
    assert times.quantile_s(0.99) == pytest.approx(0.99, rel=0.03)
    assert times.quantile_s(1.0) == times.slowest_s == 1.0
    assert Times().quantile_s(0.5) == 0.0
