"""Clusters that found themselves: never two, and one in the end."""

from __future__ import annotations

import pytest
from founding_world import Waiting, World, key_of

from aspen.discovery.founding import (
    Belongs,
    Contact,
    Decided,
    Founding,
    Here,
    Message,
    Promise,
    Propose,
    Record,
    Seat,
    TooLate,
    Withdraw,
    decode,
    encode,
)
from aspen.errors import InputError
from aspen.limits import (
    ADDRESSES_PER_PEER,
    FOUNDING_ALIVE_MS,
    FOUNDING_BALLOT,
    FOUNDING_FRAME_BYTES,
    FOUNDING_SEEN,
    HOST_CHARS,
    RAFT_MEMBERS,
    RAFT_NODE_ID,
)

CALM_MS = 60_000


@pytest.mark.parametrize("size", [1, 2, 3, 5])
def test_on_a_good_network_it_takes_seconds(size: int) -> None:
    world = World(seed=size, machines=size, size=size)
    world.run(8_000)
    world.check()
    assert world.all_joined
    (founder,) = (machine for machine in world.machines.values() if machine.founded)
    assert founder.endpoint_id == min(world.machines)
    seats = founder.decided or ()
    assert [seat.endpoint_id for seat in seats] == sorted(world.machines)
    assert [seat.node_id for seat in seats] == list(range(1, size + 1))


@pytest.mark.parametrize("ghosts", [FOUNDING_SEEN, 70, 500])
def test_those_who_are_needed_may_be_the_last_of_many_who_never_answer(ghosts: int) -> None:
    world = World(seed=6, machines=6, size=6, ghosts=ghosts)
    world.run(30_000)
    world.check()
    assert world.all_joined


