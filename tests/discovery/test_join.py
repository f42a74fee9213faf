"""Joining by a ticket: whole nodes in one process, let in or turned away by name."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import os
import shutil
import time
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from aspen.config import ClusterBootstrapConfig, DnsServerConfig, IrohConfig
from aspen.config.joined import JOINED_FILE, Joined, read_joined, write_joined
from aspen.config.sources import load_config
from aspen.discovery.join import (
    Declined,
    JoinRequest,
    decode_answer,
    decode_request,
    encode,
    free_node_id,
)
from aspen.discovery.service import TOPIC_CONTEXT
from aspen.discovery.ticket import SignedTicket, Ticket, TicketNode, parse_ticket
from aspen.errors import ConfigError, ControlPlaneError, InputError, JoinError
from aspen.identity import Cookie, Identity
from aspen.limits import JOIN_STRANGERS, RAFT_NODE_ID
from aspen.logs import redact
from aspen.net.address_book import AddressBook
from aspen.net.endpoint import ALPN_TICKET, Endpoint, Hello, Service
from aspen.node import PROTOCOL_VERSION, Node, bootstrap_node
from aspen.ratelimit import Rate, RateLimiter
from aspen.services.recovery import StoppedNode
from aspen.state.kv_commands import KvSet

COOKIE = "joining-7c1d-only-for-these-tests"
HOST = "127.0.0.1"


def config(data_dir: Path, **settings: Any) -> ClusterBootstrapConfig:
    return ClusterBootstrapConfig(
        **{
            "data_dir": data_dir,
            "host": HOST,
            "http_addr": f"{HOST}:0",
            "quic_port": 0,
            "profile": "lan",
            "iroh": IrohConfig(enable_mdns=False),
            "dns_server": DnsServerConfig(enable=False),
            **settings,
        }
    )


@asynccontextmanager
async def running(data_dir: Path, **settings: Any) -> AsyncIterator[Node]:
    async with await bootstrap_node(config(data_dir, **settings), on_join=SAID.append) as node:
        yield node


SAID: list[str] = []
"""What newcomers reported."""


@pytest.fixture(autouse=True)
def _quiet() -> None:
    SAID.clear()


@pytest.fixture
async def member(tmp_path: Path) -> AsyncIterator[Node]:
    """A cluster of one."""
    async with running(tmp_path / "member", node_id=1, cookie=COOKIE, init=True) as node:
        await until(lambda: bool(node.consensus.leader_id), "it leads")
        yield node


async def until(condition: Callable[[], bool], what: str, timeout_s: float = 30) -> None:
    deadline = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < deadline, f"not in {timeout_s} s: {what}"
        await asyncio.sleep(0.02)


async def votes(node: Node) -> None:
    await until(lambda: node.node_id in node.consensus.roster.conf_state.voters, f"node {node.node_id} votes")


def signed(member: Node, life_s: int = 3_600) -> str:
    return member.discovery.signed_ticket(life_s)[0]


# --- let in ---------------------------------------------------------------------------------------


async def test_a_signed_ticket_is_all_a_new_node_needs(member: Node, tmp_path: Path) -> None:
    async with running(tmp_path / "new", ticket=signed(member)) as new:
        assert new.node_id == 2
        await votes(new)
        await until(lambda: any("one of 2 voters" in line for line in SAID), "it says so")
    assert SAID[0].endswith("by the ticket")
    assert "let in as node 2" in SAID
    assert COOKIE not in redact(f"what it was told is {COOKIE}")
    file = tmp_path / "new" / JOINED_FILE
    assert file.stat().st_mode & 0o777 == 0o600
    async with running(tmp_path / "new") as again:  # it has all in writing
        assert (again.node_id, again.config.cookie) == (2, COOKIE)
        await until(lambda: bool(again.consensus.leader_id), "it is back")


async def test_with_the_cookie_a_plain_ticket_will_do(member: Node, tmp_path: Path) -> None:
    plain = member.discovery.ticket()
    with pytest.raises(ConfigError, match="plain ticket only tells where"):
        await bootstrap_node(config(tmp_path / "new", ticket=plain))
    async with running(tmp_path / "new", ticket=plain, cookie=COOKIE, node_id=7, learner=True):
        await until(lambda: any("learner beside 1 voters" in line for line in SAID), "it has caught up")
        assert member.consensus.roster.conf_state.learners == (7,)
    joined = read_joined(tmp_path / "new")
    assert joined is not None
    assert (joined.node_id, joined.cookie, joined.learner) == (7, "", True)


async def test_any_listed_member_lets_in_while_the_issuer_is_down(member: Node, tmp_path: Path) -> None:
    async with (
        running(tmp_path / "two", ticket=signed(member)) as two,
        running(tmp_path / "three", ticket=signed(member)) as three,
    ):
        await votes(two)
        await votes(three)
        ticket = signed(two)
        await two.shutdown()
        async with running(tmp_path / "four", ticket=ticket) as four:
            assert four.node_id == 4
            await votes(four)


async def test_several_at_once_get_node_ids_of_their_own(member: Node, tmp_path: Path) -> None:
    ticket = signed(member)
    starts = [bootstrap_node(config(tmp_path / f"new-{i}", ticket=ticket, learner=True)) for i in range(4)]
    nodes = await asyncio.gather(*starts)
    try:
        assert sorted(node.node_id for node in nodes) == [2, 3, 4, 5]
    finally:
        await asyncio.gather(*(node.shutdown() for node in nodes))


async def test_a_crash_before_it_was_written_down_makes_no_second_member(
    member: Node, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ticket = signed(member)

    def crash(*_: object) -> None:
        raise OSError("the power fails")

    with monkeypatch.context() as patched:
        patched.setattr("aspen.node.enter.write_joined", crash)
        with pytest.raises(OSError, match="power"):
            await bootstrap_node(config(tmp_path / "new", ticket=ticket))
    assert len(member.consensus.roster.members) == 2
    async with running(tmp_path / "new", ticket=ticket) as new:
        assert new.node_id == 2
        await votes(new)
    assert len(member.consensus.roster.members) == 2


async def test_a_file_of_one_cluster_beside_the_data_of_another_stops_the_start(
    member: Node, tmp_path: Path
) -> None:
    async with running(tmp_path / "new", ticket=signed(member), learner=True) as new:
        await until(lambda: bool(new.consensus.roster.members), "it knows the members")
    joined = read_joined(tmp_path / "new")
    assert joined is not None
    assert joined.cluster_id == member.consensus.cluster_id.hex()
    write_joined(tmp_path / "new", msgspec.structs.replace(joined, cluster_id="c0" * 16))
    with pytest.raises(ConfigError, match=f"{JOINED_FILE}: it is of the cluster {'c0' * 16}, and the data"):
        await bootstrap_node(config(tmp_path / "new"))
    write_joined(tmp_path / "new", msgspec.structs.replace(joined, cluster_id=""))  # as a founder has it
    async with running(tmp_path / "new"):
        pass


async def test_a_file_of_a_cluster_that_this_one_was_recovered_from_is_no_hindrance(
    member: Node, tmp_path: Path
) -> None:
    async with running(tmp_path / "new", ticket=signed(member)) as new:
        await votes(new)
    before = read_joined(tmp_path / "new")
    assert before is not None
    with StoppedNode(tmp_path / "new") as stopped:
        recovered = stopped.recover()
    assert recovered.cluster_id.hex() != before.cluster_id
    async with running(tmp_path / "new") as again:
        assert again.consensus.cluster_id == recovered.cluster_id


async def test_a_new_node_hears_of_no_other_cluster_than_the_one_that_let_it_in(tmp_path: Path) -> None:
    """Its own may be down; the other has the same cookie, and comes first."""
    stranger = Identity.generate().endpoint_id
    (tmp_path / "new").mkdir()
    write_joined(tmp_path / "new", Joined(node_id=2, cookie=COOKIE, cluster_id="c0" * 16))
    async with running(tmp_path / "new") as new:
        assert new.consensus.admit(1, stranger, b"another cluster!") == "foreign_cluster"
        assert new.consensus.admit(1, stranger, b"\xc0" * 16) is None


@pytest.mark.parametrize("cluster_id", ["c0", "C0" * 16, "xx" * 16, "c0" * 17])
def test_what_is_no_cluster_id_is_not_what_aspen_wrote(tmp_path: Path, cluster_id: str) -> None:
    (tmp_path / JOINED_FILE).write_text(f'node_id = 2\ncluster_id = "{cluster_id}"\n')
    with pytest.raises(ConfigError, match=f"{JOINED_FILE}: not what Aspen wrote there: cluster_id is"):
        read_joined(tmp_path)


async def test_a_learner_that_lost_its_data_comes_back_by_the_same_command(
    member: Node, tmp_path: Path
) -> None:
    """It has no vote, so nothing was built on what it had: it gets all again, under its node id."""
    settings: dict[str, Any] = {"ticket": signed(member), "learner": True}
    async with running(tmp_path / "new", **settings) as new:
        await member.proposer.propose(KvSet(((b"k", b"v"),)))
        await until(lambda: new.kv.get(b"k") is not None, "it has what was written")
    leads = member.consensus.driver.raw.term
    key = (tmp_path / "new" / "identity.key").read_bytes()
    shutil.rmtree(tmp_path / "new")
    (tmp_path / "new").mkdir()
    (tmp_path / "new" / "identity.key").write_bytes(key)
    async with running(tmp_path / "new", **settings) as again:
        assert again.node_id == new.node_id
        await until(lambda: again.kv.get(b"k") is not None, "it has it again")
        await until(lambda: "learner beside 1 voters" in SAID[-1], "it has caught up")
    assert member.consensus.driver.raw.term == leads  # the same leader, who knew how far it had been


async def test_who_has_joined_needs_no_valid_ticket_any_more(member: Node, tmp_path: Path) -> None:
    ticket = signed(member, life_s=1)
    async with running(tmp_path / "new", ticket=ticket) as new:
        await votes(new)
    with pytest.MonkeyPatch.context() as patched:
        later_s = time.time() + 10_000
        patched.setattr("aspen.node.join.time.time", lambda: later_s)
        async with running(tmp_path / "new", ticket=ticket) as again:
            await until(lambda: bool(again.consensus.leader_id), "it is back")


def test_what_was_learnt_stands_behind_what_is_configured(tmp_path: Path) -> None:
    file = tmp_path / JOINED_FILE
    peer = f"1@{STRANGER.z32}@192.0.2.1:7300"
    write_joined(tmp_path, Joined(node_id=4, cookie=COOKIE, peers=(peer,)))
    environment = {"ASPEN_DATA_DIR": str(tmp_path)}
    loaded = load_config(config_file=None, environment=environment, flags={})
    loaded.validate()
    assert (loaded.config.node_id, loaded.config.cookie, loaded.config.peers) == (4, COOKIE, [peer])
    assert loaded.origin("cookie") == loaded.origin("node_id") == str(file)
    changed_since = environment | {"ASPEN_COOKIE": "changed-since-then", "ASPEN_INIT": "true"}
    loaded = load_config(config_file=None, environment=changed_since, flags={})
    assert loaded.config.cookie == "changed-since-then"
    assert not loaded.config.init  # whoever has joined founds nothing
    with pytest.raises(ConfigError, match=f"node_id is 5, but this node joined as 4 .{file}"):
        load_config(config_file=None, environment=environment | {"ASPEN_NODE_ID": "5"}, flags={})
    file.write_text("node_id = ?")
    with pytest.raises(ConfigError, match=f"{file}: not what Aspen wrote there"):
        load_config(config_file=None, environment=environment, flags={})


async def test_a_voter_whose_data_is_gone_is_not_let_in_under_its_old_key(
    member: Node, tmp_path: Path
) -> None:
    """It may have voted in this term, and doesn't know."""
    async with running(tmp_path / "new", ticket=signed(member)) as new:
        await votes(new)
        (tmp_path / "wiped").mkdir()
        new_key = (tmp_path / "new" / "identity.key").read_text()
        (tmp_path / "wiped" / "identity.key").write_text(new_key)
        error = await refused(member, tmp_path / "wiped", ticket=signed(member))
    assert "a voter already, as node 2, whose data is not here" in str(error)


