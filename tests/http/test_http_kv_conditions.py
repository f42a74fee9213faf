"""Conditions, transactions, counters, leases, idempotency keys and pages over HTTP."""

from __future__ import annotations

import base64
import json
from typing import Any
from urllib.parse import quote

import pytest
from http_fakes import NODE_MS, Client, FakeCluster

from aspen.limits import KV_BATCH_KEYS, KV_COUNT_MAX, LEASE_TTL_MIN_MS
from aspen.state import kv_revisions
from aspen.state.kv_commands import KvSet


def b64(octets: bytes) -> str:
    return base64.b64encode(octets).decode()


A, B = b64(b"a"), b64(b"b")


async def post(client: Client, target: str, body: Any, **headers: str) -> Any:
    return await client.request("POST", target, json.dumps(body).encode(), **headers)


async def test_compare_and_swap_by_value_and_by_revision(client: Client, cluster: FakeCluster) -> None:
    assert (await client.put("/v1/kv/a?if_mod_revision=0", b"1")).json == {"revision": 1, "changed": 1}
    there = await client.put("/v1/kv/a?if_mod_revision=0", b"2")
    assert there.error == (409, "compare_failed")
    assert (there.json["revision"], there.json["current"]["value"]) == (1, b64(b"1"))
    assert (await client.put("/v1/kv/a?if_value=1", b"2")).status == 200
    assert (await client.put("/v1/kv/a?if_mod_revision=1", b"3")).error == (409, "compare_failed")
    assert (await client.request("DELETE", "/v1/kv/a?if_value=1")).error == (409, "compare_failed")
    assert (await client.request("DELETE", "/v1/kv/a?if_mod_revision=2")).json["changed"] == 1
    gone = await client.put("/v1/kv/a?if_value=2", b"3")
    assert (gone.error, gone.json["current"]) == ((409, "compare_failed"), None)
    assert cluster.entries == {}


async def test_a_number_is_counted_up(client: Client, cluster: FakeCluster) -> None:
    assert (await post(client, "/v1/kv/n", {})).json == {"revision": 1, "value": 1}
    assert (await post(client, "/v1/kv/n", {"delta": -5})).json == {"revision": 2, "value": -4}
    cluster.set(t=b"text")
    assert (await post(client, "/v1/kv/t", {})).error == (409, "not_a_number")
    assert (await post(client, "/v1/kv/n", {"delta": 2**63})).error == (400, "invalid_request")


async def test_a_transaction_does_one_thing_or_the_other(client: Client) -> None:
    txn = {
        "compare": [{"key": A, "exists": False}],
        "success": [{"op": "put", "key": A, "value": b64(b"1")}, {"op": "get", "key": A}],
        "failure": [{"op": "get", "key": A}, {"op": "delete", "key": B}],
    }
    first = (await post(client, "/v1/txn", txn)).json
    assert (first["succeeded"], first["revision"], first["results"][0]) == (
        True,
        1,
        {"op": "put", "changed": 1},
    )
    assert first["results"][1]["entry"]["version"] == 1
    second = (await post(client, "/v1/txn", txn)).json
    assert (second["succeeded"], second["revision"]) == (False, 1)
    assert second["results"][0]["entry"]["value"] == b64(b"1")
    assert second["results"][1] == {"op": "delete", "changed": 0}


async def test_keys_are_set_and_deleted_at_once(client: Client, cluster: FakeCluster) -> None:
    cluster.set(b=b"")
    answer = await post(client, "/v1/kv", {"pairs": [{"key": A, "value": ""}], "deletes": [B]})
    assert answer.json == {"revision": 2, "changed": 2}
    assert list(cluster.entries) == [b"a"]
    assert (await post(client, "/v1/kv", {"deletes": [A]})).json == {"revision": 3, "changed": 1}


