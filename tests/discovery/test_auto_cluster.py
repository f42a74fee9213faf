"""`auto_cluster` with whole nodes in one process: founded by themselves, whatever is restarted meanwhile."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest
from ports import free_port
from test_join import HOST, config, until

from aspen.config import IrohConfig
from aspen.config.joined import read_joined
from aspen.errors import JoinError
from aspen.identity import Identity
from aspen.node import Node, bootstrap_node
from aspen.node.founding import RECORD_FILE

COOKIE = "founding-51e0-only-for-these-tests"


class Machines:
    """Each knows the cookie, the size, and where the first two are."""

    def __init__(self, base: Path, size: int, count: int) -> None:
        self.base = base
        self.size = size
        self.ports = [free_port() for _ in range(count)]
        self.said: list[list[str]] = [[] for _ in self.ports]

    def start(self, i: int, **settings: Any) -> asyncio.Task[Node]:
        places = [f"{HOST}:{port}" for port in self.ports[:2]]
        wanted = config(
            self.base / f"machine-{i}",
            **{
                "cookie": COOKIE,
                "quic_port": self.ports[i],
                "auto_cluster": self.size,
                "iroh": IrohConfig(enable_mdns=False, bootstrap_nodes=places),
                **settings,
            },
        )
        return asyncio.ensure_future(bootstrap_node(wanted, on_join=self.said[i].append))


async def stop(*nodes: Node) -> None:
    await asyncio.gather(*(node.shutdown() for node in nodes))


def promises(base: Path) -> list[Path]:
    """What lies on the machines' disks."""
    return list(base.glob(f"*/{RECORD_FILE}"))


def voters(node: Node) -> tuple[int, ...]:
    return node.consensus.roster.conf_state.voters


async def test_three_found_a_cluster_and_later_ones_take_what_places_there_are(tmp_path: Path) -> None:
    machines = Machines(tmp_path, size=3, count=5)
    starting = [machines.start(i) for i in range(3)]
    # One is restarted while it waits.
    await until(lambda: bool(machines.said[2]), "it waits")
    starting[2].cancel()
    await asyncio.gather(starting[2], return_exceptions=True)
    starting[2] = machines.start(2)
    nodes = await asyncio.gather(*starting)
    try:
        await until(lambda: all(voters(node) == (1, 2, 3) for node in nodes), "all know all")
        assert len({node.consensus.cluster_id for node in nodes}) == 1
        assert sorted(node.node_id for node in nodes) == [1, 2, 3]
        assert [node.identity.endpoint_id for node in sorted(nodes, key=lambda n: n.node_id)] == sorted(
            node.identity.endpoint_id for node in nodes
        )

        late = await machines.start(3)
        nodes.append(late)
        await until(lambda: "learner beside 3 voters" in machines.said[3][-1], "the fourth has come too late")
        gone = next(node for node in nodes if node.node_id == 2)
        await late.control.remove(2)
        await stop(gone)
        replacement = await machines.start(4)
        nodes.append(replacement)
        await until(lambda: voters(replacement) == (1, 3, 5), "the fifth takes the place of the one removed")
    finally:
        await stop(*nodes)


async def test_node_ids_that_are_given_are_kept(tmp_path: Path) -> None:
    machines = Machines(tmp_path, size=2, count=2)
    nodes = await asyncio.gather(machines.start(0, node_id=8), machines.start(1))
    try:
        assert [node.node_id for node in nodes] == [8, 1]
        assert not promises(tmp_path)  # all is fulfilled
        await until(lambda: all(voters(node) == (1, 8) for node in nodes), "both know both")
    finally:
        await stop(*nodes)


async def test_peers_that_promised_nothing_are_no_members(tmp_path: Path) -> None:
    """They tell where to look; whoever is there."""
    machines = Machines(tmp_path, size=2, count=2)
    absent = [f"{2 + i}@{Identity.generate().z32}@{HOST}:{1 + i}" for i in range(70)]
    nodes = await asyncio.gather(*(machines.start(i, peers=absent) for i in range(2)))
    try:
        await until(lambda: all(voters(node) == (1, 2) for node in nodes), "both know both, and no others")
    finally:
        await stop(*nodes)


async def test_node_ids_are_those_agreed_on_whatever_peers_say(tmp_path: Path) -> None:
    """Who lists one or two, so that all hear of all, can't know in which order the keys will be."""
    machines = Machines(tmp_path, size=3, count=3)
    keys = [Identity.load_or_create(tmp_path / f"machine-{i}" / "identity.key").endpoint_id for i in range(3)]
    order = sorted(range(3), key=lambda i: keys[i])
    peers = [f"{3 - n}@{keys[i].hex()}@{HOST}:{machines.ports[i]}" for n, i in enumerate(order)]
    nodes = await asyncio.gather(*(machines.start(i, peers=peers) for i in range(3)))
    try:
        await until(lambda: all(voters(node) == (1, 2, 3) for node in nodes), "all know all")
        assert [nodes[i].node_id for i in order] == [1, 2, 3]
    finally:
        await stop(*nodes)


async def test_a_promise_outlives_the_process(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The founder dies with all promises; who made them wait for it, and it founds."""
    machines = Machines(tmp_path, size=2, count=2)

    def dies(*_: object) -> None:
        raise OSError("the power fails")

    with monkeypatch.context() as patched:
        patched.setattr("aspen.node.enter.write_joined", dies)
        starting = [machines.start(i) for i in range(2)]
        done, waiting = await asyncio.wait(starting, return_when=asyncio.FIRST_COMPLETED, timeout=60)
        (founder,) = (i for i, task in enumerate(starting) if task in done)
        with pytest.raises(OSError, match="power"):
            await done.pop()
        for task in waiting:
            task.cancel()
        await asyncio.gather(*waiting, return_exceptions=True)
    assert all(read_joined(tmp_path / f"machine-{i}") is None for i in range(2))
    promised = (tmp_path / f"machine-{1 - founder}" / RECORD_FILE).read_text()
    assert '"promised_ballot":1' in promised
    nodes = await asyncio.gather(*(machines.start(i) for i in range(2)))
    try:
        await until(lambda: all(voters(node) == (1, 2) for node in nodes), "both know both")
    finally:
        await stop(*nodes)


async def test_a_member_that_lost_its_data_is_told_so(tmp_path: Path) -> None:
    machines = Machines(tmp_path, size=2, count=3)
    nodes = await asyncio.gather(machines.start(0), machines.start(1))
    try:
        await until(lambda: all(node.consensus.leader_id for node in nodes), "they have a leader")
        key = (tmp_path / "machine-0" / "identity.key").read_text()
        (tmp_path / "machine-2").mkdir()
        (tmp_path / "machine-2" / "identity.key").write_text(key)
        with pytest.raises(JoinError, match=r"a voter already, as node \d, whose data is not here"):
            await machines.start(2)
    finally:
        await stop(*nodes)
