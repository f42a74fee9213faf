"""Nodes that wait for a cluster, on a simulated network: loss, delay, doubles, crashes; seeded."""

from __future__ import annotations

import heapq
import random
from collections.abc import Callable
from dataclasses import dataclass, field

from aspen.discovery.founding import (
    Belongs,
    Contact,
    Decided,
    Founding,
    Here,
    Message,
    Promise,
    Record,
    Seat,
    TooLate,
    decode,
    encode,
)
from aspen.limits import FOUNDING_TICK_MS


def key_of(number: int) -> bytes:
    """Endpoint ids whose order isn't that of the numbers."""
    return random.Random(number).randbytes(32)


@dataclass
class Waiting:
    """One machine: what is on its disk, and the process while there is one."""

    number: int
    size: int
    node_id: int = 0
    disk: Record = field(default_factory=Record)
    decided: tuple[Seat, ...] | None = None
    founded: bytes = b""
    """The id of the cluster it founded."""
    joined: bytes = b""
    """The id of the cluster it belongs to."""
    process: Founding | None = None
    life: int = 0

    @property
    def endpoint_id(self) -> bytes:
        return key_of(self.number)


class World:
    def __init__(
        self,
        seed: int,
        machines: int,
        size: int,
        *,
        loss: float = 0.0,
        delay_ms: int = 5,
        forgets: bool = False,
        node_ids: dict[int, int] | None = None,
        spread_ms: int = 2_000,
        ghosts: int = 0,
        make: Callable[[bytes, int, int, Record], Founding] = Founding,
    ) -> None:
        """`forgets`: restarted machines have nothing on their disks, which is a bug put in. `ghosts` are
        contacts that all know before any other, and that never were."""
        self.rng = random.Random(seed)
        self.now_ms = 0
        self.loss = loss
        self.delay_ms = delay_ms
        self.forgets = forgets
        self.make = make
        self.machines = {key_of(i): Waiting(i, size, (node_ids or {}).get(i, 0)) for i in range(machines)}
        self.ghosts = [key_of(1_000 + i) for i in range(ghosts)]
        self.knows: dict[bytes, set[bytes]] = {key: set() for key in self.machines}
        self.apart: set[bytes] = set()
        """Machines that hear each other, and none of the others."""
        self._events: list[tuple[int, int, Callable[[], None]]] = []
        self._count = 0
        for machine in self.machines.values():
            self.at(self.rng.randrange(spread_ms), lambda machine=machine: self.start(machine))

    # --- the clock ----------------------------------------------------------------------------

    def at(self, in_ms: int, action: Callable[[], None]) -> None:
        self._count += 1
        heapq.heappush(self._events, (self.now_ms + in_ms, self._count, action))

    def run(self, for_ms: int) -> None:
        until_ms = self.now_ms + for_ms
        while self._events and self._events[0][0] <= until_ms:
            self.now_ms, _, action = heapq.heappop(self._events)
            action()
        self.now_ms = until_ms

    # --- machines -----------------------------------------------------------------------------

    def start(self, machine: Waiting) -> None:
        machine.life += 1
        if self.forgets:
            machine.disk = Record()
        machine.process = self.make(machine.endpoint_id, machine.size, machine.node_id, machine.disk)
        others = [key for key in self.machines if key != machine.endpoint_id]
        # Multicast shows it some; of the rest it hears by those.
        self.knows[machine.endpoint_id] = set(self.rng.sample(others, min(len(others), 3)))
        self._tick(machine, machine.life)

    def crash(self, machine: Waiting, down_ms: int) -> None:
        machine.process = None
        machine.life += 1
        self.at(down_ms, lambda: self.start(machine))

    def _tick(self, machine: Waiting, life: int) -> None:
        if machine.life != life or machine.process is None:
            return
        core = machine.process
        known = [*self.ghosts, *sorted(self.knows[machine.endpoint_id])]
        contacts = [Contact(key, (("10.0.0.1", 7_300),)) for key in known]
        core.tick(self.now_ms, contacts)
        self._settle(machine)
        self.at(FOUNDING_TICK_MS, lambda: self._tick(machine, life))

    def _settle(self, machine: Waiting) -> None:
        core = machine.process
        assert core is not None
        self.knows[machine.endpoint_id] |= core.told.keys() & self.machines.keys()
        core.told.clear()
        machine.disk = core.record
        match core.outcome:
            case Decided(seats, founds, cluster_id) if not machine.joined:
                machine.decided = seats
                if founds:
                    machine.founded = cluster_id = self.rng.randbytes(16)
                machine.joined = cluster_id
            case TooLate(cluster_id, _) if not machine.joined:
                machine.joined = cluster_id
        for to, message in core.drain():
            self.send(machine.endpoint_id, to, message)

    # --- the network --------------------------------------------------------------------------

    def send(self, sender: bytes, to: bytes, message: Message) -> None:
        frame = encode(message)
        if to not in self.machines or (sender in self.apart) != (to in self.apart):
            return
        for _ in range(2 if self.rng.random() < 0.05 else 1):
            if self.rng.random() >= self.loss:
                late = self.rng.random() < 0.1
                delay_ms = self.rng.randrange(1, 4_000 if late and self.loss else self.delay_ms + 1)
                self.at(delay_ms, lambda: self._deliver(sender, to, frame))

    def _deliver(self, sender: bytes, to: bytes, frame: bytes) -> None:
        machine = self.machines[to]
        message = decode(frame)
        self.knows[to].add(sender)
        if machine.joined:
            # A member of a cluster answers whoever waits, as `aspen.node.door` does.
            founder = next(m for m in self.machines.values() if m.founded == machine.joined)
            if isinstance(message, Here | Promise) and founder.decided is not None:
                self.send(to, sender, Belongs(machine.joined, founder.decided))
            return
        if machine.process is not None:
            machine.process.receive(sender, message, self.now_ms)
            self._settle(machine)

    # --- the judge ----------------------------------------------------------------------------

    @property
    def founded(self) -> set[bytes]:
        return {machine.founded for machine in self.machines.values() if machine.founded}

    @property
    def all_joined(self) -> bool:
        return all(machine.joined for machine in self.machines.values())

    def check(self) -> None:
        """One cluster, whose members are those who were promised to it."""
        assert len(self.founded) <= 1, f"{len(self.founded)} clusters"
        for machine in self.machines.values():
            for seat in machine.decided or ():
                other = self.machines[seat.endpoint_id]
                assert not other.joined or other.decided == machine.decided, "a member that doesn't know it"
            if machine.decided is not None:
                founder = next(m for m in self.machines.values() if m.founded == machine.joined)
                assert machine.decided == founder.decided
                assert founder.decided is not None
                assert len({seat.node_id for seat in founder.decided}) == machine.size
