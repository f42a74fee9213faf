"""What the relay is told to let through: rates, lists, room, policies; and what operators can do."""

from __future__ import annotations

import base64
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack
from dataclasses import dataclass, field

import pytest
from http_fakes import NODE_MS, Client, FakeCluster, SettingView
from test_relay import ALICE, BOB, MESSAGE, NOW_US, PACKET, PATH, signed

from aspen.errors import NetworkError
from aspen.http.forwarded import parse_networks
from aspen.http.server import HttpServer
from aspen.limits import PKARR_REASON_BYTES
from aspen.pkarr.admin import PacketAdmin
from aspen.pkarr.gate import Gate, GateRules
from aspen.pkarr.packet import SignedPacket
from aspen.pkarr.records import build_message
from aspen.pkarr.relay import Relay, RelayRules
from aspen.ratelimit import Rate
from aspen.state.packet_commands import PacketDelete, PacketOutcome, PacketPut, PacketResult
from aspen.state.packets import PacketLife
from aspen.state.settings import SettingDelete, SettingPut

LOOPBACK = parse_networks(["127.0.0.0/8"], "")
FEW = Rate(per_s=0.5, burst=2)


@dataclass
class FakeNetwork:
    """A DHT that knows what it is told."""

    packets: dict[bytes, SignedPacket] = field(default_factory=dict)
    asked: list[tuple[bytes, int | None]] = field(default_factory=list)
    published: list[SignedPacket] = field(default_factory=list)
    failure: NetworkError | None = None

    async def resolve(self, public_key: bytes, newer_than_us: int | None = None) -> SignedPacket | None:
        self.asked.append((public_key, newer_than_us))
        if self.failure is not None:
            raise self.failure
        found = self.packets.get(public_key)
        if found is not None and newer_than_us is not None and found.timestamp_us <= newer_than_us:
            return None
        return found

    async def publish(self, packet: SignedPacket) -> None:
        self.published.append(packet)


@dataclass
class Clock:
    now_s: float = 1_000.0

    def __call__(self) -> float:
        return self.now_s


Start = Callable[..., Awaitable[Client]]


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def network() -> FakeNetwork:
    return FakeNetwork()


@pytest.fixture
async def start(cluster: FakeCluster, clock: Clock) -> AsyncIterator[Start]:
    async with AsyncExitStack() as stack:

        async def begin(
            gate: GateRules | Gate | None = None,
            rules: RelayRules | None = None,
            network: FakeNetwork | None = None,
        ) -> Client:
            server = HttpServer(listen=("127.0.0.1", 0))
            rules = rules if rules is not None else RelayRules()
            settings = SettingView(cluster.settings)
            Relay(
                cluster,
                cluster.packet_reader,
                rules=rules,
                gate=gate if isinstance(gate, Gate) else Gate(gate, settings, now_s=clock),
                network=network,
                wall_us=lambda: NOW_US,
            ).add_routes(server.public)
            PacketAdmin(
                cluster, cluster.packet_reader, settings, rules.life, wall_ms=lambda: NODE_MS
            ).add_routes(server.admin)
            await server.start()
            stack.push_async_callback(server.close)
            client = Client(server.address)
            stack.push_async_callback(client.close)
            return client

        yield begin


# --- rates ------------------------------------------------------------------------------------


async def test_an_address_that_publishes_too_often_waits(
    start: Start, cluster: FakeCluster, clock: Clock
) -> None:
    client = await start(GateRules(put_per_address=FEW, trusted_proxies=LOOPBACK, limit_loopback=True))
    for _ in range(2):
        answer = await client.put(PATH, b"garbage", X_Forwarded_For="192.0.2.1")
        assert answer.error == (400, "size")  # what is wrong counts too
    answer = await client.put(PATH, PACKET.payload, X_Forwarded_For="192.0.2.1")
    assert answer.error == (429, "rate_limited")
    assert answer.headers["retry-after"] == "2"
    assert answer.headers["access-control-allow-origin"] == "*"
    assert "Retry-After" in answer.headers["access-control-expose-headers"]
    assert cluster.commands == []
    assert (await client.put(PATH, PACKET.payload, X_Forwarded_For="192.0.2.2")).status == 204
    clock.now_s += 2
    assert (await client.put(PATH, PACKET.payload, X_Forwarded_For="192.0.2.1")).status == 204
    assert (await client.get(PATH, X_Forwarded_For="192.0.2.1")).status == 200  # reading is another matter


