"""One request followed by its id: in its answer, and in the logs of every node that had to do with it."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from typing import Any

import pytest
from clients import sign
from cluster import Cluster, NodeProcess, running
from processes import wait_until


@pytest.fixture(scope="module")
def slow_cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    """Everything that takes a millisecond is slow here."""
    with running(tmp_path_factory.mktemp("slow"), 3, settings={"ASPEN_SLOW_OPERATION_MS": "1"}) as cluster:
        yield cluster


def lines(node: NodeProcess, **fields: Any) -> list[dict[str, Any]]:
    """What a node has logged, of those that have these fields."""
    told = [json.loads(line) for line in node.log().splitlines() if line.startswith("{")]
    return [line for line in told if all(line.get(name) == value for name, value in fields.items())]


def test_a_clients_id_is_followed_to_every_node(slow_cluster: Cluster) -> None:
    leader, follower = slow_cluster.leader(), slow_cluster.followers()[0]
    packet, request_id = sign("traced"), "order-66/a:b"
    answer = follower.request("PUT", packet.path, packet.payload, {"X-Request-Id": request_id})
    assert answer.status == 204
    assert answer.headers["x-request-id"] == request_id
    slow_cluster.wait_caught_up()
    (answered,) = lines(follower, event="request answered")
    assert (answered["request_id"], answered["method"], answered["status"]) == (request_id, "PUT", 204)
    stages = answered["stages_ms"]
    assert list(stages) == ["receive", "verify", "queue", "commit", "writer", "apply", "sync", "answer"]
    assert all(ms >= 0 for ms in stages.values())
    assert sum(stages.values()) == pytest.approx(answered["ms"], abs=0.5)
    (proposed,) = lines(follower, event="write proposed", request_id=request_id)
    assert proposed["leader"] == leader.node_id
    (forwarded,) = lines(leader, event="write forwarded", request_id=request_id)
    assert forwarded["sender"] == follower.node_id
    for node in slow_cluster:
        wait_until(
            lambda node=node: lines(node, event="write applied", request_id=request_id), "it is applied"
        )
    applied = [lines(node, event="write applied", request_id=request_id) for node in slow_cluster]
    assert {(len(each), each[0]["index"], each[0]["term"]) for each in applied} == {
        (1, applied[0][0]["index"], applied[0][0]["term"])
    }
    assert applied[0][0]["result"] == "PacketResult"
    # The leader's own client, too: nobody forwards that one.
    assert leader.request("PUT", "/v1/kv/k", b"v", {"X-Request-Id": "second"}).status == 200
    assert lines(leader, event="write proposed", request_id="second")
    assert not lines(leader, event="write forwarded", request_id="second")
    slow_cluster.wait_same_state()


def test_everyone_else_gets_an_id_that_costs_nothing(slow_cluster: Cluster) -> None:
    node = slow_cluster.leader()
    before = (node.status() or {})["applied_index"]
    for given in ({}, {"X-Request-Id": "no id\tat all"}, {"X-Request-Id": "x" * 65}):
        answer = node.request("PUT", "/v1/kv/untraced", b"v", given)
        assert re.fullmatch(r"[0-9a-f]{8}-[0-9a-f]+", answer.headers["x-request-id"])
    assert (node.status() or {})["applied_index"] == before + 3
    slow_cluster.wait_caught_up()
    assert all(
        line["request_id"] in ("order-66/a:b", "second")
        for node in slow_cluster
        for line in lines(node, event="write applied")
    )
    assert node.request("GET", "/nothing/here").headers["x-request-id"]
    assert node.request("GET", "/v1/kv/none").headers["x-request-id"]


def test_what_is_slow_is_logged_with_its_stages(slow_cluster: Cluster) -> None:
    node = slow_cluster.followers()[0]

    def put_is_slow() -> dict[str, Any] | None:
        answer = node.request("PUT", "/v1/kv/slow", b"v")
        slow = lines(node, event="slow operation", operation="http")
        return next((line for line in slow if line["request_id"] == answer.headers["x-request-id"]), None)

    slow = wait_until(put_is_slow, "a PUT that takes a millisecond", 20)
    assert (slow["path"], slow["level"]) == ("/v1/kv/slow", "warning")
    assert {"queue", "commit", "sync"} <= slow["stages_ms"].keys()
    commits = [
        line for node in slow_cluster for line in lines(node, event="slow operation", operation="commit")
    ]
    assert all(line["ms"] >= line["sync_ms"] >= 0 for line in commits)
