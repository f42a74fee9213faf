"""The network: one directed link between each two nodes, each with troubles of its own.

A link delays, drops, duplicates and reorders; it can be cut (in one direction only), or clogged:
then it keeps what it is given until it is freed. Some of what is sent is remembered and sent
again much later, in another term or to another process (`replay`).

Proposals are neither duplicated nor replayed. The transport that production uses gives each frame
at most once; for Raft's own messages that makes no difference, but a proposal that arrives twice
is two proposals.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final, Protocol

from raft_sim.kernel import TICK, Kernel
from raft_sim.profile import Profile

from aspen.raft.messages import Message, MessageType

_NEVER_TWICE: Final = frozenset({MessageType.PROP})
_REMEMBERED: Final = 200


class Receiver(Protocol):
    """What the network needs of a node."""

    node_id: int
    up: bool

    def receive(self, message: Message, peer: int) -> None: ...

    def peer_unreachable(self, peer: int, _: object = None) -> None: ...


class Link:
    """One direction between two nodes."""

    __slots__ = ("clogged_until", "cut", "drop", "last_arrival", "slowness")

    def __init__(self) -> None:
        self.cut = False
        self.clogged_until = 0
        self.drop = 0.0
        self.slowness = 1
        self.last_arrival = 0

    def heal(self) -> None:
        self.cut = False
        self.clogged_until = 0
        self.drop = 0.0
        self.slowness = 1


class Network:
    """Carries messages between the nodes of a world."""

    def __init__(self, kernel: Kernel, profile: Profile) -> None:
        self.nodes: dict[int, Receiver] = {}
        self.sent = 0
        self._kernel = kernel
        self._profile = profile
        self._random = kernel.stream("network")
        self._links: dict[tuple[int, int], Link] = {}
        self._remembered: list[tuple[int, Message]] = []
        self._troubled = True

    def link(self, sender: int, to: int) -> Link:
        link = self._links.get((sender, to))
        if link is None:
            link = self._links[sender, to] = Link()
        return link

    def send(self, sender: int, message: Message) -> None:
        """Take a message from `sender`, who may be passing it on in another's name."""
        to = message.to
        target = self.nodes.get(to)
        if target is None:
            return
        self.sent += 1
        link = self._links.get((sender, to)) or self.link(sender, to)
        profile = self._profile
        chance = self._random.random
        if link.cut or (self._troubled and chance() < link.drop + profile.drop):
            self._dropped(sender, message)
            return
        delay = int(profile.delay_min + chance() * profile.delay_spread) * link.slowness
        if self._troubled:
            if chance() < profile.straggle:
                delay *= 1 + int(chance() * profile.straggle_factor)
            if link.clogged_until > self._kernel.now:
                delay += link.clogged_until - self._kernel.now
            if chance() < profile.duplicate and message.type not in _NEVER_TWICE:
                again = delay + int(chance() * profile.duplicate_spread)
                self._kernel.schedule(again, target.receive, message, sender)
            if chance() < profile.remember:
                self._remember(sender, message)
        if not profile.reorder:
            now = self._kernel.now
            link.last_arrival = arrival = max(now + delay, link.last_arrival)
            delay = arrival - now
        self._kernel.schedule(delay, target.receive, message, sender)

    def _dropped(self, sender: int, message: Message) -> None:
        """It is lost. Its sender may or may not be told that the peer could not be reached."""
        if self._random.random() < self._profile.unreachable_told:
            node = self.nodes.get(sender)
            if node is not None:
                self._kernel.schedule(self._profile.delay_min, node.peer_unreachable, message.to)

    # --- troubles -----------------------------------------------------------------------------

    def _remember(self, sender: int, message: Message) -> None:
        if message.type in _NEVER_TWICE:
            return
        if len(self._remembered) < _REMEMBERED:
            self._remembered.append((sender, message))
        else:
            self._remembered[self._random.randrange(_REMEMBERED)] = (sender, message)

    def replay(self, count: int) -> None:
        """Deliver messages of long ago again."""
        for _ in range(min(count, len(self._remembered))):
            sender, message = self._random.choice(self._remembered)
            target = self.nodes.get(message.to)
            if target is not None:
                self._kernel.schedule(self._random.randrange(2 * TICK), target.receive, message, sender)

    def partition(self, groups: Iterable[Iterable[int]]) -> None:
        """Cut every link between nodes of different groups."""
        group_of = {node_id: number for number, group in enumerate(groups) for node_id in group}
        for sender, its_group in group_of.items():
            for to, other_group in group_of.items():
                if its_group != other_group:
                    self.link(sender, to).cut = True

    def ring(self, node_ids: list[int]) -> None:
        """Each node can speak with its two neighbours only."""
        count = len(node_ids)
        for position, sender in enumerate(node_ids):
            for other, to in enumerate(node_ids):
                if sender != to and (position - other) % count not in (1, count - 1):
                    self.link(sender, to).cut = True

    def clog(self, sender: int, to: int, until: int) -> None:
        self.link(sender, to).clogged_until = until

    def reaches(self, sender: int, to: int) -> bool:
        """Whether a stream from `sender` to `to` would come through now."""
        link = self.link(sender, to)
        return not link.cut and link.clogged_until <= self._kernel.now and self.nodes[sender].up

    def heal(self) -> None:
        """Every link is whole again. What was clogged comes through in its time."""
        for link in self._links.values():
            link.heal()

    def calm(self) -> None:
        """From now on nothing is lost, late or doubled, except on links that are cut from now on."""
        self.heal()
        self._troubled = False
        self._remembered = []
