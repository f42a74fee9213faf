"""The pkarr relay as its clients see it: every status, header and reason."""

from __future__ import annotations

import asyncio

import pytest
from http_fakes import NODE_MS, Client, FakeCluster, Line, Serve
from nacl.bindings import crypto_sign

from aspen.errors import NoLeader, OutcomeUnknown, Overloaded, StorageError
from aspen.http.connection import HttpLimits
from aspen.identity import Identity
from aspen.limits import PKARR_FUTURE_MS, PKARR_RENEW_PART, PKARR_RETENTION_MS
from aspen.pkarr.packet import SignedPacket, signable
from aspen.pkarr.records import build_message
from aspen.state.commands import Rejected
from aspen.state.packet_commands import PacketOutcome, PacketPut, PacketResult

ALICE = Identity.from_seed(bytes(range(32)))
BOB = Identity.from_seed(bytes(range(1, 33)))
NOW_US = NODE_MS * 1_000
MESSAGE = build_message(ALICE.endpoint_id, ['_iroh TXT "relay=https://relay.example./"'])
PACKET = SignedPacket.sign(ALICE, MESSAGE, NOW_US)
PATH = f"/pkarr/{ALICE.z32}"


def signed(message: bytes, timestamp_us: int = NOW_US, identity: Identity = ALICE) -> bytes:
    signature = crypto_sign(signable(timestamp_us, message), identity.seed + identity.endpoint_id)[:64]
    return signature + timestamp_us.to_bytes(8, "big") + message


# --- PUT --------------------------------------------------------------------------------------


@pytest.mark.parametrize("path", [PATH, f"/{ALICE.z32}"])
async def test_a_packet_goes_in_and_comes_out(client: Client, cluster: FakeCluster, path: str) -> None:
    answer = await client.put(path, PACKET.payload)
    assert (answer.status, answer.body) == (204, b"")
    assert cluster.commands == [PacketPut(ALICE.endpoint_id, PACKET.payload)]
    answer = await client.get(path)
    assert (answer.status, answer.body) == (200, PACKET.payload)


async def test_an_identical_packet_that_is_fresh_costs_no_log_entry(
    client: Client, cluster: FakeCluster
) -> None:
    for _ in range(3):
        assert (await client.put(PATH, PACKET.payload)).status == 204
    assert len(cluster.commands) == 1


async def test_an_identical_packet_not_seen_for_long_renews_it(client: Client, cluster: FakeCluster) -> None:
    await client.put(PATH, PACKET.payload)
    record = cluster.packets[ALICE.endpoint_id]
    cluster.packets[ALICE.endpoint_id] = record._replace(
        received_at_ms=NODE_MS - PKARR_RETENTION_MS // PKARR_RENEW_PART
    )
    assert (await client.put(PATH, PACKET.payload)).status == 204
    assert len(cluster.commands) == 2


async def test_an_older_packet_is_refused_without_asking_the_cluster(
    client: Client, cluster: FakeCluster
) -> None:
    await client.put(PATH, PACKET.payload)
    answer = await client.put(PATH, signed(MESSAGE, NOW_US - 1))
    assert answer.error == (409, "older")
    assert answer.json["stored_timestamp_us"] == NOW_US
    assert len(cluster.commands) == 1


async def test_of_equal_timestamps_the_larger_message_wins(client: Client) -> None:
    small, large = sorted(build_message(ALICE.endpoint_id, [f"@ A 192.0.2.{n}"]) for n in (1, 2))
    assert (await client.put(PATH, signed(small))).status == 204
    assert (await client.put(PATH, signed(large))).status == 204
    assert (await client.put(PATH, signed(small))).error == (409, "older")


async def test_a_packet_the_cluster_finds_older_is_refused(client: Client, cluster: FakeCluster) -> None:
    cluster.answer = PacketResult(PacketOutcome.OLDER, NOW_US + 5)  # not yet applied here when compared
    answer = await client.put(PATH, PACKET.payload)
    assert answer.error == (409, "older")
    assert answer.json["stored_timestamp_us"] == NOW_US + 5


async def test_a_tombstone_is_no_packet_but_holds_off_older_ones(
    client: Client, cluster: FakeCluster
) -> None:
    await client.put(PATH, PACKET.payload)
    record = cluster.packets[ALICE.endpoint_id]
    cluster.packets[ALICE.endpoint_id] = record._replace(tombstone=True)
    assert (await client.get(PATH)).error == (404, "not_found")
    assert (await client.put(PATH, signed(MESSAGE, NOW_US - 1))).error == (409, "older")
    assert len(cluster.commands) == 1


