"""What `ClusterController` and `KeyValueStore` promise, held to by every backend alike."""

from __future__ import annotations

from typing import Any

import pytest
from backends import Backend

from aspen.api import (
    AddLearnerRequest,
    ChangeMembershipRequest,
    ClusterController,
    ClusterNode,
    ClusterState,
    InitRequest,
    KeyValueStore,
    KvClient,
    RaftControlClient,
    WriteCommand,
)
from aspen.errors import ControlPlaneError, KeyValueStoreError
from aspen.identity import Identity
from aspen.limits import KV_BATCH_KEYS, KV_KEY_BYTES, KV_SCAN_MAX, KV_VALUE_BYTES
from aspen.raft import pending
from aspen.state.ports import Consistency

SHORT_MS = 300


def give_up_soon(monkeypatch: pytest.MonkeyPatch) -> None:
    """Don't wait long for a quorum that isn't there."""
    monkeypatch.setattr(pending, "RAFT_PROPOSE_MS", SHORT_MS)
    monkeypatch.setattr(pending, "RAFT_READ_MS", SHORT_MS)


def control_of(node: Any) -> ClusterController:
    return RaftControlClient(node)


def store_of(node: Any) -> KeyValueStore:
    return KvClient(node)


async def founded(backend: Backend, count: int) -> list[Any]:
    nodes = await backend.start(count)
    await control_of(nodes[0]).init(InitRequest([backend.named(node) for node in nodes]))
    return nodes


async def one(backend: Backend) -> KeyValueStore:
    (node,) = await founded(backend, 1)
    return store_of(node)


async def joined(backend: Backend, through: Any) -> Any:
    """A learner more, that has heard of the cluster."""
    (node,) = await backend.start()
    await control_of(through).add_learner(AddLearnerRequest(backend.named(node)))
    await backend.until(lambda: bool(node.control.ground.roster.members))
    return node


def leader_of(nodes: list[Any], state: ClusterState) -> Any:
    return next(node for node in nodes if node.node_id == state.leader_id)


# --- init and state -----------------------------------------------------------------------------


async def test_before_init_there_is_nothing(backend: Backend, monkeypatch: pytest.MonkeyPatch) -> None:
    give_up_soon(monkeypatch)
    (node,) = await backend.start()
    control = control_of(node)
    for attempt in (
        control.current_state(),
        control.add_learner(AddLearnerRequest(backend.named(node))),
        control.change_membership(ChangeMembershipRequest([1])),
        control.promote(1),
        control.remove(1),
        control.transfer_leader(1),
    ):
        with pytest.raises(ControlPlaneError.NotInitialized):
            await attempt
    with pytest.raises(KeyValueStoreError.Timeout):
        await store_of(node).write(WriteCommand.Set("k", "v"))
    with pytest.raises(KeyValueStoreError.Timeout):
        await store_of(node).read("k")


async def test_init_founds_a_cluster_of_one(backend: Backend) -> None:
    (node,) = await backend.start()
    named = backend.named(node)
    state = await control_of(node).init(InitRequest([ClusterNode(named.node_id, named.address)]))
    assert state == await control_of(node).current_state()
    assert (state.node_id, state.leader_id, state.members, state.learners) == (1, 1, (1,), ())
    assert state.nodes == (named,)
    assert state.term > 0


async def test_init_founds_a_cluster_of_three(backend: Backend) -> None:
    nodes = await founded(backend, 3)
    for node in nodes:
        await store_of(node).write(WriteCommand.Set("from", str(node.node_id)))
        state = await control_of(node).current_state()
        assert state.members == (1, 2, 3)
        assert state.nodes == tuple(backend.named(member) for member in nodes)
        assert state.leader_id in (1, 2, 3)


async def test_init_refuses_what_makes_no_cluster(backend: Backend) -> None:
    node, other = await backend.start(2)
    control, named = control_of(node), backend.named(node)
    for members in (
        [],
        [backend.named(other)],
        [named, named],
        [named, ClusterNode(0, named.address, backend.named(other).endpoint_id)],
        [named, ClusterNode(2, named.address)],
        [named, ClusterNode(2, named.address, "not a key")],
        [ClusterNode(1, "no port", named.endpoint_id)],
    ):
        with pytest.raises(ControlPlaneError.InvalidRequest):
            await control.init(InitRequest(members))
    await control.init(InitRequest([named]))
    with pytest.raises(ControlPlaneError.InvalidRequest):
        await control.init(InitRequest([named]))