async def test_a_range_is_deleted_command_by_command(
    client: Client, cluster: FakeCluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("aspen.state.kv.KV_DELETE_RANGE_KEYS", 2)
    cluster.set(pa=b"", pb=b"", pc=b"", q=b"")
    first = await client.request("DELETE", "/v1/kv?prefix=p")
    assert first.json == {"revision": 2, "changed": 2, "more": True}
    assert (await client.request("DELETE", "/v1/kv?prefix=p")).json["more"] is False
    assert (await client.request("DELETE", "/v1/kv?start=a&end=z")).json["changed"] == 1


# --- once ---------------------------------------------------------------------------------------


async def test_a_write_under_an_idempotency_key_is_done_once(client: Client, cluster: FakeCluster) -> None:
    first = await post(client, "/v1/kv/n", {}, Idempotency_Key="x")
    again = await post(client, "/v1/kv/n", {}, Idempotency_Key="x")
    assert first.json == again.json == {"revision": 1, "value": 1}
    assert ("aspen-replayed" in first.headers, again.headers["aspen-replayed"]) == (False, "true")
    other = await client.put("/v1/kv/n", b"9", Idempotency_Key="x")
    assert other.error == (409, "request_reused")
    assert (await client.put("/v1/kv/n", b"9", Idempotency_Key="y" * 129)).error == (400, "invalid_request")
    assert cluster.kv.reader.revision() == 1


# --- leases -------------------------------------------------------------------------------------


async def test_the_life_of_a_lease(client: Client, cluster: FakeCluster) -> None:
    granted = (await post(client, "/v1/leases", {"ttl_ms": 5_000})).json
    lease = granted["lease"]
    assert granted == {"lease": lease, "ttl_ms": 5_000, "revision": 0}
    await client.put(f"/v1/kv/a?lease={lease}", b"")
    cluster.time_ms = NODE_MS + 1_000
    shown = (await client.get(f"/v1/leases/{lease}")).json
    assert shown == {"lease": lease, "ttl_ms": 5_000, "remaining_ms": 4_000, "keys": 1, "attached": [A]}
    assert (await post(client, f"/v1/leases/{lease}", {})).json["ttl_ms"] == 5_000
    assert (await client.get(f"/v1/leases/{lease}")).json["remaining_ms"] == 5_000
    several = await post(client, "/v1/leases/keepalive", {"leases": [lease, 99]})
    assert several.json == {"renewed": [lease], "revision": 1}
    own = (await client.put("/v1/kv/b?ttl_ms=9000", b"")).json["lease"]
    listed = (await client.get("/v1/leases?limit=1")).json
    assert ([one["lease"] for one in listed["leases"]], listed["more"]) == ([lease], True)
    listed = (await client.get(f"/v1/leases?after={lease}")).json
    assert ([one["lease"] for one in listed["leases"]], listed["more"]) == ([own], False)
    revoked = await client.request("DELETE", f"/v1/leases/{lease}")
    assert revoked.json == {"lease": lease, "changed": 1, "revision": 3}
    assert (await client.get(f"/v1/leases/{lease}")).error == (404, "lease_not_found")
    assert (await client.get("/v1/kv/a")).status == 404


# --- pages --------------------------------------------------------------------------------------


async def test_pages_of_a_cursor_are_of_one_moment(client: Client, cluster: FakeCluster) -> None:
    cluster.apply(KvSet(tuple((b"%02d" % n, b"old") for n in range(10))))
    seen: list[tuple[bytes, bytes]] = []
    target = "/v1/kv?limit=3"
    while True:
        page = (await client.get(target)).json
        seen += [(base64.b64decode(e["key"]), base64.b64decode(e["value"])) for e in page["entries"]]
        cluster.apply(KvSet(((b"%02d" % (9 - len(seen) // 3), b"new"), (b"05x%d" % len(seen), b"new"))))
        await client.request("DELETE", "/v1/kv/04")
        assert (page["revision"], page["more"]) == (1, page["cursor"] is not None)
        if page["cursor"] is None:
            break
        target = f"/v1/kv?limit=3&cursor={page['cursor']}"
    assert seen == [(b"%02d" % n, b"old") for n in range(10)]


async def test_a_cursor_too_old_says_so(
    client: Client, cluster: FakeCluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(kv_revisions, "KV_HISTORY_EVENTS", 2)
    cluster.set(a=b"", b=b"", c=b"")
    cursor = (await client.get("/v1/kv?limit=1")).json["cursor"]
    for n in range(5):
        cluster.set(a=b"%d" % n)
    answer = await client.get(f"/v1/kv?cursor={cursor}")
    assert (answer.error, answer.json["revision"]) == ((410, "compacted"), 4)
    assert (await client.get("/v1/kv/a?revision=1")).error == (410, "compacted")
    assert base64.b64decode((await client.get("/v1/kv/a?revision=4")).json["value"]) == b"2"


async def test_scans_of_other_shapes(client: Client, cluster: FakeCluster) -> None:
    cluster.apply(KvSet(tuple((b"k%d" % n, b"v") for n in range(7))))

    async def keys(query: str) -> list[str]:
        page = (await client.get(f"/v1/kv?{query}")).json
        return [base64.b64decode(entry["key"]).decode() for entry in page["entries"]]

    assert await keys("start=k2&end=k5") == ["k2", "k3", "k4"]
    assert await keys("prefix=k&order=desc&limit=2") == ["k6", "k5"]
    assert await keys("prefix=k&order=desc&after=k2") == ["k1", "k0"]
    assert await keys("start=k1&end=k4&order=desc&after=k3") == ["k2", "k1"]
    page = (await client.get("/v1/kv?keys_only=true&limit=1")).json
    assert "value" not in page["entries"][0]
    assert page["entries"][0]["mod_revision"] == 1
    counted = (await client.get("/v1/kv?count_only=true")).json
    assert counted == {"count": 7, "more": False, "revision": 1, "cursor": None}
    counted = (await client.get("/v1/kv?count_only=true&limit=3")).json
    assert (counted["count"], counted["more"]) == (3, True)
    assert (await client.get(f"/v1/kv?cursor={counted['cursor']}")).json["count"] == 4


async def test_a_read_must_not_fall_behind(
    client: Client, cluster: FakeCluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("aspen.http.kv_access.KV_MIN_REVISION_MS", 20)
    cluster.set(a=b"")
    assert (await client.get("/v1/kv/a?consistency=stale&min_revision=1")).status == 200
    assert (await client.get("/v1/kv/a?consistency=stale&min_revision=2")).error == (409, "future_revision")
    assert (await client.get("/v1/kv/a?min_revision=2")).error == (409, "future_revision")
    assert (await client.get("/v1/kv/a?revision=2")).error == (409, "future_revision")


# --- what is wrong ------------------------------------------------------------------------------

PUT_A = {"op": "put", "key": A, "value": ""}


@pytest.mark.parametrize(
    ("method", "target", "body", "status", "code"),
    [
        ("PUT", "/v1/kv/a?if_value=1&if_mod_revision=1", b"", 400, "invalid_request"),
        ("PUT", "/v1/kv/a?if_value=1&ttl_ms=5000", b"", 400, "bad_query"),
        ("PUT", "/v1/kv/a?if_mod_revision=x", b"", 400, "bad_query"),
        ("PUT", "/v1/kv/a?ttl_ms=1", b"", 400, "invalid_request"),
        ("PUT", "/v1/kv/a?ttl_ms=99999999999999", b"", 400, "bad_query"),
        ("PUT", "/v1/kv/a?ttl_ms=5000&lease=1", b"", 400, "invalid_request"),
        ("PUT", "/v1/kv/a?lease=7", b"", 404, "lease_not_found"),
        ("POST", "/v1/kv/a", b'{"delta": 1.5}', 400, "bad_json"),
        ("POST", "/v1/kv/a", b'{"delta": 1, "x": 1}', 400, "bad_json"),
        ("POST", "/v1/kv", {"pairs": [{"key": A, "value": ""}], "deletes": [A]}, 400, "invalid_request"),
        ("POST", "/v1/kv", {"deletes": [A], "ttl_ms": 5_000}, 400, "invalid_request"),
        ("DELETE", "/v1/kv?prefix=a&start=b", None, 400, "bad_query"),
        ("POST", "/v1/txn", {}, 400, "invalid_request"),
        ("POST", "/v1/txn", {"success": [PUT_A, PUT_A]}, 400, "invalid_request"),
        ("POST", "/v1/txn", {"success": [{"op": "put", "key": A}]}, 400, "invalid_request"),
        ("POST", "/v1/txn", {"success": [{"op": "get", "key": A, "value": ""}]}, 400, "invalid_request"),
        ("POST", "/v1/txn", {"success": [{"op": "steal", "key": A}]}, 400, "bad_json"),
        ("POST", "/v1/txn", {"success": [{"op": "get", "key": ""}]}, 400, "empty_key"),
        ("POST", "/v1/txn", {"success": [{"op": "get", "key": A}] * 101}, 413, "batch_too_large"),
        ("POST", "/v1/txn", {"compare": [{"key": A}], "success": [PUT_A]}, 400, "invalid_request"),
        (
            "POST",
            "/v1/txn",
            {"compare": [{"key": A, "version": 1, "lease": 1}], "success": [PUT_A]},
            400,
            "invalid_request",
        ),
        (
            "POST",
            "/v1/txn",
            {"compare": [{"key": A, "is": "<", "exists": True}], "success": [PUT_A]},
            400,
            "invalid_request",
        ),
        (
            "POST",
            "/v1/txn",
            {"compare": [{"key": A, "version": -1}], "success": [PUT_A]},
            400,
            "invalid_request",
        ),
        ("GET", "/v1/kv?prefix=a&start=b", None, 400, "bad_query"),
        ("GET", "/v1/kv?order=up", None, 400, "bad_query"),
        ("GET", "/v1/kv?keys_only=1", None, 400, "bad_query"),
        ("GET", "/v1/kv?cursor=nonsense", None, 400, "bad_query"),
        ("GET", "/v1/kv?cursor=", None, 400, "bad_query"),
        ("GET", "/v1/kv?cursor=lgHEAMDCwsI&prefix=a", None, 400, "bad_query"),
        ("GET", "/v1/kv?prefix=" + "a" * 501, None, 400, "bad_query"),
        ("GET", f"/v1/kv?count_only=true&limit={KV_COUNT_MAX + 1}", None, 400, "bad_query"),
        ("GET", "/v1/watch?from=x", None, 400, "bad_query"),
        ("GET", "/v1/watch?key=a&prefix=b", None, 400, "bad_query"),
        ("GET", "/v1/watch?key=", None, 400, "empty_key"),
        ("POST", "/v1/leases", {"ttl_ms": LEASE_TTL_MIN_MS - 1}, 400, "invalid_request"),
        ("POST", "/v1/leases", {}, 400, "bad_json"),
        ("POST", "/v1/leases/1", {}, 404, "lease_not_found"),
        ("POST", "/v1/leases/keepalive", {"leases": []}, 413, "batch_too_large"),
        ("POST", "/v1/leases/keepalive", {"leases": [0]}, 400, "invalid_request"),
        ("GET", "/v1/leases/0", None, 400, "invalid_request"),
        ("GET", "/v1/leases/x", None, 400, "invalid_request"),
        ("DELETE", "/v1/leases/5", None, 404, "lease_not_found"),
    ],
)
async def test_each_bad_request_says_what_is_wrong_with_it(
    client: Client, cluster: FakeCluster, method: str, target: str, body: Any, status: int, code: str
) -> None:
    octets = json.dumps(body).encode() if isinstance(body, dict) else body
    answer = await client.request(method, target, octets)
    assert answer.error == (status, code)
    assert cluster.kv.reader.revision() == 0
    assert KV_BATCH_KEYS == 100


async def test_any_bytes_bound_a_range(client: Client, cluster: FakeCluster) -> None:
    key = bytes(range(256))
    cluster.apply(KvSet(((key, b""), (b"\xff\xff", b""))))
    page = (await client.get(f"/v1/kv?start={quote(key)}&end=%FF")).json
    assert [entry["key"] for entry in page["entries"]] == [b64(key)]
    page = (await client.get("/v1/kv?prefix=%FF")).json
    assert [entry["key"] for entry in page["entries"]] == [b64(b"\xff\xff")]