BAD_PUTS = [
    ("an upper-case key", ALICE.z32.upper(), PACKET.payload, 400, "key"),
    ("a short key", ALICE.z32[:-1], PACKET.payload, 400, "key"),
    ("a long key", ALICE.z32 + "y", PACKET.payload, 400, "key"),
    ("no key", "", PACKET.payload, 400, "key"),
    ("a key with non-zero padding", ALICE.z32[:-1] + "b", PACKET.payload, 400, "key"),
    ("a character outside the alphabet", "l" + ALICE.z32[1:], PACKET.payload, 400, "key"),
    ("an escaped key", "%79" * 52, PACKET.payload, 400, "key"),
    ("a key that is no curve point", "9" * 51 + "o", PACKET.payload, 400, "key"),
    ("another's key", BOB.z32, PACKET.payload, 400, "signature"),
    ("an empty body", ALICE.z32, b"", 400, "size"),
    ("no message", ALICE.z32, PACKET.payload[:72], 400, "size"),
    (
        "one bit of R flipped",
        ALICE.z32,
        bytes([PACKET.payload[0] ^ 1]) + PACKET.payload[1:],
        400,
        "signature",
    ),
    ("one bit of the message flipped", ALICE.z32, PACKET.payload[:-1] + b"\1", 400, "signature"),
    ("unsigned trailing bytes", ALICE.z32, PACKET.payload + b"\0", 400, "signature"),
    ("signed trailing bytes", ALICE.z32, signed(MESSAGE + b"\0"), 400, "dns"),
    ("not DNS", ALICE.z32, signed(b"this is not a DNS message"), 400, "dns"),
    (
        "a compression loop",
        ALICE.z32,
        signed(bytes.fromhex("0000840000010000000000000161c00c00100001")),
        400,
        "dns",
    ),
    (
        "a pointer to itself",
        ALICE.z32,
        signed(bytes.fromhex("000084000001000000000000c00c00100001")),
        400,
        "dns",
    ),
    ("a message of 1001 bytes", ALICE.z32, signed(MESSAGE + bytes(1001 - len(MESSAGE))), 413, "size"),
    ("timestamp 0", ALICE.z32, signed(MESSAGE, 0), 400, "timestamp"),
    ("timestamp 2^64-1", ALICE.z32, signed(MESSAGE, 2**64 - 1), 400, "timestamp"),
    ("timestamp 2^63-1", ALICE.z32, signed(MESSAGE, 2**63 - 1), 400, "timestamp"),
    ("the future", ALICE.z32, signed(MESSAGE, NOW_US + PKARR_FUTURE_MS * 1_000 + 1), 400, "timestamp"),
]


@pytest.mark.parametrize(
    ("key", "body", "status", "code"), [row[1:] for row in BAD_PUTS], ids=[row[0] for row in BAD_PUTS]
)
@pytest.mark.parametrize("prefix", ["/pkarr/", "/"])
async def test_each_bad_put_says_what_is_wrong(
    client: Client, cluster: FakeCluster, prefix: str, key: str, body: bytes, status: int, code: str
) -> None:
    answer = await client.put(prefix + key, body)
    assert answer.error == (status, code)
    assert answer.headers["access-control-allow-origin"] == "*"
    assert cluster.commands == []
    assert (await client.get("/healthz")).status == 200


HEAD = f"PUT {PATH} HTTP/1.1\r\nHost: a\r\n"
BAD_BODIES = [
    ("a gigabyte announced", "Content-Length: 1073741824\r\n\r\n", b"", False, 413, "size"),
    (
        "a gigabyte in chunks",
        "Transfer-Encoding: chunked\r\n\r\n",
        b"4000\r\n" + bytes(0x4000) + b"\r\n",
        False,
        413,
        "size",
    ),
    ("half-closed", "Content-Length: 300\r\n\r\n", PACKET.payload[:100], True, 400, "bad_body"),
    ("never the rest", "Content-Length: 300\r\n\r\n", PACKET.payload[:100], False, 408, "timeout"),
    (
        "compressed",
        "Content-Encoding: gzip\r\nContent-Length: 3\r\n\r\n",
        b"abc",
        False,
        415,
        "content_encoding",
    ),
    ("no length at all", "\r\n", b"", False, 400, "size"),
]