def in_trouble(seed: int, **bugs: object) -> World:
    """Loss, delays, doubles, crashes, parts that don't hear each other, for a minute; then calm."""
    size = 2 + seed % 4
    machines = size + (seed // 4) % size  # fewer than twice as many
    spread_ms = 2_000 if seed % 3 else 10_000
    world = World(seed, machines, size, loss=world_loss(seed), delay_ms=50, spread_ms=spread_ms, **bugs)  # type: ignore[arg-type]
    for _ in range(40):
        if world.all_joined:
            return world
        if world.rng.random() < 0.3:
            world.apart = set(world.rng.sample(sorted(world.machines), world.rng.randrange(machines)))
        world.run(1_500)
        world.check()
        if world.rng.random() < 0.4:
            waiting = [
                machine for machine in world.machines.values() if machine.process and not machine.joined
            ]
            if waiting:
                world.crash(world.rng.choice(waiting), world.rng.randrange(5_000))
    world.loss, world.delay_ms, world.apart = 0.0, 5, set()
    for _ in range(CALM_MS // 1_000):
        world.run(1_000)
        world.check()
        if world.all_joined:
            break
    return world


def world_loss(seed: int) -> float:
    return (0.0, 0.1, 0.3, 0.5)[seed % 7 % 4]


@pytest.mark.parametrize("seed", range(80))
def test_whatever_happens_there_is_one_cluster(seed: int) -> None:
    world = in_trouble(seed)
    assert len(world.founded) == 1
    assert world.all_joined


class _ForgetsWhoItPromised(Founding):
    """Takes any withdrawal for its own."""

    def receive(self, sender: bytes, message: object, now_ms: int) -> None:
        if isinstance(message, Withdraw):
            message = Withdraw(self.record.promised_ballot)
            sender = self.record.promised_to
        super().receive(sender, message, now_ms)  # type: ignore[arg-type]


class _PromisesTwice(Founding):
    def _consider(self, sender: bytes, proposal: Propose) -> None:
        self.record = Record(self.record.ballot)
        super()._consider(sender, proposal)


@pytest.mark.parametrize(
    ("bug", "seed"),
    [({"forgets": True}, 1), ({"make": _PromisesTwice}, 26), ({"make": _ForgetsWhoItPromised}, 31)],
    ids=["forgets at restart", "promises twice", "any withdrawal releases"],
)
def test_the_simulation_finds_bugs_that_are_put_in(bug: dict[str, object], seed: int) -> None:
    """The seeds are those that showed it."""
    with pytest.raises(AssertionError, match=r"a member that doesn't know it|clusters"):
        in_trouble(seed, **bug)


# --- one node -------------------------------------------------------------------------------------

A, B, C, D = sorted(key_of(i) for i in range(100, 104))
ALL = [Contact(key, ()) for key in (A, B, C)]


def seats(*keys: bytes) -> tuple[Seat, ...]:
    return tuple(Seat(i, key) for i, key in enumerate(keys, 1))


def hearing(own: bytes, *others: bytes, size: int = 3, node_ids: dict[bytes, int] | None = None) -> Founding:
    ids = node_ids or {}
    core = Founding(own, size, ids.get(own, 0))
    for other in others:
        core.receive(other, Here(size, ids.get(other, 0), ()), 0)
    return core


def sent(core: Founding, kind: type) -> list[tuple[bytes, object]]:
    return [(to, message) for to, message in core.drain() if isinstance(message, kind)]


def test_a_promise_is_to_one_only() -> None:
    core = hearing(C, A, B, D)
    core.receive(B, Propose(1, seats(B, C, D)), 1)
    assert sent(core, Promise) == [(B, Promise(1))]
    core.receive(A, Propose(7, seats(A, B, C)), 2)
    assert sent(core, Promise) == []
    core.receive(B, Withdraw(2), 3)  # of another ballot
    core.receive(A, Withdraw(1), 3)  # by another
    assert core.waits_for == B
    core.receive(B, Withdraw(1), 4)
    core.receive(A, Propose(7, seats(A, B, C)), 5)
    assert sent(core, Promise) == [(A, Promise(7))]


def test_a_restarted_node_keeps_its_promise_and_its_ballots() -> None:
    core = hearing(C, A, B)
    core.receive(A, Propose(4, seats(A, B, C)), 1)
    again = Founding(C, 3, 0, core.record)
    again.tick(10, ALL)
    assert sent(again, Promise) == [(A, Promise(4))]
    proposer = hearing(A, B, C)
    proposer.tick(2_000, ALL)
    assert {message for _, message in sent(proposer, Propose)} == {Propose(1, seats(A, B, C))}
    restarted = Founding(A, 3, 0, proposer.record)
    restarted.receive(C, Promise(1), 3_000)
    assert sent(restarted, Withdraw) == [(C, Withdraw(1))]
    assert restarted.record.ballot == 1


@pytest.mark.parametrize(
    "proposal",
    [
        Propose(1, seats(A, B, D)),  # without this node
        Propose(1, seats(A, C)),  # too few
        Propose(1, seats(A, B, C, D)),
        Propose(1, seats(A, C, C)),
        Propose(1, (Seat(1, A), Seat(2, B), Seat(9, C))),  # it is node 3
        Propose(1, seats(A, C, b"x" * 32)),  # whom it doesn't hear
    ],
)
def test_what_is_not_promised_to(proposal: Propose) -> None:
    core = hearing(C, A, B, D, node_ids={C: 3})
    core.receive(A, proposal, 1)
    assert not core.waits_for


def test_only_the_lowest_is_followed_and_it_alone_proposes() -> None:
    core = hearing(C, A, B)
    core.receive(B, Propose(1, seats(A, B, C)), 1)
    assert not core.waits_for
    core.tick(5_000 - 2_000, ALL)
    assert not sent(core, Propose)


def test_node_ids_that_are_given_are_kept_and_two_of_a_kind_are_in_the_way() -> None:
    core = hearing(A, B, C, node_ids={A: 2, C: 7})
    core.tick(2_000, ALL)
    (proposal,) = {message for _, message in sent(core, Propose)}
    assert isinstance(proposal, Propose)
    assert {seat.endpoint_id: seat.node_id for seat in proposal.seats} == {A: 2, B: 1, C: 7}
    core = hearing(A, B, C, node_ids={A: 2, C: 2})
    core.tick(2_000, ALL)
    assert not sent(core, Propose)
    assert "same node id" in core.in_the_way


def test_nodes_that_wait_for_another_size_do_not_count() -> None:
    core = hearing(A, B)
    core.receive(C, Here(5, 0, ()), 0)
    core.tick(2_000, ALL)
    assert core.here == 2
    assert "waits for a cluster of 5" in core.in_the_way


def test_of_more_nodes_than_it_can_keep_in_mind_it_keeps_the_lowest() -> None:
    """All do, so those that are proposed hear of each other; and who isn't kept holds nothing up."""
    first, *others = sorted(key_of(i) for i in range(FOUNDING_SEEN + 6))
    core = Founding(first, 3)
    for other in reversed(others):
        core.receive(other, Here(3, 0, ()), 0)
    assert core.here == FOUNDING_SEEN + 1
    for other in others[FOUNDING_SEEN:]:
        core.receive(other, Here(3, 0, ()), 1_400)
    core.tick(2_000, ())
    ((_, proposal), _) = sent(core, Propose)
    assert isinstance(proposal, Propose)
    assert [seat.endpoint_id for seat in proposal.seats] == [first, *others[:2]]


def test_nodes_that_have_left_make_room() -> None:
    core = Founding(A, 2)
    for i in range(FOUNDING_SEEN):
        core.receive(key_of(i), Here(2, 0, ()), 0)
    core.receive(B, Here(2, 0, ()), FOUNDING_ALIVE_MS + 1)
    assert core.here == 2


def test_whoever_finds_a_cluster_asks_to_be_let_in() -> None:
    core = hearing(A, B, C)
    core.tick(2_000, ALL)
    core.receive(D, Belongs(b"c" * 16, seats(B, D)), 2_001)
    assert core.outcome == TooLate(b"c" * 16, (B, D))
    assert len(sent(core, Withdraw)) == 2
    promised = hearing(C, A, B)
    promised.receive(A, Propose(1, seats(A, B, C)), 1)
    promised.receive(D, Belongs(b"c" * 16, seats(B, D)), 2)
    assert promised.outcome is None  # A may have decided
    promised.receive(A, Belongs(b"d" * 16, seats(A, B, C)), 3)
    assert promised.outcome == Decided(seats(A, B, C), founds=False, cluster_id=b"d" * 16)


def test_a_member_that_has_lost_its_memory_is_no_member_by_word_of_others() -> None:
    core = hearing(A, B, C)
    core.receive(B, Belongs(b"c" * 16, seats(A, B, C)), 1)
    assert isinstance(core.outcome, TooLate)


def test_a_member_that_has_lost_its_memory_and_promised_itself_elsewhere_since_is_none_either() -> None:
    """It was a voter of B and D, lost its data, and promised itself to A, who may found with it yet."""
    core = hearing(C, A, B)
    core.receive(A, Propose(1, seats(A, B, C)), 1)
    core.receive(D, Belongs(b"c" * 16, seats(B, C, D)), 2)
    assert core.outcome is None
    assert core.waits_for == A
    core.receive(A, Withdraw(1), 3)
    core.receive(D, Belongs(b"c" * 16, seats(B, C, D)), 4)
    assert isinstance(core.outcome, TooLate)


@pytest.mark.parametrize("frame", [b"", b"\xc1", b"x" * (FOUNDING_FRAME_BYTES + 1), b"\x92\xa4here\x01"])
def test_garbage_is_none_of_its_messages(frame: bytes) -> None:
    with pytest.raises(InputError):
        decode(frame)


@pytest.mark.parametrize(
    "message",
    [
        Here(0, 0, ()),
        Here(RAFT_MEMBERS + 1, 0, ()),
        Here(3, -1, ()),
        Here(3, RAFT_NODE_ID + 1, ()),
        Here(3, 0, (Contact(A[:-1], ()),)),
        Here(3, 0, (Contact(A, (("h", 0),)),)),
        Here(3, 0, (Contact(A, (("h", 65_536),)),)),
        Here(3, 0, (Contact(A, (("", 1),)),)),
        Here(3, 0, (Contact(A, (("h" * (HOST_CHARS + 1), 1),)),)),
        Here(3, 0, (Contact(A, (("h", 1),) * (ADDRESSES_PER_PEER + 1)),)),
        Here(3, 0, (Contact(A, ()),) * (FOUNDING_SEEN + 1)),
        Propose(0, seats(A, B)),
        Propose(FOUNDING_BALLOT + 1, seats(A, B)),
        Propose(1, (Seat(0, A),)),
        Propose(1, (Seat(RAFT_NODE_ID + 1, A),)),
        Propose(1, (Seat(1, A + b"x"),)),
        Propose(1, tuple(Seat(i + 1, key_of(i)) for i in range(RAFT_MEMBERS + 1))),
        Promise(0),
        Withdraw(-1),
        Belongs(b"c" * 15, seats(A)),
        Belongs(b"c" * 17, seats(A)),
        Belongs(b"c" * 16, (Seat(1, b""),)),
    ],
)
def test_what_is_out_of_bounds_is_none_either(message: Message) -> None:
    with pytest.raises(InputError, match="not a message about founding"):
        decode(encode(message))


@pytest.mark.parametrize(
    "message",
    [
        Here(RAFT_MEMBERS, RAFT_NODE_ID, (Contact(A, (("h" * HOST_CHARS, 65_535),)),)),
        Here(1, 0, tuple(Contact(key_of(i), ()) for i in range(FOUNDING_SEEN))),
        Propose(FOUNDING_BALLOT, tuple(Seat(i + 1, key_of(i)) for i in range(RAFT_MEMBERS))),
        Belongs(b"c" * 16, ()),
    ],
)
def test_what_is_within_them_is(message: Message) -> None:
    assert decode(encode(message)) == message


def test_the_world_has_crashes() -> None:
    """Else the simulation would prove little."""
    world = in_trouble(3)
    assert any(isinstance(machine, Waiting) and machine.life > 1 for machine in world.machines.values())
