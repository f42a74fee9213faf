"""The key-value routes: any bytes as keys, limits, consistency, errors."""

from __future__ import annotations

import base64
import json
from urllib.parse import quote

import pytest
from http_fakes import Client, FakeCluster
from hypothesis import given
from hypothesis import strategies as st

from aspen.errors import HttpError, NoLeader, NotLeader, OutcomeUnknown, Overloaded
from aspen.http.request import unquote
from aspen.limits import HTTP_BODY_BYTES, KV_BATCH_KEYS, KV_KEY_BYTES, KV_SCAN_MAX, KV_VALUE_BYTES
from aspen.state.kv_commands import KvSet
from aspen.state.ports import Consistency

OCTETS = "application/octet-stream"


def path(key: bytes) -> str:
    return "/v1/kv/" + quote(key, safe="")


def b64(octets: bytes) -> str:
    return base64.b64encode(octets).decode()


async def test_a_value_goes_in_and_comes_out(client: Client) -> None:
    answer = await client.put("/v1/kv/greeting", b"hello")
    assert (answer.status, answer.json) == (200, {"revision": 1, "changed": 1})
    answer = await client.get("/v1/kv/greeting")
    assert answer.status == 200
    assert answer.json == {
        "key": b64(b"greeting"),
        "value": b64(b"hello"),
        "create_revision": 1,
        "mod_revision": 1,
        "version": 1,
        "lease": 0,
    }
    assert answer.headers["aspen-revision"] == "1"
    assert answer.headers["aspen-applied-index"] == "42"
    assert answer.headers["aspen-last-contact-ms"] == "7"
    assert answer.headers["aspen-known-leader"] == "1"
    assert answer.headers["cache-control"] == "no-store"
    assert "access-control-allow-origin" not in answer.headers
    raw = await client.get("/v1/kv/greeting", Accept=OCTETS)
    assert (raw.body, raw.headers["content-type"]) == (b"hello", OCTETS)
    head = await client.request("HEAD", "/v1/kv/greeting", Accept=OCTETS)
    assert (head.status, head.headers["content-length"]) == (200, "5")
    assert (await client.request("DELETE", "/v1/kv/greeting")).json == {"revision": 2, "changed": 1}
    assert (await client.request("DELETE", "/v1/kv/greeting")).json == {"revision": 2, "changed": 0}
    missing = await client.get("/v1/kv/greeting")
    assert missing.error == (404, "not_found")
    assert missing.headers["aspen-revision"] == "2"


@pytest.mark.parametrize(
    "key",
    [
        b"/",
        b"a/b/c",
        b"//",
        b"%2F",
        b"%",
        b"\0",
        bytes(range(256)),
        b"\xff\xfe",
        "grüße".encode(),
        b" ",
        b"+",
        b"a+b c",
        b"?x=1#y",
        b".",
        b"..",
        b"a/../b",
        b"\r\nHost: evil",
        b"k" * KV_KEY_BYTES,
    ],
)
async def test_any_bytes_are_a_key(client: Client, cluster: FakeCluster, key: bytes) -> None:
    assert (await client.put(path(key), key)).status == 200
    assert list(cluster.entries) == [key]
    answer = await client.get(path(key))
    assert base64.b64decode(answer.json["key"]) == key
    assert base64.b64decode(answer.json["value"]) == key
    page = await client.get(f"/v1/kv?prefix={quote(key[:3], safe='')}")
    assert [base64.b64decode(entry["key"]) for entry in page.json["entries"]] == [key]
    assert (await client.request("DELETE", path(key))).json["changed"] == 1


async def test_what_need_not_be_escaped_may_be_or_not(client: Client) -> None:
    await client.put("/v1/kv/a/b", b"x")
    for spelling in ("a/b", "a%2Fb", "a%2fb", "%61/%62"):
        assert (await client.get(f"/v1/kv/{spelling}")).status == 200
    assert (await client.get("/v1/kv//a/b")).status == 404


@given(st.binary(max_size=40))
def test_unquoting_undoes_quoting(key: bytes) -> None:
    assert unquote(quote(key, safe="")) == key
    assert unquote(quote(key)) == key


@given(st.text(max_size=20))
def test_unquoting_raises_nothing_else(text: str) -> None:
    try:
        unquote(text)
    except HttpError:
        pass