@pytest.mark.parametrize(
    ("head", "sent", "end", "status", "code"), [row[1:] for row in BAD_BODIES], ids=[r[0] for r in BAD_BODIES]
)
async def test_each_bad_body_says_what_is_wrong(
    serve: Serve, cluster: FakeCluster, head: str, sent: bytes, end: bool, status: int, code: str
) -> None:
    server = await serve(limits=HttpLimits(body_ms=200))
    line = await Line.open(server.address)
    await line.send((HEAD + head).encode() + sent)
    if end:
        line.writer.write_eof()
    assert (await line.answer()).error == (status, code)
    assert cluster.commands == []


async def test_a_body_of_a_byte_now_and_then_is_given_up(serve: Serve, cluster: FakeCluster) -> None:
    server = await serve(limits=HttpLimits(body_ms=200))
    line = await Line.open(server.address)
    await line.send((HEAD + f"Content-Length: {len(PACKET.payload)}\r\n\r\n").encode())

    async def dribble() -> None:
        for octet in PACKET.payload:
            await line.send(bytes((octet,)))
            await asyncio.sleep(0.02)

    dribbling = asyncio.create_task(dribble())
    assert (await line.answer()).error == (408, "timeout")
    dribbling.cancel()
    await asyncio.wait({dribbling})
    assert cluster.commands == []


async def test_the_near_future_is_accepted(client: Client) -> None:
    assert (await client.put(PATH, signed(MESSAGE, NOW_US + PKARR_FUTURE_MS * 1_000))).status == 204


@pytest.mark.parametrize(
    ("failure", "code"),
    [
        (NoLeader("no leader is known"), "no_leader"),
        (Overloaded("too many writes are waiting"), "overloaded"),
        (OutcomeUnknown("the leader changed"), "outcome_unknown"),
        (StorageError("the disk is full"), "storage"),
    ],
)
async def test_what_the_cluster_cannot_do_now_is_503(
    client: Client, cluster: FakeCluster, failure: Exception, code: str
) -> None:
    cluster.failure = failure
    answer = await client.put(PATH, PACKET.payload)
    assert answer.error == (503, code)
    assert int(answer.headers["retry-after"]) >= 1


async def test_a_rejected_command_and_a_bug(client: Client, cluster: FakeCluster) -> None:
    cluster.answer = Rejected("unlikely")
    assert (await client.put(PATH, PACKET.payload)).error == (400, "rejected")
    cluster.failure = ZeroDivisionError("a secret of the implementation")
    answer = await client.put(PATH, PACKET.payload)
    assert answer.error == (500, "internal")
    assert b"secret" not in answer.body


async def test_put_is_answered_only_after_replication(client: Client, cluster: FakeCluster) -> None:
    cluster.held = asyncio.Event()
    putting = asyncio.create_task(client.put(PATH, PACKET.payload))
    done, _ = await asyncio.wait({putting}, timeout=0.05)
    assert not done
    cluster.held.set()
    assert (await putting).status == 204


# --- GET and HEAD -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("path", "accept", "media_type"),
    [
        (PATH, "*/*", "application/x-pkarr-signed-packet"),
        (f"/{ALICE.z32}", "*/*", "application/pkarr.org/relays#payload"),
        (PATH, "application/pkarr.org/relays#payload", "application/pkarr.org/relays#payload"),
        (f"/{ALICE.z32}", "application/x-pkarr-signed-packet", "application/x-pkarr-signed-packet"),
        (PATH, "text/html", "application/x-pkarr-signed-packet"),
    ],
)
async def test_the_content_type_is_that_of_the_path_or_of_accept(
    client: Client, path: str, accept: str, media_type: str
) -> None:
    await client.put(PATH, PACKET.payload)
    answer = await client.get(path, Accept=accept)
    assert (answer.status, answer.headers["content-type"]) == (200, media_type)
    assert answer.headers["vary"] == "Accept"


async def test_a_get_says_how_old_it_is_and_how_long_it_keeps(client: Client) -> None:
    await client.put(PATH, PACKET.payload)
    headers = (await client.get(PATH)).headers
    assert headers["last-modified"] == "Tue, 14 Nov 2023 22:13:20 GMT"
    assert headers["cache-control"] == "public, max-age=300"
    assert headers["etag"].startswith('"')
    assert headers["access-control-allow-origin"] == "*"
    assert "ETag" in headers["access-control-expose-headers"]
    assert (headers["aspen-applied-index"], headers["aspen-known-leader"]) == ("42", "1")
    assert headers["aspen-last-contact-ms"] == "7"


@pytest.mark.parametrize(
    ("records", "seconds"),
    [
        ([], 300),
        (["@ 7 A 192.0.2.1"], 300),
        (["@ 3600 A 192.0.2.1", "a 4000 A 192.0.2.1"], 3_600),
        (["@ 604800 A 192.0.2.1"], 86_400),
    ],
)
async def test_max_age_is_the_least_ttl_within_bounds(
    client: Client, records: list[str], seconds: int
) -> None:
    await client.put(PATH, signed(build_message(ALICE.endpoint_id, records)))
    assert (await client.get(PATH)).headers["cache-control"] == f"public, max-age={seconds}"


