"""The switch between the nodes' wires: a process that carries each packet, late, twice, or not at all.

Each directed pair of wires has its own conditions, so a link can be cut one way only. It does what
`tc netem` does, on kernels without that module too, and from a seed. Run as a program it reads lines of
JSON from its standard input, each replacing all conditions, and says at the end what it did.
"""

from __future__ import annotations

import argparse
import heapq
import json
import os
import random
import select
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass

PACKET_BYTES = 2_048
PACKETS_PER_TURN = 64
QUEUE_PACKETS = 100_000
"""Held back at one time; more are dropped, as by any router."""


@dataclass(frozen=True)
class Conditions:
    """Of one direction of one link."""

    cut: bool = False
    loss: float = 0.0
    """Share of packets lost."""
    duplicate: float = 0.0
    delay_ms: float = 0.0
    jitter_ms: float = 0.0
    """Up to so much more delay, each packet for itself: they overtake each other."""


class Switch:
    """The side of the runner: starts the process, and sets conditions between wires by number."""

    def __init__(self, tuns: Mapping[int, int], seed: int) -> None:
        """`tuns`: the last number of each wire's address → file descriptor."""
        wires = [f"{number}:{tun}" for number, tun in tuns.items()]
        self._process = subprocess.Popen(
            [sys.executable, __file__, "--seed", str(seed), *wires],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            pass_fds=list(tuns.values()),
        )
        self._conditions: dict[tuple[int, int], Conditions] = {}

    def set(self, conditions: Mapping[tuple[int, int], Conditions]) -> None:
        """Replace the conditions of these directed links (from, to)."""
        self._conditions.update(conditions)
        self._tell()

    def heal(self) -> None:
        """All links are good again."""
        self._conditions.clear()
        self._tell()

    def _tell(self) -> None:
        assert self._process.stdin is not None
        rules = [[*link, asdict(conditions)] for link, conditions in self._conditions.items()]
        self._process.stdin.write(json.dumps(rules).encode() + b"\n")
        self._process.stdin.flush()

    def end(self) -> dict[str, int]:
        """Stop carrying; what became of the packets."""
        out, _ = self._process.communicate(timeout=10)
        counts: dict[str, int] = json.loads(out or b"{}")
        return counts


class _Carrier:
    """The process's own side."""

    def __init__(self, tuns: dict[int, int], seed: int) -> None:
        self._tuns = tuns
        self._rng = random.Random(seed)
        self._rules: dict[tuple[int, int], Conditions] = {}
        self._held: list[tuple[float, int, int, bytes]] = []
        self._number = 0
        self._input = b""
        self.counts: Counter[str] = Counter()

    def run(self) -> None:
        poller = select.epoll()
        by_descriptor = {tun: number for number, tun in self._tuns.items()}
        for tun in by_descriptor:
            poller.register(tun, select.EPOLLIN)
        commands = sys.stdin.fileno()
        poller.register(commands, select.EPOLLIN)
        while True:
            for descriptor, _ in poller.poll(self._patience()):
                if descriptor != commands:
                    self._take(by_descriptor[descriptor], descriptor)
                elif not self._command(commands):
                    return
            self._release()

    def _patience(self) -> float | None:
        if not self._held:
            return None
        return max(0.0, self._held[0][0] - time.monotonic())

    def _command(self, commands: int) -> bool:
        data = os.read(commands, 65_536)
        *lines, self._input = (self._input + data).split(b"\n")
        if lines:
            rules = json.loads(lines[-1])
            self._rules = {(source, target): Conditions(**rest) for source, target, rest in rules}
        return bool(data)

    def _take(self, source: int, tun: int) -> None:
        for _ in range(PACKETS_PER_TURN):
            try:
                packet = os.read(tun, PACKET_BYTES)
            except BlockingIOError:
                return
            if packet[0] >> 4 == 4:  # IPv4; what IPv6 says to itself goes nowhere
                self._carry(source, packet[19], packet)

    def _carry(self, source: int, target: int, packet: bytes) -> None:
        if target not in self._tuns:
            return
        rule = self._rules.get((source, target))
        if rule is None:
            self._deliver(target, packet)
            return
        rng = self._rng
        if rule.cut or rng.random() < rule.loss:
            self.counts["cut" if rule.cut else "lost"] += 1
            return
        copies = 1
        if rng.random() < rule.duplicate:
            self.counts["duplicated"] += 1
            copies = 2
        for _ in range(copies):
            delay_ms = rule.delay_ms + rng.random() * rule.jitter_ms
            if not delay_ms:
                self._deliver(target, packet)
            elif len(self._held) < QUEUE_PACKETS:
                self.counts["delayed"] += 1
                self._number += 1
                due = time.monotonic() + delay_ms / 1000
                heapq.heappush(self._held, (due, self._number, target, packet))

    def _release(self) -> None:
        now = time.monotonic()
        while self._held and self._held[0][0] <= now:
            _, _, target, packet = heapq.heappop(self._held)
            self._deliver(target, packet)

    def _deliver(self, target: int, packet: bytes) -> None:
        try:
            os.write(self._tuns[target], packet)
            self.counts["carried"] += 1
        except OSError:
            self.counts["refused"] += 1


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seed", type=int, required=True)
    parser.add_argument("wires", nargs="+", metavar="NUMBER:DESCRIPTOR")
    options = parser.parse_args(arguments)
    tuns = {int(number): int(tun) for number, tun in (wire.split(":") for wire in options.wires)}
    carrier = _Carrier(tuns, options.seed)
    try:
        carrier.run()
    except KeyboardInterrupt:
        pass  # the terminal's Ctrl-C goes to all of us; the runner ends in order
    print(json.dumps(carrier.counts))


if __name__ == "__main__":
    main()
