"""Changing the cluster over HTTP: what is asked reaches the control as meant, and errors tell the outcome."""

from __future__ import annotations

import json
from typing import Any

import pytest
from http_fakes import Answer, Client, FakeCluster, Serve

from aspen.errors import AspenError, ControlPlaneError
from aspen.limits import CHECKPOINT_MS, CONTROL_MAX_MS, CONTROL_MS, HTTP_CONTROL_BYTES
from aspen.z32 import encode_key

KEY = bytes(range(32))
OWN = (1, b"k" * 32, (("127.0.0.1", 7300),))
MEMBER = {"node_id": 4, "endpoint_id": encode_key(KEY), "addresses": ["192.0.2.4:7300", "[2001:db8::4]:7300"]}
ADDRESSES = (("192.0.2.4", 7300), ("2001:db8::4", 7300))


async def post(client: Client, action: str, body: object = None, **headers: str) -> Answer:
    data = b"" if body is None else body if isinstance(body, bytes) else json.dumps(body).encode()
    return await client.request("POST", f"/v1/cluster/{action}", data, **headers)


@pytest.mark.parametrize(
    ("action", "body", "asked"),
    [
        ("init", None, ("found", [OWN])),
        ("init", {"members": [MEMBER]}, ("found", [OWN, (4, KEY, ADDRESSES)])),
        ("add-learner", MEMBER, ("add_learner", 4, KEY, ADDRESSES, CONTROL_MS)),
        (
            "add-learner",
            {"node_id": 4, "endpoint_id": KEY.hex(), "timeout_ms": 7},
            ("add_learner", 4, KEY, (), 7),
        ),
        ("promote", {"node_id": 4}, ("promote", 4, CONTROL_MS)),
        ("remove", {"node_id": 4, "timeout_ms": 0}, ("remove", 4, 0)),
        (
            "change-membership",
            {"members": [3, 1, 2]},
            ("change_membership", frozenset({1, 2, 3}), CONTROL_MS),
        ),
        ("transfer-leader", {"node_id": 2}, ("transfer_leader", 2, CONTROL_MS)),
    ],
)
async def test_what_is_asked_is_done_and_the_status_comes_back(
    client: Client, cluster: FakeCluster, action: str, body: Any, asked: tuple[Any, ...]
) -> None:
    answer = await post(client, action, body)
    assert answer.status == 200
    assert answer.json["members"][0]["node_id"] == 1
    assert cluster.changes == [asked]


async def test_the_node_itself_is_not_named_twice(client: Client, cluster: FakeCluster) -> None:
    own = {"node_id": 1, "endpoint_id": OWN[1].hex(), "addresses": ["127.0.0.1:9"]}
    assert (await post(client, "init", {"members": [own]})).status == 200
    assert cluster.changes == [("found", [OWN])]


async def test_snapshot_and_check(client: Client, cluster: FakeCluster) -> None:
    answer = await post(client, "snapshot")
    assert answer.json == {"node_id": 1, "applied_index": 42, "first_index": 40}
    answer = await post(client, "check", {"timeout_ms": 5})
    assert answer.json["index"] == 42
    assert answer.json["alike"] is False
    assert answer.json["members"][1] == {"node_id": 2, "state": "silent", "hash": None, "reached": True}
    await post(client, "check")
    assert cluster.changes == [("check", 5), ("check", CHECKPOINT_MS)]


@pytest.mark.parametrize(
    ("error", "status", "code"),
    [
        (ControlPlaneError.InvalidRequest("no"), 400, "invalid_request"),
        (ControlPlaneError.NotInitialized("not yet"), 409, "not_initialized"),
        (ControlPlaneError.Failed("busy"), 409, "failed"),
        (ControlPlaneError.Timeout("late"), 503, "timeout"),
        (ControlPlaneError.NotLeader("elsewhere"), 503, "not_leader"),
        (ControlPlaneError.OutcomeUnknown("who knows"), 503, "outcome_unknown"),
    ],
)
async def test_errors_say_what_became_of_it(
    client: Client, cluster: FakeCluster, error: AspenError, status: int, code: str
) -> None:
    cluster.failure = error
    answer = await post(client, "promote", {"node_id": 2})
    assert answer.error == (status, code)
    assert answer.json["reason"] == str(error)
    assert ("retry-after" in answer.headers) is (status == 503)


async def test_a_cluster_that_is_founded_and_waits_is_not_said_to_be_unchanged(
    client: Client, cluster: FakeCluster
) -> None:
    cluster.failure = ControlPlaneError.Timeout("the cluster was founded, but has no leader yet")
    assert (await post(client, "init")).error == (503, "outcome_unknown")


@pytest.mark.parametrize(
    ("action", "body", "error"),
    [
        ("promote", b"", (400, "bad_json")),
        ("promote", b"{", (400, "bad_json")),
        ("promote", b"\xff", (400, "bad_json")),
        ("promote", {"node_id": 0}, (400, "bad_json")),
        ("promote", {"node_id": 2**53}, (400, "bad_json")),
        ("promote", {"node_id": 1, "why": "not"}, (400, "bad_json")),
        ("promote", {"node_id": 1, "timeout_ms": CONTROL_MAX_MS + 1}, (400, "bad_json")),
        ("change-membership", {"members": "1"}, (400, "bad_json")),
        ("add-learner", MEMBER | {"endpoint_id": "no key"}, (400, "invalid_request")),
        ("add-learner", MEMBER | {"addresses": ["nowhere"]}, (400, "invalid_request")),
        ("add-learner", MEMBER | {"addresses": ["h:65536"]}, (400, "invalid_request")),
        ("promote", b" " * (HTTP_CONTROL_BYTES + 1), (413, "too_large")),
    ],
)
async def test_what_makes_no_sense_never_reaches_the_control(
    client: Client, cluster: FakeCluster, action: str, body: Any, error: tuple[int, str]
) -> None:
    assert (await post(client, action, body)).error == error
    assert cluster.changes == []


async def test_only_posts_and_only_by_admins(client: Client, cluster: FakeCluster, serve: Serve) -> None:
    assert (await client.get("/v1/cluster/promote")).error == (405, "method_not_allowed")
    assert (await post(client, "promote?node_id=1", {"node_id": 1})).error == (400, "bad_query")
    assert (await post(client, "promote", {"node_id": 1}, Origin="https://example.org")).error == (
        403,
        "cross_origin",
    )
    guarded = await serve(admin_token="correct horse battery staple")
    assert (await post(Client(guarded.address), "remove", {"node_id": 1})).error == (401, "unauthorized")
    open_to_all = await serve(listen=("0.0.0.0", 0))
    assert (await post(Client(("127.0.0.1", open_to_all.address[1])), "init")).status in (404, 405)
    assert cluster.changes == []