async def test_what_was_over_a_limit_is_counted_by_the_limit(start: Start, clock: Clock) -> None:
    gate = Gate(GateRules(put_per_address=FEW, get_per_address=FEW, limit_loopback=True), now_s=clock)
    client = await start(gate)
    for _ in range(4):
        await client.put(PATH, PACKET.payload)
    for _ in range(3):
        await client.get(PATH)
    assert gate.limited == {"put_per_address": 2, "get_per_address": 1}


async def test_a_v6_network_is_one_address(start: Start) -> None:
    client = await start(GateRules(put_per_address=FEW, trusted_proxies=LOOPBACK))
    for host in ("1", "2"):
        assert (await client.put(PATH, PACKET.payload, X_Forwarded_For=f"2001:db8::{host}")).status == 204
    assert (await client.put(PATH, PACKET.payload, X_Forwarded_For="2001:db8::3")).status == 429
    assert (await client.put(PATH, PACKET.payload, X_Forwarded_For="2001:db8:0:1::3")).status == 204


async def test_this_machine_is_exempt_unless_told_otherwise(start: Start) -> None:
    client = await start(GateRules(put_per_address=FEW, put_per_key=FEW, put_in_all=FEW, get_per_address=FEW))
    for number in range(9):
        assert (await client.put(PATH, signed(MESSAGE, NOW_US + number))).status == 204
        assert (await client.get(PATH)).status == 200
    client = await start(GateRules(get_per_address=FEW, limit_loopback=True))
    assert [(await client.get(PATH)).status for _ in range(3)] == [200, 200, 429]


async def test_a_key_is_limited_by_its_own_good_packets_only(
    start: Start, clock: Clock, cluster: FakeCluster
) -> None:
    client = await start(GateRules(put_per_key=FEW, limit_loopback=True))
    for _ in range(9):  # nobody else can use up a key's tokens
        assert (await client.put(PATH, signed(MESSAGE, identity=BOB))).error == (400, "signature")
    for number in range(2):
        assert (await client.put(PATH, signed(MESSAGE, NOW_US + number))).status == 204
    answer = await client.put(PATH, signed(MESSAGE, NOW_US + 2))
    assert answer.error == (429, "rate_limited")
    assert "under this key" in answer.json["reason"]
    for _ in range(9):  # the same once more costs no log entry, so it isn't counted
        assert (await client.put(PATH, signed(MESSAGE, NOW_US + 1))).status == 204
    assert (await client.put(PATH, signed(MESSAGE, NOW_US))).error == (409, "older")
    clock.now_s += 2
    assert (await client.put(PATH, signed(MESSAGE, NOW_US + 2))).status == 204
    assert len(cluster.commands) == 3


async def test_all_together_are_limited(start: Start) -> None:
    client = await start(GateRules(put_in_all=FEW, trusted_proxies=LOOPBACK))
    for number in range(2):
        answer = await client.put(PATH, signed(MESSAGE, NOW_US + number), Forwarded=f"for=192.0.2.{number}")
        assert answer.status == 204
    answer = await client.put(PATH, signed(MESSAGE, NOW_US + 2), Forwarded="for=192.0.2.9")
    assert answer.error == (429, "rate_limited")


# --- lists ------------------------------------------------------------------------------------


async def test_a_denied_key_cannot_publish(start: Start, cluster: FakeCluster) -> None:
    client = await start(GateRules(denied=frozenset({ALICE.endpoint_id})))
    assert (await client.put(PATH, PACKET.payload)).error == (403, "denied")
    assert cluster.commands == []
    bob = signed(MESSAGE, identity=BOB)
    assert (await client.put(f"/{BOB.z32}", bob)).status == 204


async def test_with_a_list_of_allowed_keys_no_other_can_publish(start: Start) -> None:
    client = await start(GateRules(allowed=frozenset({BOB.endpoint_id})))
    assert (await client.put(PATH, PACKET.payload)).error == (403, "not_allowed")
    assert (await client.put(f"/{BOB.z32}", signed(MESSAGE, identity=BOB))).status == 204