async def test_head_is_get_without_the_body(client: Client) -> None:
    await client.put(PATH, PACKET.payload)
    got, head = await client.get(PATH), await client.request("HEAD", PATH)
    assert head.status == 200
    assert head.headers["content-length"] == str(len(PACKET.payload))
    of_each = {"date", "x-request-id"}
    assert {n: v for n, v in head.headers.items() if n not in of_each} == {
        n: v for n, v in got.headers.items() if n not in of_each
    }
    missing = await client.request("HEAD", f"/pkarr/{BOB.z32}")
    assert missing.status == 404


async def test_conditional_gets(client: Client) -> None:
    await client.put(PATH, PACKET.payload)
    etag = (await client.get(PATH)).headers["etag"]
    at, before = "Tue, 14 Nov 2023 22:13:20 GMT", "Tue, 14 Nov 2023 22:13:19 GMT"
    cases: list[tuple[dict[str, str], int]] = [
        ({"If_None_Match": etag}, 304),
        ({"If_None_Match": f'"x", W/{etag}'}, 304),
        ({"If_None_Match": "*"}, 304),
        ({"If_None_Match": '"x"'}, 200),
        ({"If_None_Match": "garbage"}, 200),
        ({"If_Modified_Since": at}, 304),
        ({"If_Modified_Since": before}, 200),
        ({"If_Modified_Since": "yesterday"}, 200),
        ({"If_None_Match": '"x"', "If_Modified_Since": at}, 200),  # the tag decides
    ]
    for headers, status in cases:
        answer = await client.get(PATH, **headers)
        assert answer.status == status, headers
        assert answer.headers["etag"] == etag
        assert (answer.body == b"") == (status == 304)


async def test_the_etag_tells_packets_of_one_second_apart(client: Client) -> None:
    await client.put(PATH, PACKET.payload)
    first = (await client.get(PATH)).headers["etag"]
    await client.put(PATH, signed(MESSAGE, NOW_US + 1))
    answer = await client.get(PATH, If_None_Match=first)
    assert answer.status == 200
    assert answer.headers["etag"] != first


async def test_a_future_timestamp_is_not_told_as_a_future_date(client: Client) -> None:
    await client.put(PATH, signed(MESSAGE, NOW_US + 60_000_000))
    assert (await client.get(PATH)).headers["last-modified"] == "Tue, 14 Nov 2023 22:13:20 GMT"


@pytest.mark.parametrize(
    ("path", "status", "code"),
    [
        (f"/pkarr/{BOB.z32}", 404, "not_found"),
        (f"/{BOB.z32}", 404, "not_found"),
        ("/pkarr/short", 400, "key"),
        (f"/pkarr/{BOB.z32.upper()}", 400, "key"),
        (f"/{BOB.z32.upper()}", 400, "key"),
        (f"/{BOB.z32[:-1]}", 400, "key"),
        ("/favicon.ico", 404, "not_found"),
        ("/", 404, "not_found"),
        ("/nothing/here", 404, "not_found"),
        (f"/{BOB.z32}/more", 404, "not_found"),
    ],
)
async def test_gets_of_nothing(client: Client, path: str, status: int, code: str) -> None:
    answer = await client.get(path)
    assert answer.error == (status, code)
    assert answer.headers["access-control-allow-origin"] == "*"


# --- other methods ----------------------------------------------------------------------------


@pytest.mark.parametrize("path", [PATH, f"/{ALICE.z32}"])
async def test_a_browser_may_ask_what_is_allowed(client: Client, path: str) -> None:
    answer = await client.request(
        "OPTIONS", path, Origin="https://example.org", Access_Control_Request_Method="PUT"
    )
    assert answer.status == 204
    assert answer.headers["access-control-allow-origin"] == "*"
    assert answer.headers["access-control-allow-methods"] == "GET, HEAD, OPTIONS, PUT"
    assert answer.headers["access-control-allow-headers"] == "*"


@pytest.mark.parametrize("method", ["POST", "DELETE", "PATCH", "TRACE", "PROPFIND"])
async def test_other_methods_are_refused(client: Client, method: str) -> None:
    answer = await client.request(method, PATH)
    assert answer.error == (405, "method_not_allowed")
    assert answer.headers["allow"] == "GET, HEAD, OPTIONS, PUT"