# --- membership ---------------------------------------------------------------------------------


async def test_growing_and_shrinking(backend: Backend) -> None:
    nodes = await founded(backend, 1)
    await store_of(nodes[0]).write(WriteCommand.Set("old", "as time"))
    for n in (2, 3):
        nodes.append(await joined(backend, nodes[0]))
        state = await control_of(nodes[0]).current_state()
        assert (state.members, state.learners) == ((1,), tuple(range(2, n + 1)))
    state = await control_of(nodes[2]).change_membership(ChangeMembershipRequest([1, 2, 3]))
    assert (state.members, state.learners) == ((1, 2, 3), ())
    assert (await store_of(nodes[2]).read("old")).value == b"as time"
    # The leader is among those that go: another leads at once.
    state = await control_of(nodes[1]).change_membership(ChangeMembershipRequest([2, 3]))
    assert state.members == (2, 3)
    assert [member.node_id for member in state.nodes] == [2, 3]
    assert state.leader_id in (2, 3)
    await store_of(nodes[1]).write(WriteCommand.Set("new", "age"))
    await backend.until(lambda: bool(nodes[0].control.ground.removed))
    with pytest.raises(KeyValueStoreError.Timeout, match="removed"):
        await store_of(nodes[0]).read("old")
    with pytest.raises(ControlPlaneError.Failed, match="removed"):
        await control_of(nodes[0]).promote(1)
    assert (await store_of(nodes[0]).read("old", Consistency.STALE)).value == b"as time"


async def test_promote_remove_and_transfer(backend: Backend) -> None:
    nodes = await founded(backend, 2)
    nodes.append(await joined(backend, nodes[1]))
    state = await control_of(nodes[2]).promote(3)
    assert state.members == (1, 2, 3)
    for n in (3, 2, 3):
        state = await control_of(nodes[0]).transfer_leader(n)
        assert state.leader_id == n
    state = await control_of(nodes[0]).remove(3)
    assert state.members == (1, 2)
    await store_of(nodes[0]).write(WriteCommand.Set("k", "v"))


async def test_what_is_so_already_is_done(backend: Backend) -> None:
    nodes = await founded(backend, 3)
    control = control_of(nodes[0])
    before = await control.current_state()
    await control.add_learner(AddLearnerRequest(backend.named(nodes[1])))
    await control.promote(2)
    await control.change_membership(ChangeMembershipRequest([3, 2, 1]))
    await control.transfer_leader(before.leader_id)
    assert await control.current_state() == before


async def test_a_member_can_move(backend: Backend) -> None:
    nodes = await founded(backend, 2)
    moved = ClusterNode(2, "192.0.2.7:7300,[2001:db8::7]:7300", backend.named(nodes[1]).endpoint_id)
    state = await control_of(nodes[0]).add_learner(AddLearnerRequest(moved))
    assert state.nodes[1] == moved
    assert state.members == (1, 2)


async def test_membership_refuses_what_makes_no_sense(backend: Backend) -> None:
    nodes = await founded(backend, 2)
    control, stranger = control_of(nodes[0]), Identity.generate().z32
    member = backend.named(nodes[1]).endpoint_id
    for attempt in (
        control.add_learner(AddLearnerRequest(ClusterNode(0, "192.0.2.1:1", stranger))),
        control.add_learner(AddLearnerRequest(ClusterNode(2, "192.0.2.1:1", stranger))),
        control.add_learner(AddLearnerRequest(ClusterNode(9, "192.0.2.1:1", member))),
        control.add_learner(AddLearnerRequest(ClusterNode(9, "192.0.2.1:1"))),
        control.add_learner(AddLearnerRequest(ClusterNode(9, "192.0.2.1", stranger))),
        control.change_membership(ChangeMembershipRequest([])),
        control.change_membership(ChangeMembershipRequest([1, 9])),
        control.promote(9),
        control.remove(9),
        control.transfer_leader(9),
    ):
        with pytest.raises(ControlPlaneError.InvalidRequest):
            await attempt
    assert (await control.current_state()).members == (1, 2)