# --- turned away ----------------------------------------------------------------------------------


def changed(ticket: str, issuer: Identity | None = None, **changes: Any) -> str:
    """The ticket with something else in it, signed again if by an issuer."""
    read = parse_ticket(ticket)
    assert isinstance(read, SignedTicket)
    if "cluster_id" in changes:
        changes["ticket"] = dataclasses.replace(read.ticket, cluster_id=changes.pop("cluster_id"))
    read = dataclasses.replace(read, **changes)
    if issuer is not None:
        read = dataclasses.replace(read, issuer=issuer.endpoint_id)
        read = dataclasses.replace(read, signature=issuer.sign(read._signed()))
    return read.encode()


NOW_S = int(time.time())
STRANGER = Identity.from_seed(b"s" * 32)


async def refused(member: Node, data_dir: Path, **settings: Any) -> JoinError:
    before = member.consensus.roster
    with pytest.raises(JoinError) as caught:
        await bootstrap_node(config(data_dir, **settings))
    assert member.consensus.roster.members == before.members
    assert read_joined(data_dir) is None
    return caught.value


@pytest.mark.parametrize(
    ("code", "reason", "ruin"),
    [
        ("malformed", "copied whole", lambda t: t[:-9] + "1"),
        ("malformed", 'a ticket begins with "aspen"', lambda t: "x" + t),
        ("forged", "signature isn't its issuer's", lambda t: changed(t, expires_at_s=NOW_S + 999)),
        ("forged", "is no member of this cluster", lambda t: changed(t, STRANGER)),
        ("expired", "s ago: ask for a new one", lambda t: changed(t, STRANGER, expires_at_s=NOW_S - 400)),
        (
            "not_yet",
            "compare the machines' clocks",
            lambda t: changed(t, STRANGER, issued_at_s=NOW_S + 3_000),
        ),
    ],
)
async def test_a_bad_ticket_is_told_why(
    member: Node, tmp_path: Path, code: str, reason: str, ruin: Callable[[str], str]
) -> None:
    ticket = ruin(changed(signed(member)))
    error = await refused(member, tmp_path / "new", ticket=ticket)
    assert error.code == code
    assert reason in str(error)


