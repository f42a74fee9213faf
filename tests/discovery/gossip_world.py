"""A simulated network of gossiping nodes: virtual time, delay, loss, partitions, churn; all from one seed."""

from __future__ import annotations

import argparse
import hashlib
from collections import Counter
from heapq import heappop, heappush
from random import Random
from typing import Any

from aspen.discovery.gossip import GossipCore, GossipPorts, Heard, SelfDescription, Topology
from aspen.discovery.messages import Message, Peer

TICK_MS = 500
TOPIC = b"t" * 32
START_MS = 1_700_000_000_000


def sign_as(endpoint_id: bytes, message: bytes) -> bytes:
    """Not a signature that would hold, but one that costs little and tells the keys apart."""
    return hashlib.blake2b(message, key=endpoint_id, digest_size=64).digest()


def verify(endpoint_id: bytes, message: bytes, signature: bytes) -> bool:
    return sign_as(endpoint_id, message) == signature


def endpoint_id_of(number: int) -> bytes:
    return hashlib.blake2b(number.to_bytes(8, "big"), digest_size=32).digest()


class SimNode:
    def __init__(self, world: World, number: int) -> None:
        self.number = number
        self.endpoint_id = endpoint_id_of(number)
        self.peer = Peer(self.endpoint_id, ((f"10.0.{number >> 8 & 255}.{number & 255}", 7_300),))
        self.topology = Topology(1, b"h" * 32)
        self.sent: Counter[str] = Counter()
        self.sent_bytes = 0
        self.alive = True
        self.since_ms = world.now_ms
        self.events: list[Any] = []
        self.contacts: list[Peer] = []
        ports = GossipPorts(
            own_id=self.endpoint_id,
            topics=lambda: [TOPIC],
            describe=lambda: SelfDescription(number, self.peer.addresses, None),
            topology=lambda: self.topology,
            sign=lambda message: sign_as(self.endpoint_id, message),
            verify=verify,
            bound_to=lambda node_id: endpoint_id_of(node_id),
            contacts=lambda: self.contacts,
        )
        self.core = GossipCore(ports, Random(world.rng.random()))

    @property
    def knows(self) -> set[bytes]:
        return set(self.core.known)


class World:
    def __init__(self, seed: int, loss: float = 0.0, delay_ms: tuple[int, int] = (5, 80)) -> None:
        self.rng = Random(seed)
        self.now_ms = START_MS
        self.loss = loss
        self.delay_ms = delay_ms
        self.nodes: dict[bytes, SimNode] = {}
        self.cut: set[tuple[bytes, bytes]] = set()
        self._heap: list[tuple[int, int, bytes, bytes, Message | None]] = []
        self._sequence = 0
        self._numbers = 0

    @property
    def alive(self) -> list[SimNode]:
        return [node for node in self.nodes.values() if node.alive]

    def add(self, contacts: int = 3) -> SimNode:
        """A new node, told of some of those that live."""
        self._numbers += 1
        node = SimNode(self, self._numbers)
        others = self.alive
        self.nodes[node.endpoint_id] = node
        node.contacts = [other.peer for other in self.rng.sample(others, min(contacts, len(others)))]
        self._push(self.rng.randrange(TICK_MS), node.endpoint_id, b"", None)
        return node

    def kill(self, node: SimNode) -> None:
        node.alive = False

    def run(self, for_ms: int) -> None:
        end_ms = self.now_ms + for_ms
        while self._heap and self._heap[0][0] <= end_ms:
            self.now_ms, _, to, sender, message = heappop(self._heap)
            node = self.nodes[to]
            if not node.alive:
                if sender and self.nodes[sender].alive:
                    # The transport gives up on a node that doesn't answer.
                    self.nodes[sender].core.unreachable(to)
                continue
            if message is None:
                node.core.tick(self.now_ms)
                self._push(TICK_MS, to, b"", None)
            else:
                node.core.receive(sender, message, self.now_ms)
            self._send(node)
        self.now_ms = end_ms

    def _send(self, node: SimNode) -> None:
        for to, message in node.core.drain():
            node.sent[type(message).__name__] += 1
            if (node.endpoint_id, to) in self.cut:
                node.core.unreachable(to)
                continue
            if self.rng.random() < self.loss:
                continue
            self._push(self.rng.randint(*self.delay_ms), to, node.endpoint_id, message)
        node.events.extend(event for event in node.core.events() if not isinstance(event, Heard))

    def _push(self, delay_ms: int, to: bytes, sender: bytes, message: Message | None) -> None:
        self._sequence += 1
        heappush(self._heap, (self.now_ms + delay_ms, self._sequence, to, sender, message))

    def knowledge(self, settled_ms: int = 0) -> float:
        """The share of (node, live other node) pairs that are known; of nodes old enough, at both ends."""
        old = [node for node in self.alive if self.now_ms - node.since_ms >= settled_ms]
        ids = {node.endpoint_id for node in old}
        pairs = len(old) * (len(old) - 1)
        return 1.0 if not pairs else sum(len(node.knows & ids) for node in old) / pairs


def simulate(size: int, seed: int, loss: float, churn_a_minute: float, seconds: int) -> World:
    """Start `size` nodes at once, then run with churn, telling each ten seconds how it stands."""
    world = World(seed, loss)
    for _ in range(size):
        world.add()
    for second in range(1, seconds + 1):
        world.run(1_000)
        due = int(churn_a_minute * size * second / 60) - int(churn_a_minute * size * (second - 1) / 60)
        for _ in range(due):
            world.kill(world.rng.choice(world.alive))
            world.add()
        if second % 10 == 0:
            sent = sum(sum(node.sent.values()) for node in world.alive)
            print(
                f"{second:4d} s  known {world.knowledge(60_000 if second > 60 else 0):8.4%}"
                f"  messages a node and second {sent / len(world.alive) / second:6.1f}",
                flush=True,
            )
    return world


def main() -> None:
    parser = argparse.ArgumentParser(description="Gossip among simulated nodes.")
    parser.add_argument("--nodes", type=int, default=1_000)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--loss", type=float, default=0.1)
    parser.add_argument("--churn", type=float, default=0.1, help="the share of nodes replaced in a minute")
    parser.add_argument("--seconds", type=int, default=120)
    options = parser.parse_args()
    simulate(options.nodes, options.seed, options.loss, options.churn, options.seconds)


if __name__ == "__main__":
    main()