async def test_the_last_voter_stays(backend: Backend) -> None:
    (node,) = await founded(backend, 1)
    with pytest.raises(ControlPlaneError.InvalidRequest, match="last voter"):
        await control_of(node).remove(1)


async def test_a_learner_that_is_not_there_never_gets_a_vote(backend: Backend) -> None:
    (node,) = await founded(backend, 1)
    absent = ClusterNode(2, "127.0.0.1:1", Identity.generate().z32)
    state = await control_of(node).add_learner(AddLearnerRequest(absent))
    assert state.learners == (2,)
    with pytest.raises(ControlPlaneError.Timeout, match="caught up"):
        await control_of(node).change_membership(ChangeMembershipRequest([1, 2], timeout_ms=200))
    assert (await control_of(node).current_state()).members == (1,)
    await store_of(node).write(WriteCommand.Set("still", "writes"))
    assert (await control_of(node).remove(2)).nodes == (backend.named(node),)


async def test_a_removed_id_can_be_given_to_another(backend: Backend) -> None:
    nodes = await founded(backend, 3)
    state = await control_of(nodes[0]).current_state()
    gone = next(node for node in nodes if node.node_id != state.leader_id)
    leader = leader_of(nodes, state)
    await control_of(leader).remove(gone.node_id)
    anew = ClusterNode(gone.node_id, "192.0.2.9:7300", Identity.generate().z32)
    state = await control_of(leader).add_learner(AddLearnerRequest(anew))
    assert anew in state.nodes


async def test_without_a_quorum_the_outcome_is_unknown_or_nothing_happened(
    backend: Backend, monkeypatch: pytest.MonkeyPatch
) -> None:
    nodes = await founded(backend, 3)
    state = await control_of(nodes[0]).current_state()
    leader = leader_of(nodes, state)
    await store_of(leader).write(WriteCommand.Set("k", "1"))
    for node in nodes:
        if node is not leader:
            await backend.crash(node)
    give_up_soon(monkeypatch)
    with pytest.raises((KeyValueStoreError.OutcomeUnknown, KeyValueStoreError.Timeout)):
        await store_of(leader).write(WriteCommand.Set("k", "2"))
    with pytest.raises(KeyValueStoreError.Timeout):
        await store_of(leader).read("k")
    with pytest.raises(ControlPlaneError.Timeout, match="nothing was changed"):
        await control_of(leader).change_membership(ChangeMembershipRequest([leader.node_id], timeout_ms=0))
    assert (await store_of(leader).read("k", Consistency.STALE)).value == b"1"


async def test_one_of_three_may_be_missing(backend: Backend) -> None:
    nodes = await founded(backend, 3)
    await backend.crash(nodes[0])
    rest = nodes[1:]
    await backend.until(lambda: all(node.control.ground.leader_id in (2, 3) for node in rest))
    for node in rest:
        await store_of(node).write(WriteCommand.Set("k", str(node.node_id)))
    state = await control_of(rest[0]).remove(1)
    assert state.members == (2, 3)


# --- keys and values ----------------------------------------------------------------------------


async def test_a_key_has_a_value_and_a_history(backend: Backend) -> None:
    kv = await one(backend)
    first = await kv.write(WriteCommand.Set("k", "one"))
    assert (first.revision, first.changed) == (1, 1)
    await kv.write(WriteCommand.Set("other", ""))
    await kv.write(WriteCommand.Set(b"k", b"\x00\xfftwo"))
    entry = await kv.read("k")
    assert entry == (b"k", b"\x00\xfftwo", 1, 3, 2, 0)
    assert (await kv.read("other")).value == b""
    assert (await kv.write(WriteCommand.Delete("k"))).changed == 1
    with pytest.raises(KeyValueStoreError.NotFound):
        await kv.read("k")
    await kv.write(WriteCommand.Set("k", "three"))
    assert await kv.read("k") == (b"k", b"three", 5, 5, 1, 0)