async def test_a_ticket_of_another_cluster_is_foreign(
    member: Node, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("aspen.node.join.JOIN_TRY_MS", 0)
    plain = member.discovery.ticket()
    error = await refused(member, tmp_path / "new", ticket=plain, cookie="another-cookie-entirely")
    assert (error.code, "another cookie" in str(error)) == ("foreign", True)
    # A node that belongs to a cluster stays with it.
    settings: dict[str, Any] = {"node_id": 1, "cookie": COOKIE}
    async with running(tmp_path / "other", init=True, **settings) as other:
        await until(lambda: bool(other.consensus.leader_id), "it leads")
    with pytest.raises(JoinError, match="and this node belongs to") as caught:
        await bootstrap_node(config(tmp_path / "other", ticket=signed(member), **settings))
    assert caught.value.code == "foreign"


async def test_a_member_tells_a_forger_the_same(member: Node) -> None:
    """One that doesn't look at its own ticket first: what counts is decided by the member."""
    ticket = signed(member)
    bad = {
        "malformed": "aspensigned234",
        "foreign": changed(ticket, STRANGER, cluster_id=b"x" * 16),
        "forged": changed(ticket, expires_at_s=NOW_S + 3_000),
        "expired": changed(ticket, member.identity, issued_at_s=NOW_S - 9_000, expires_at_s=NOW_S - 1_000),
        "not_yet": changed(ticket, member.identity, issued_at_s=NOW_S + 3_000),
    }
    async with strangers_endpoint(member, STRANGER) as endpoint:
        channel = endpoint.channel(ALPN_TICKET)
        for code, text in bad.items():
            stream = await channel.open_stream(member.identity.endpoint_id)
            await stream.send(encode(JoinRequest(text, 0, ())))
            answer = decode_answer(await stream.receive() or b"")
            stream.close()
            assert isinstance(answer, Declined)
            assert answer.code == code
        plain = JoinRequest(member.discovery.ticket(), 0, ())
        stream = await channel.open_stream(member.identity.endpoint_id)
        await stream.send(encode(plain))
        answer = decode_answer(await stream.receive() or b"")
        assert isinstance(answer, Declined)
        assert "plain ticket lets nobody in" in answer.reason
    assert len(member.consensus.roster.members) == 1


async def test_a_node_id_is_one_key_s(member: Node, tmp_path: Path) -> None:
    error = await refused(member, tmp_path / "new", ticket=signed(member), node_id=1)
    assert (error.code, "another member's" in str(error)) == ("node_id_taken", True)
    async with running(tmp_path / "new", ticket=signed(member), learner=True):
        pass
    (tmp_path / "new" / JOINED_FILE).unlink()
    for folder in (tmp_path / "new").glob("state-*"):
        for file in folder.iterdir():
            file.unlink()
    error = await refused(member, tmp_path / "new", ticket=signed(member), node_id=9)
    assert "a member already, as node 2" in str(error)


async def test_a_removed_node_stays_out(member: Node, tmp_path: Path) -> None:
    async with running(tmp_path / "new", ticket=signed(member), learner=True):
        pass
    key = (tmp_path / "new" / "identity.key").read_text()
    await member.control.remove(2)
    (tmp_path / "again").mkdir()
    (tmp_path / "again" / "identity.key").write_text(key)
    error = await refused(member, tmp_path / "again", ticket=signed(member))
    assert (error.code, "removed from the cluster" in str(error)) == ("removed", True)
    async with running(tmp_path / "other", ticket=signed(member), learner=True) as other:
        assert other.node_id == 3  # an id is not given away twice


async def test_a_ticket_of_a_removed_issuer_lets_nobody_in(member: Node, tmp_path: Path) -> None:
    async with running(tmp_path / "two", ticket=signed(member), learner=True) as two:
        await until(lambda: bool(two.consensus.roster.members), "it knows the members")
        ticket = signed(two)
    await member.control.remove(2)
    error = await refused(member, tmp_path / "new", ticket=ticket)
    assert (error.code, "no member of this cluster" in str(error)) == ("forged", True)


async def test_a_ticket_that_a_removed_node_may_have_seen_lets_nobody_in(
    member: Node, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is named in the ticket, so the holder shows it there, too; and the issuer is still a member."""
    monkeypatch.setattr("aspen.node.join.JOIN_TRY_MS", 0)
    async with running(tmp_path / "two", ticket=signed(member), learner=True) as two:
        await until(lambda: bool(two.consensus.roster.members), "it knows the members")
        ticket = signed(member)
        read = parse_ticket(ticket)
        assert isinstance(read, SignedTicket)
        assert two.identity.endpoint_id in [node.endpoint_id for node in read.ticket.nodes]
    await member.control.remove(2)
    error = await refused(member, tmp_path / "new", ticket=ticket)
    assert (error.code, "names a node that was removed since" in str(error)) == ("forged", True)
    async with running(tmp_path / "new", ticket=signed(member), learner=True) as new:
        assert new.node_id == 3


async def test_a_removed_node_is_no_peer_any_more(member: Node, tmp_path: Path) -> None:
    """Though it runs on and asks to be heard."""

    def peers() -> list[str]:
        return [peer.endpoint_id for peer in member.discovery.peers().peers]

    async with running(tmp_path / "two", ticket=signed(member), learner=True) as two:
        await until(lambda: bool(two.consensus.roster.members), "it knows the members")
        assert peers() == [two.identity.z32]
        await member.control.remove(2)
        assert peers() == []
        assert two.identity.endpoint_id not in member.address_book.peers()
        await until(lambda: bool(member._endpoint.refusals["removed"]), "it has come back, and was refused")
        assert peers() == []
        assert two.identity.endpoint_id not in [
            contact.endpoint_id for contact in member.discovery._contacts()
        ]


async def test_a_wrong_cookie_is_told(member: Node, tmp_path: Path) -> None:
    """The topic is of the cookie, so this takes a ticket that was tampered with."""
    plain = parse_ticket(member.discovery.ticket())
    assert isinstance(plain, Ticket)
    other = "another-cookie-entirely"
    ticket = dataclasses.replace(plain, topic=Cookie(other).derive(TOPIC_CONTEXT)).encode()
    error = await refused(member, tmp_path / "new", ticket=ticket, cookie=other)
    assert error.code == "wrong_cookie"


async def test_nobody_there(member: Node, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("aspen.node.join.JOIN_TRY_MS", 0)
    nobody = Ticket(b"t" * 32, b"c" * 16, (TicketNode(STRANGER.endpoint_id, ((HOST, 9),)),))
    ticket = nobody.sign(STRANGER.endpoint_id, STRANGER.sign, NOW_S, b"n" * 16).encode()
    error = await refused(member, tmp_path / "new", ticket=ticket)
    assert (error.code, "none of the 1 nodes" in str(error)) == ("unreachable", True)
    assert ticket not in str(error)


async def test_a_member_that_can_not_say_may_have_let_it_in(
    member: Node, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The key is kept then: it is a member's."""
    control = member.consensus.control
    add_learner = control.add_learner

    async def goes_unheard(*arguments: Any) -> None:
        await add_learner(*arguments)
        raise ControlPlaneError.OutcomeUnknown("no majority has answered in time")

    with monkeypatch.context() as patched:
        patched.setattr("aspen.node.join.JOIN_TRY_MS", 0)
        patched.setattr(control, "add_learner", goes_unheard)
        with pytest.raises(JoinError) as raised:
            await bootstrap_node(config(tmp_path / "new", ticket=signed(member)))
    assert raised.value.code == "unanswered"
    async with running(tmp_path / "new", ticket=signed(member)) as new:
        assert new.node_id == 2


@given(st.binary(max_size=400))
def test_garbage_is_no_request_and_no_answer(frame: bytes) -> None:
    for read in (decode_request, decode_answer):
        with contextlib.suppress(InputError):
            read(frame)


@pytest.mark.parametrize(
    "request_",
    [
        JoinRequest("", -1, ()),
        JoinRequest("", RAFT_NODE_ID + 1, ()),
        JoinRequest("x" * 9_000, 0, ()),
        JoinRequest("", 0, (("", 1),)),
        JoinRequest("", 0, (("h", 0),)),
        JoinRequest("", 0, (("h", 1),) * 17),
    ],
)
def test_requests_are_bounded(request_: JoinRequest) -> None:
    with pytest.raises(InputError, match="out of bounds"):
        decode_request(encode(request_))


def test_a_newcomer_gets_the_node_id_after_all_others() -> None:
    assert [free_node_id(taken) for taken in ([], [1, 2], [7], [RAFT_NODE_ID - 1])] == [1, 3, 8, RAFT_NODE_ID]
    assert [free_node_id(taken) for taken in ([RAFT_NODE_ID], [1, 2, RAFT_NODE_ID])] == [1, 3]


# --- strangers ------------------------------------------------------------------------------------


@asynccontextmanager
async def strangers_endpoint(member: Node, identity: Identity) -> AsyncIterator[Endpoint]:
    book = AddressBook()
    book.add(member.identity.endpoint_id, member.quic_address, "test")
    hello = Hello(PROTOCOL_VERSION, bytes(16), 0, os.urandom(8))
    service = Service(alpn=ALPN_TICKET, hello=lambda: hello, admit=lambda peer: None, open_to_strangers=True)
    endpoint = Endpoint(identity=identity, cookies=None, services=[service], address_book=book)
    await endpoint.start(HOST, 0)
    try:
        yield endpoint
    finally:
        await endpoint.close()


async def test_strangers_are_few_and_short_of_time(member: Node, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("aspen.node.door.JOIN_ASK_MS", 1_500)
    inside = member._endpoint.channel(ALPN_TICKET)
    endpoints = [strangers_endpoint(member, Identity.generate()) for _ in range(JOIN_STRANGERS + 2)]
    opened = [await endpoint.__aenter__() for endpoint in endpoints]
    try:
        opening: list[Coroutine[Any, Any, Any]] = [
            endpoint.channel(ALPN_TICKET).open_stream(member.identity.endpoint_id) for endpoint in opened
        ]
        came = await asyncio.gather(*opening, return_exceptions=True)
        assert sum(not isinstance(stream, Exception) for stream in came) == JOIN_STRANGERS
        assert member._endpoint.refusals["too_many"] == 2
        assert not set(member.address_book.peers()) & {endpoint.identity.endpoint_id for endpoint in opened}
        await until(lambda: not inside.accepted_peers, "those who ask nothing are sent away")
    finally:
        for endpoint in endpoints:
            await endpoint.__aexit__(None, None, None)


async def test_a_stranger_has_its_own_time_whoever_came_before_it(
    member: Node, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One whose time is up takes nobody with it who came a moment ago."""
    there, inside = member.identity.endpoint_id, member._endpoint.channel(ALPN_TICKET)
    monkeypatch.setattr("aspen.node.door.JOIN_ASK_MS", 2_000)
    async with strangers_endpoint(member, Identity.generate()) as first:
        first.channel(ALPN_TICKET).dial(there)
        await until(lambda: inside.accepted_peers == 1, "the first is there")
        monkeypatch.setattr("aspen.node.door.JOIN_ASK_MS", 30_000)
        async with strangers_endpoint(member, Identity.generate()) as second:
            second.channel(ALPN_TICKET).dial(there)
            await until(lambda: inside.accepted_peers == 2, "so is the second")
            await until(lambda: inside.accepted_peers < 2, "the first has asked nothing")
            assert inside.accepted_peers == 1
            stream = await second.channel(ALPN_TICKET).open_stream(there)
            monkeypatch.setattr("aspen.node.door.JOIN_ASK_MS", 1_000)
            await stream.send(encode(JoinRequest("aspensigned", 0, ())))
            answer = decode_answer(await stream.receive() or b"")
            assert isinstance(answer, Declined)
            assert answer.code == "malformed"
            await until(lambda: not inside.accepted_peers, "it was answered, and stays too long")
    assert not member.door._guests


async def test_a_stranger_that_asks_on_and_on_goes_when_it_has_tried_for_long_enough(
    member: Node, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("aspen.node.door.JOIN_TRY_MS", 1_000)
    there, inside = member.identity.endpoint_id, member._endpoint.channel(ALPN_TICKET)
    async with strangers_endpoint(member, Identity.generate()) as endpoint:
        answers = []

        async def asks_on_and_on() -> None:
            while True:
                stream = await endpoint.channel(ALPN_TICKET).open_stream(there)
                await stream.send(encode(JoinRequest("aspensigned", 0, ())))
                answers.append(decode_answer(await stream.receive() or b""))
                stream.close()

        with pytest.raises((ConnectionError, InputError)):  # its stream or its connection was ended
            await asyncio.wait_for(asks_on_and_on(), 30)
        assert len(answers) > 1
        await until(lambda: not inside.accepted_peers, "its time to ask is up, too")


async def test_too_many_bad_tickets_and_none_is_looked_at(
    member: Node, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("aspen.node.join.JOIN_TRY_MS", 0)
    door = member.door
    door._wrong_tickets = RateLimiter(Rate(1 / 600, 3))
    async with strangers_endpoint(member, STRANGER) as endpoint:
        for _ in range(6):
            stream = await endpoint.channel(ALPN_TICKET).open_stream(member.identity.endpoint_id)
            await stream.send(encode(JoinRequest("aspensigned", 0, ())))
            await stream.receive()
            stream.close()
    assert door.answered == {"malformed": 4, "unavailable": 2}
    error = await refused(member, tmp_path / "new", ticket=signed(member))
    assert "too many asked here lately" in str(error)
    async with running(tmp_path / "new", ticket=member.discovery.ticket(), cookie=COOKIE) as new:
        assert new.node_id == 2  # who knows the cookie isn't held up