async def test_an_operator_denies_a_key_and_forgives_it(start: Start, cluster: FakeCluster) -> None:
    client = await start()
    route = f"/v1/packets/denied/{ALICE.z32}"
    assert (await client.put(route, b"abuse, see case 7")).status == 204
    assert cluster.commands == [SettingPut(f"pkarr/denied/{ALICE.z32}", b"abuse, see case 7")]
    answer = await client.put(PATH, PACKET.payload)
    assert answer.error == (403, "denied")
    assert answer.json["reason"] == "abuse, see case 7"
    assert (await client.get("/v1/packets/denied")).json == {"keys": {ALICE.z32: "abuse, see case 7"}}
    assert (await client.request("DELETE", route)).status == 204
    assert (await client.request("DELETE", route)).error == (404, "not_found")
    assert cluster.commands[1] == SettingDelete(f"pkarr/denied/{ALICE.z32}")
    assert (await client.put(PATH, PACKET.payload)).status == 204


async def test_an_operator_allows_keys(start: Start) -> None:
    client = await start()
    assert (await client.put(f"/v1/packets/allowed/{BOB.z32}", b"")).status == 204
    assert (await client.put(PATH, PACKET.payload)).error == (403, "not_allowed")
    assert (await client.put(f"/{BOB.z32}", signed(MESSAGE, identity=BOB))).status == 204
    assert (await client.put(f"/v1/packets/allowed/{ALICE.z32}", b"a friend")).status == 204
    assert (await client.put(PATH, PACKET.payload)).status == 204


@pytest.mark.parametrize(
    ("key", "body", "status", "code"),
    [
        (ALICE.z32[:-1], b"", 400, "key"),
        (ALICE.z32, b"\xff", 400, "bad_reason"),
        (ALICE.z32, b"x" * (PKARR_REASON_BYTES + 1), 413, "too_large"),
    ],
)
async def test_bad_entries_are_refused(
    start: Start, cluster: FakeCluster, key: str, body: bytes, status: int, code: str
) -> None:
    client = await start()
    assert (await client.put(f"/v1/packets/denied/{key}", body)).error == (status, code)
    assert cluster.commands == []


# --- room -------------------------------------------------------------------------------------


@pytest.mark.parametrize("rules", [RelayRules(max_packets=1), RelayRules(max_bytes=4_096)])
async def test_a_full_relay_takes_no_new_keys(start: Start, rules: RelayRules) -> None:
    client = await start(rules=rules)
    assert (await client.put(PATH, PACKET.payload)).status == 204
    answer = await client.put(f"/{BOB.z32}", signed(MESSAGE, identity=BOB))
    assert answer.error == (507, "full")
    assert "at most" in answer.json["reason"]
    assert (await client.put(PATH, signed(MESSAGE, NOW_US + 1))).status == 204  # those that are there go on


async def test_the_future_is_as_near_as_configured(start: Start) -> None:
    client = await start(rules=RelayRules(future_ms=1_000))
    assert (await client.put(PATH, signed(MESSAGE, NOW_US + 1_000_001))).error == (400, "timestamp")
    assert (await client.put(PATH, signed(MESSAGE, NOW_US + 1_000_000))).status == 204


# --- policies ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("policy", "status"),
    [("", 200), ("?policy=CacheOnly", 200), ("?policy=CacheFirst", 200), ("?policy=NetworkOnly", 404)],
)
async def test_without_a_network_there_is_the_replica(start: Start, policy: str, status: int) -> None:
    client = await start()
    await client.put(PATH, PACKET.payload)
    answer = await client.get(PATH + policy)
    assert answer.status == status
    if status == 404:
        assert answer.error == (404, "no_network")
    else:
        assert answer.headers["aspen-source"] == "replica"


@pytest.mark.parametrize("policy", ["cacheonly", "Everywhere", ""])
async def test_an_unknown_policy_is_refused_and_other_parameters_are_not(start: Start, policy: str) -> None:
    client = await start()
    await client.put(PATH, PACKET.payload)
    assert (await client.get(f"{PATH}?policy={policy}")).error == (400, "bad_query")
    assert (await client.get(f"{PATH}?utm_source=x")).status == 200