async def test_several_keys_change_together(backend: Backend) -> None:
    kv = await one(backend)
    written = await kv.write(WriteCommand.SetMulti({"a": "1", "b": "2"}))
    assert (written.revision, written.changed) == (1, 2)
    written = await kv.write(WriteCommand.SetMulti((("a", "3"), ("c", "4"), ("a", "5"))))
    assert (written.revision, written.changed) == (2, 2)
    assert (await kv.read("a")) == (b"a", b"5", 1, 2, 2, 0)
    assert (await kv.read("b")).mod_revision == 1
    assert (await kv.write(WriteCommand.DeleteMulti(("a", "c", "absent")))).changed == 2
    assert (await kv.write(WriteCommand.DeleteMulti(("a", "c")))) == (
        await kv.write(WriteCommand.Delete("a"))
    )


async def test_a_scan_is_in_order_and_goes_on(backend: Backend) -> None:
    kv = await one(backend)
    for key in ("p/2", "p/10", "p/1", "q", "p", b"p/\xff"):
        await kv.write(WriteCommand.Set(key, "v"))
    page = await kv.scan("p/")
    assert [entry.key for entry in page.entries] == [b"p/1", b"p/10", b"p/2", b"p/\xff"]
    assert (page.more, page.revision) == (False, 6)
    page = await kv.scan("p", limit=2)
    assert ([entry.key for entry in page.entries], page.more) == ([b"p", b"p/1"], True)
    page = await kv.scan("p", after=page.entries[-1].key, limit=2)
    assert ([entry.key for entry in page.entries], page.more) == ([b"p/10", b"p/2"], True)
    page = await kv.scan("p", after="p/2")
    assert ([entry.key for entry in page.entries], page.more) == ([b"p/\xff"], False)
    assert len((await kv.scan()).entries) == 6
    assert (await kv.scan("nobody")).entries == ()
    for limit in (0, KV_SCAN_MAX + 1):
        with pytest.raises(KeyValueStoreError.Failed):
            await kv.scan(limit=limit)


async def test_limits_are_told_apart(backend: Backend) -> None:
    kv = await one(backend)
    await kv.write(WriteCommand.Set("k" * KV_KEY_BYTES, b"v" * KV_VALUE_BYTES))
    many = {f"k{i}": "v" for i in range(KV_BATCH_KEYS + 1)}
    for command, error in (
        (WriteCommand.Set("", "v"), KeyValueStoreError.EmptyKey),
        (WriteCommand.Set("k" * (KV_KEY_BYTES + 1), "v"), KeyValueStoreError.KeyTooLarge),
        (WriteCommand.Set("k", b"v" * (KV_VALUE_BYTES + 1)), KeyValueStoreError.ValueTooLarge),
        (WriteCommand.SetMulti(many), KeyValueStoreError.BatchTooLarge),
        (WriteCommand.SetMulti({}), KeyValueStoreError.BatchTooLarge),
        (WriteCommand.DeleteMulti(tuple(many)), KeyValueStoreError.BatchTooLarge),
        (WriteCommand.Set("_system:k", "v"), KeyValueStoreError.ReservedKey),
        (WriteCommand.Delete(""), KeyValueStoreError.EmptyKey),
    ):
        with pytest.raises(error):
            await kv.write(command)
    with pytest.raises(KeyValueStoreError.EmptyKey):
        await kv.read("")
    with pytest.raises(KeyValueStoreError.KeyTooLarge):
        await kv.read("k" * (KV_KEY_BYTES + 1))
    assert (await kv.scan()).revision == 1


async def test_a_read_sees_what_was_written_anywhere_before_it(backend: Backend) -> None:
    nodes = await founded(backend, 3)
    for i in range(9):
        await store_of(nodes[i % 3]).write(WriteCommand.Set("k", str(i)))
        assert (await store_of(nodes[(i + 1) % 3]).read("k")).value == b"%d" % i


async def test_only_the_leader_reads_as_leader(backend: Backend) -> None:
    nodes = await founded(backend, 3)
    await store_of(nodes[0]).write(WriteCommand.Set("k", "v"))
    state = await control_of(nodes[0]).current_state()
    for node in nodes:
        read = store_of(node).read("k", Consistency.LEADER)
        if node.node_id == state.leader_id:
            assert (await read).value == b"v"
        else:
            with pytest.raises(KeyValueStoreError.NotLeader):
                await read