@pytest.mark.parametrize(
    ("method", "target", "body", "status", "code"),
    [
        ("PUT", "/v1/kv/", b"x", 400, "empty_key"),
        ("GET", "/v1/kv/", None, 400, "empty_key"),
        ("DELETE", "/v1/kv/", None, 400, "empty_key"),
        ("PUT", path(b"k" * (KV_KEY_BYTES + 1)), b"x", 400, "key_too_large"),
        ("GET", path(b"k" * (KV_KEY_BYTES + 1)), None, 400, "key_too_large"),
        ("PUT", "/v1/kv/_system:x", b"x", 403, "reserved_key"),
        ("DELETE", "/v1/kv/%5Fsystem:x", None, 403, "reserved_key"),
        ("PUT", "/v1/kv/k", bytes(KV_VALUE_BYTES + 1), 413, "value_too_large"),
        ("PUT", "/v1/kv/a%2", b"x", 400, "bad_escape"),
        ("PUT", "/v1/kv/a%zz", b"x", 400, "bad_escape"),
        ("PUT", "/v1/kv/a?ttl=5", b"x", 400, "bad_query"),
        ("GET", "/v1/kv/a?consistency=perhaps", None, 400, "bad_query"),
        ("GET", "/v1/kv/a?consistancy=stale", None, 400, "bad_query"),
        ("GET", "/v1/kv/a?consistency=stale&consistency=stale", None, 400, "bad_query"),
        ("GET", "/v1/kv?limit=0", None, 400, "bad_query"),
        ("GET", f"/v1/kv?limit={KV_SCAN_MAX + 1}", None, 400, "bad_query"),
        ("GET", "/v1/kv?limit=many", None, 400, "bad_query"),
        ("GET", "/v1/kv?limit=-1", None, 400, "bad_query"),
        ("GET", "/v1/kv?limit=" + "9" * 5_000, None, 400, "bad_query"),
        ("GET", "/v1/kv?" + "&" * 5_000, None, 400, "bad_query"),
        ("GET", "/v1/kv?%ff=1", None, 400, "bad_query"),
        ("POST", "/v1/kv", b"", 413, "batch_too_large"),
        ("POST", "/v1/kv", b"[]", 400, "bad_json"),
        ("POST", "/v1/kv", b"\xff", 400, "bad_json"),
        ("POST", "/v1/kv", b"[" * 100_000, 400, "bad_json"),
        ("POST", "/v1/kv", b'{"pairs": [{"key": "not base64!", "value": ""}]}', 400, "bad_json"),
        ("POST", "/v1/kv", b'{"pairs": [{"key": "YQ==", "value": "", "ttl": 5}]}', 400, "bad_json"),
        ("POST", "/v1/kv", b'{"pairs": []}', 413, "batch_too_large"),
        ("POST", "/v1/kv", b'{"pairs": [{"key": "", "value": ""}]}', 400, "empty_key"),
        ("POST", "/v1/kv", bytes(HTTP_BODY_BYTES + 1), 413, "too_large"),
        ("PATCH", "/v1/kv/a", b"x", 405, "method_not_allowed"),
        ("DELETE", "/v1/kv", None, 400, "bad_query"),
        ("OPTIONS", "/v1/kv/a", None, 405, "method_not_allowed"),
        ("GET", "/v1/kvs", None, 404, "not_found"),
        ("GET", "/v1/", None, 404, "not_found"),
    ],
)
async def test_each_bad_request_says_what_is_wrong(
    client: Client, cluster: FakeCluster, method: str, target: str, body: bytes | None, status: int, code: str
) -> None:
    answer = await client.request(method, target, body)
    assert answer.error == (status, code)
    assert cluster.commands == []


async def test_the_largest_value_fits(client: Client, cluster: FakeCluster) -> None:
    value = bytes(range(256)) * (KV_VALUE_BYTES // 256)
    assert (await client.put("/v1/kv/large", value)).status == 200
    assert (await client.get("/v1/kv/large", Accept=OCTETS)).body == value
    assert (await client.put("/v1/kv/empty", b"")).status == 200
    assert (await client.get("/v1/kv/empty", Accept=OCTETS)).body == b""


async def test_several_keys_all_or_none(client: Client, cluster: FakeCluster) -> None:
    pairs = [{"key": b64(b"%d" % n), "value": b64(bytes([n]))} for n in range(KV_BATCH_KEYS)]
    answer = await client.request("POST", "/v1/kv", json.dumps({"pairs": pairs}).encode())
    assert (answer.status, answer.json) == (200, {"revision": 1, "changed": KV_BATCH_KEYS})
    (command,) = cluster.commands
    assert isinstance(command, KvSet)
    pairs.append({"key": b64(b"one more"), "value": ""})
    answer = await client.request("POST", "/v1/kv", json.dumps({"pairs": pairs}).encode())
    assert answer.error == (413, "batch_too_large")


async def test_a_scan_goes_page_by_page(client: Client, cluster: FakeCluster) -> None:
    cluster.apply(KvSet(tuple((b"p/%d" % n, b"v") for n in range(5))))
    cluster.set(q=b"")
    seen, after = [], ""
    for _ in range(3):
        page = await client.get(f"/v1/kv?prefix=p/&limit=2{after}")
        assert (page.status, page.json["revision"], page.headers["aspen-revision"]) == (200, 2, "2")
        seen += [base64.b64decode(entry["key"]) for entry in page.json["entries"]]
        after = "&after=" + quote(seen[-1], safe="")
        more = page.json["more"]
    assert seen == [b"p/%d" % n for n in range(5)]
    assert more is False
    assert len((await client.get("/v1/kv")).json["entries"]) == 6


async def test_reads_are_linearizable_unless_asked_otherwise(client: Client, cluster: FakeCluster) -> None:
    cluster.set(k=b"")
    for target in ("/v1/kv/k", "/v1/kv"):
        cluster.barriers.clear()
        await client.get(target)
        assert cluster.barriers == [Consistency.CONSISTENT]
        for name in ("consistent", "leader"):
            await client.get(f"{target}?consistency={name}")
        assert cluster.barriers[1:] == [Consistency.CONSISTENT, Consistency.LEADER]
        cluster.failure = NoLeader("no leader is known")
        assert (await client.get(target)).error == (503, "no_leader")
        assert (await client.get(f"{target}?consistency=stale")).status == 200
        cluster.failure = None


@pytest.mark.parametrize(
    ("failure", "code"),
    [
        (NoLeader("no leader is known"), "no_leader"),
        (Overloaded("too much"), "overloaded"),
        (OutcomeUnknown("who knows"), "outcome_unknown"),
        (NotLeader(3), "not_leader"),
    ],
)
async def test_what_the_cluster_cannot_do_now_is_503(
    client: Client, cluster: FakeCluster, failure: Exception, code: str
) -> None:
    cluster.failure = failure
    for method, target, body in (
        ("PUT", "/v1/kv/k", b"x"),
        ("DELETE", "/v1/kv/k", None),
        ("GET", "/v1/kv/k", None),
    ):
        answer = await client.request(method, target, body)
        assert answer.error == (503, code)
        assert "retry-after" in answer.headers
        assert answer.json.get("leader_id") == (3 if code == "not_leader" else None)