async def test_what_the_replica_lacks_comes_from_the_network(
    start: Start, network: FakeNetwork, cluster: FakeCluster
) -> None:
    client = await start(network=network)
    assert (await client.get(PATH)).error == (404, "not_found")
    network.packets[ALICE.endpoint_id] = PACKET
    assert (await client.get(PATH + "?policy=CacheOnly")).error == (404, "not_found")
    for policy in ("", "?policy=CacheFirst", "?policy=NetworkOnly"):
        answer = await client.get(PATH + policy)
        assert (answer.status, answer.body) == (200, PACKET.payload)
        assert answer.headers["aspen-source"] == "network"
        assert (await client.get(PATH + policy, If_None_Match=answer.headers["etag"])).status == 304
    assert cluster.commands == []  # it isn't replicated
    network.failure = NetworkError("network_busy", "too many lookups")
    assert (await client.get(PATH)).error == (503, "network_busy")


async def test_the_network_is_asked_only_if_it_must_and_the_more_recent_wins(
    start: Start, network: FakeNetwork
) -> None:
    client = await start(network=network)
    await client.put(PATH, PACKET.payload)
    network.packets[ALICE.endpoint_id] = SignedPacket.parse(ALICE.endpoint_id, signed(MESSAGE, NOW_US - 1))
    answer = await client.get(PATH)
    assert (answer.body, network.asked) == (PACKET.payload, [])
    answer = await client.get(PATH + "?policy=NetworkOnly")
    assert (answer.body, answer.headers["aspen-source"]) == (PACKET.payload, "replica")
    newer = signed(MESSAGE, NOW_US + 1)
    network.packets[ALICE.endpoint_id] = SignedPacket.parse(ALICE.endpoint_id, newer)
    answer = await client.get(PATH + "?policy=NetworkOnly")
    assert (answer.body, answer.headers["aspen-source"]) == (newer, "network")


async def test_what_was_unpublished_does_not_come_back_from_the_network(
    start: Start, network: FakeNetwork, cluster: FakeCluster
) -> None:
    client = await start(network=network)
    await client.put(PATH, PACKET.payload)
    assert (await client.request("DELETE", f"/v1/packets/{ALICE.z32}")).status == 204
    network.packets[ALICE.endpoint_id] = PACKET
    answer = await client.get(PATH)
    assert answer.error == (404, "not_found")
    assert answer.json["timestamp_us"] == NOW_US
    assert network.asked == [(ALICE.endpoint_id, NOW_US)]


async def test_what_is_accepted_is_published_what_is_refused_is_not(
    start: Start, network: FakeNetwork
) -> None:
    client = await start(network=network)
    await client.put(PATH, PACKET.payload)
    await client.put(PATH, PACKET.payload)
    assert network.published == [PACKET, PACKET]
    await client.put(PATH, signed(MESSAGE, NOW_US - 1))
    assert len(network.published) == 2


# --- life -------------------------------------------------------------------------------------


async def test_a_get_hides_what_is_over_and_the_same_packet_brings_it_back(
    start: Start, cluster: FakeCluster
) -> None:
    client = await start(rules=RelayRules(life=PacketLife(retention_ms=60_000)))
    await client.put(PATH, PACKET.payload)
    record = cluster.packets[ALICE.endpoint_id]
    cluster.packets[ALICE.endpoint_id] = record._replace(received_at_ms=NODE_MS - 60_001)
    assert (await client.get(PATH)).error == (404, "not_found")
    assert (await client.get(f"/v1/packets/{ALICE.z32}")).json["state"] == "expired"
    assert (await client.put(PATH, signed(MESSAGE, NOW_US - 1))).error == (409, "older")
    assert (await client.put(PATH, PACKET.payload)).status == 204
    assert len(cluster.commands) == 2
    assert (await client.get(PATH)).status == 200


async def test_strict_a_packet_is_served_while_a_record_of_it_lives(
    start: Start, cluster: FakeCluster
) -> None:
    client = await start(rules=RelayRules(life=PacketLife(strict_ttl=True)))
    payload = signed(build_message(ALICE.endpoint_id, ["@ 10 A 192.0.2.1", "a 40 A 192.0.2.1"]))
    await client.put(PATH, payload)
    record = cluster.packets[ALICE.endpoint_id]
    for age_ms, status, max_age in ((0, 200, 10), (4_000, 200, 6), (40_000, 200, 0), (40_001, 404, None)):
        cluster.packets[ALICE.endpoint_id] = record._replace(received_at_ms=NODE_MS - age_ms)
        answer = await client.get(PATH)
        assert answer.status == status
        cached = None if max_age is None else f"public, max-age={max_age}"
        assert answer.headers.get("cache-control") == cached


# --- compare and swap -------------------------------------------------------------------------


async def test_a_condition_goes_into_the_log_and_its_failure_is_412(
    start: Start, cluster: FakeCluster
) -> None:
    client = await start()
    date = "Tue, 14 Nov 2023 22:13:20 GMT"
    assert (await client.put(PATH, PACKET.payload, If_Unmodified_Since=date)).status == 204
    assert cluster.commands == [PacketPut(ALICE.endpoint_id, PACKET.payload, NOW_US + 999_999)]
    cluster.answer = PacketResult(PacketOutcome.MODIFIED, NOW_US + 2_000_000)
    answer = await client.put(PATH, signed(MESSAGE, NOW_US + 3_000_000), If_Unmodified_Since=date)
    assert answer.error == (412, "modified")
    assert answer.json["stored_timestamp_us"] == NOW_US + 2_000_000
    cluster.answer = None
    late = signed(MESSAGE, NOW_US + 3_000_000)
    assert (await client.put(PATH, late, If_Unmodified_Since="yesterday")).status == 204
    assert cluster.commands[-1] == PacketPut(ALICE.endpoint_id, late)


# --- operators --------------------------------------------------------------------------------


async def test_an_operator_looks_and_deletes(start: Start, cluster: FakeCluster) -> None:
    client = await start()
    route = f"/v1/packets/{ALICE.z32}"
    assert (await client.get(route)).error == (404, "not_found")
    assert (await client.request("DELETE", route)).error == (404, "not_found")
    await client.put(PATH, PACKET.payload)
    assert (await client.get(route)).json == {
        "key": ALICE.z32,
        "timestamp_us": NOW_US,
        "last_seen_ms": NODE_MS,
        "state": "live",
        "payload": base64.b64encode(PACKET.payload).decode(),
    }
    assert (await client.request("DELETE", route)).status == 204
    assert cluster.commands[-1] == PacketDelete(ALICE.endpoint_id)
    assert (await client.get(route)).json["state"] == "deleted"
    assert (await client.request("DELETE", route)).error == (404, "not_found")
    assert (await client.put(PATH, PACKET.payload)).error == (409, "older")
    assert (await client.put(PATH, signed(MESSAGE, NOW_US + 1))).status == 204


async def test_an_operator_has_a_packet_taken_apart(start: Start, cluster: FakeCluster) -> None:
    client = await start()
    route = f"/v1/packets/{ALICE.z32}?fields=true"
    await client.put(PATH, PACKET.payload)
    fields = (await client.get(route)).json["fields"]
    assert [(field["offset"], field["size"], field["name"]) for field in fields[:2]] == [
        (0, 64, "signature"),
        (64, 8, "timestamp"),
    ]
    assert not any("problem" in field for field in fields)
    forged = bytes(64) + PACKET.payload[64:]
    cluster.packets[ALICE.endpoint_id] = cluster.packets[ALICE.endpoint_id]._replace(payload=forged)
    assert "not a signature" in (await client.get(route)).json["fields"][0]["problem"]
    assert (await client.get(route + "ish")).error == (400, "bad_query")


async def test_conditional_gets_by_date_never_hide_a_packet_of_the_same_second(start: Start) -> None:
    client = await start()
    await client.put(PATH, signed(MESSAGE, NOW_US - 500_000))
    answer = await client.get(PATH)
    again = await client.get(PATH, If_Modified_Since=answer.headers["last-modified"])
    assert again.status == 200  # which of that second's packets the client has, the date doesn't tell
    later = "Tue, 14 Nov 2023 22:13:20 GMT"
    assert (await client.get(PATH, If_Modified_Since=later)).status == 304
