"""Keeping a packet published, and finding packets by several sources, which are fakes here."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Sequence

import pytest
from aiohttp import web
from hypothesis import given
from hypothesis import strategies as st

from aspen.errors import ConfigError, NetworkError
from aspen.identity import Identity
from aspen.pkarr.endpoint_info import EndpointInfo, format_address, parse_address
from aspen.pkarr.packet import SignedPacket
from aspen.pkarr.publisher import Publisher
from aspen.pkarr.records import build_message
from aspen.pkarr.relay_client import RelayClient, parse_relay_url
from aspen.pkarr.resolver import Resolver

ALICE = Identity.from_seed(bytes(range(32)))
BOB = Identity.from_seed(bytes(32))
NOW_US = 1_700_000_000_000_000
HOUR_US = 3_600_000_000


def signed(at_us: int = NOW_US, text: str = "addr=192.0.2.1:7300", who: Identity = ALICE) -> SignedPacket:
    return SignedPacket.sign(who, build_message(who.endpoint_id, [f'_iroh TXT "{text}"']), at_us)


class FakeTarget:
    """Remembers what it was told; fails as often as it is told to."""

    def __init__(self, name: str = "fake") -> None:
        self.name = name
        self.told: list[SignedPacket] = []
        self.fail = 0
        self.newer: SignedPacket | None = None
        self.was_told = asyncio.Event()

    async def publish(self, packet: SignedPacket) -> SignedPacket | None:
        self.told.append(packet)
        self.was_told.set()
        if self.fail:
            self.fail -= 1
            raise NetworkError("relay_unreachable", "nobody there")
        if self.newer is not None and self.newer.more_recent_than(packet):
            return self.newer
        return None

    async def wait_told(self, times: int) -> None:
        async with asyncio.timeout(30):
            while len(self.told) < times:
                self.was_told.clear()
                await self.was_told.wait()


RECORDS = ('_iroh TXT "addr=192.0.2.1:7300"',)


class World:
    now_us = NOW_US
    records: Sequence[str] = RECORDS

    def publisher(self, *targets: FakeTarget, republish_ms: int = 600_000, retry_ms: int = 1) -> Publisher:
        return Publisher(
            ALICE,
            targets,
            lambda: self.records,
            wall_us=lambda: self.now_us,
            republish_ms=republish_ms,
            retry_ms=retry_ms,
            chance=lambda: 0.5,
        )


# --- publishing -------------------------------------------------------------------------------


async def test_it_publishes_at_once_and_again_after_the_delay_the_same_octets() -> None:
    target = FakeTarget()
    publisher = World().publisher(target, republish_ms=5)
    publisher.start()
    await target.wait_told(3)
    await publisher.close()
    assert set(target.told) == {signed()}
    assert publisher.progress["fake"].published == signed()


async def test_a_change_is_published_now() -> None:
    world, target = World(), FakeTarget()
    publisher = world.publisher(target)
    publisher.start()
    await target.wait_told(1)
    world.records = ['_iroh TXT "addr=192.0.2.2:7300"']
    world.now_us += 7
    publisher.changed()
    await target.wait_told(2)
    await publisher.close()
    assert target.told == [signed(), signed(NOW_US + 7, "addr=192.0.2.2:7300")]


async def test_a_failing_target_is_tried_again_and_holds_up_no_other() -> None:
    good, bad = FakeTarget("good"), FakeTarget("bad")
    bad.fail = 3
    publisher = World().publisher(good, bad)
    publisher.start()
    async with asyncio.timeout(30):
        await publisher.wait_published()
    await publisher.close()
    assert len(bad.told) == 4
    assert len(good.told) == 1
    assert publisher.progress["bad"].failures == 0


async def test_pauses_after_failures_double_up_to_the_delay(monkeypatch: pytest.MonkeyPatch) -> None:
    target = FakeTarget()
    target.fail = 6
    publisher = World().publisher(target, republish_ms=10_000, retry_ms=1_000)
    pauses: list[float] = []
    timeout, enough = asyncio.timeout, asyncio.Event()

    def noted(seconds: float) -> asyncio.Timeout:
        pauses.append(seconds)
        if len(pauses) == 7:
            enough.set()
        return timeout(0)

    monkeypatch.setattr("aspen.pkarr.publisher.asyncio.timeout", noted)
    publisher.start()
    await enough.wait()
    await publisher.close()
    assert pauses[:7] == [1, 2, 4, 8, 10, 10, 10]


async def test_a_more_recent_packet_under_the_key_is_signed_over() -> None:
    target = FakeTarget()
    target.newer = signed(NOW_US + HOUR_US, "addr=192.0.2.9:1")
    publisher = World().publisher(target)
    publisher.start()
    await target.wait_told(2)
    await publisher.close()
    assert target.told[1].timestamp_us == NOW_US + HOUR_US + 1
    assert target.told[1].message == signed().message


async def test_timestamps_only_rise_even_if_the_clock_goes_back() -> None:
    world = World()
    publisher = world.publisher()
    first = publisher.current()
    world.now_us -= HOUR_US
    world.records = ["@ A 192.0.2.1"]
    assert publisher.current().timestamp_us == first.timestamp_us + 1


async def test_an_unchanged_packet_is_signed_anew_after_a_day() -> None:
    world = World()
    publisher = world.publisher()
    first = publisher.current()
    world.now_us += 23 * HOUR_US
    assert publisher.current() is first
    world.now_us += 2 * HOUR_US
    assert publisher.current().timestamp_us == world.now_us


async def test_records_that_make_no_packet_end_nothing() -> None:
    world, target = World(), FakeTarget()
    world.records = ["nonsense"]
    publisher = world.publisher(target)
    publisher.start()
    await asyncio.sleep(0.01)
    world.records = RECORDS
    publisher.changed()
    await target.wait_told(1)
    await publisher.close()


# --- relays -----------------------------------------------------------------------------------


class FakeRelay:
    def __init__(self) -> None:
        self.packets: dict[str, bytes] = {}
        self.status = 0
        self.url = ""

    async def handle(self, request: web.Request) -> web.Response:
        key = request.match_info["key"]
        if self.status:
            return web.Response(status=self.status, text="as told")
        if request.method == "PUT":
            payload = await request.read()
            stored = self.packets.get(key)
            if stored is not None and stored[64:] > payload[64:]:
                return web.Response(status=409)
            self.packets[key] = payload
            return web.Response(status=204)
        return web.Response(body=self.packets[key]) if key in self.packets else web.Response(status=404)


@pytest.fixture
async def relay() -> AsyncIterator[FakeRelay]:
    fake = FakeRelay()
    app = web.Application()
    app.router.add_route("*", "/pkarr/{key}", fake.handle)
    runner = web.AppRunner(app)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    fake.url = f"http://127.0.0.1:{runner.addresses[0][1]}/pkarr"
    yield fake
    await runner.cleanup()


async def test_a_relay_takes_gives_and_keeps_the_most_recent(relay: FakeRelay) -> None:
    async with RelayClient(relay.url) as client:
        assert await client.find(ALICE.endpoint_id) is None
        newer = signed(NOW_US + 1)
        assert await client.publish(newer) is None
        assert await client.find(ALICE.endpoint_id) == newer
        assert await client.publish(signed()) == newer


@pytest.mark.parametrize(
    ("status", "code"),
    [(400, "relay_refused"), (413, "relay_refused"), (429, "relay_busy"), (500, "relay_unreachable"),
     (302, "relay_unreachable"), (503, "relay_unreachable")],
)  # fmt: skip
async def test_what_a_relay_answers_otherwise_is_an_error_that_says_it(
    relay: FakeRelay, status: int, code: str
) -> None:
    relay.status = status
    async with RelayClient(relay.url) as client:
        for action in (client.publish(signed()), client.find(ALICE.endpoint_id)):
            with pytest.raises(NetworkError, match=f"answered {status}: as told") as refused:
                await action
            assert refused.value.code == code


@pytest.mark.parametrize("body", [b"", b"x" * 72, bytes(2_000_000), signed(who=BOB).payload])
async def test_what_is_not_the_keys_packet_is_not_believed_nor_read_whole(
    relay: FakeRelay, body: bytes
) -> None:
    relay.packets[ALICE.z32] = body
    async with RelayClient(relay.url) as client:
        with pytest.raises(NetworkError) as refused:
            await client.find(ALICE.endpoint_id)
        assert refused.value.code == "relay_lied"


async def test_a_relay_that_is_away_or_silent_is_unreachable() -> None:
    async def silent(_reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await closed.wait()
        writer.close()

    closed = asyncio.Event()
    server = await asyncio.start_server(silent, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    for url in ("http://127.0.0.1:9", f"http://127.0.0.1:{port}"):
        async with RelayClient(url, timeout_ms=100) as client:
            with pytest.raises(NetworkError) as refused:
                await client.publish(signed())
            assert refused.value.code == "relay_unreachable"
    closed.set()
    server.close()


def test_urls_of_relays() -> None:
    assert str(parse_relay_url("https://dns.iroh.link/pkarr/") / "key") == "https://dns.iroh.link/pkarr/key"
    assert str(parse_relay_url("https://relay.pkarr.org") / "key") == "https://relay.pkarr.org/key"
    for text in ("relay.pkarr.org", "ftp://x", "http://", "http://x/?q", "http://x/#f", "http://x:notaport"):
        with pytest.raises(ConfigError):
            parse_relay_url(text)


# --- resolving --------------------------------------------------------------------------------


class FakeSource:
    def __init__(self, name: str, found: SignedPacket | None = None, delay_s: float = 0.0) -> None:
        self.name, self.found, self.delay_s = name, found, delay_s
        self.error = ""

    async def find(self, public_key: bytes) -> SignedPacket | None:
        await asyncio.sleep(self.delay_s)
        if self.error:
            raise NetworkError("relay_unreachable", self.error)
        return self.found


class FakeDns:
    name = "dns:keys.test"

    async def find_info(self, public_key: bytes) -> EndpointInfo | None:
        return EndpointInfo((("192.0.2.53", 1),))


async def test_the_most_recent_wins_though_it_comes_last() -> None:
    sources = [FakeSource("quick", signed()), FakeSource("slow", signed(NOW_US + 1), delay_s=0.02)]
    found = await Resolver(sources).resolve(ALICE.endpoint_id)
    assert (found.packet, found.source, found.verified) == (signed(NOW_US + 1), "slow", True)
    assert found.info == EndpointInfo((("192.0.2.1", 7300),))


async def test_a_source_that_fails_or_hangs_is_a_line_and_no_obstacle() -> None:
    failing, hanging = FakeSource("failing"), FakeSource("hanging", signed(NOW_US + 9), delay_s=60)
    failing.error = "nobody there"
    started = time.monotonic()
    found = await Resolver([failing, hanging, FakeSource("good", signed())], timeout_ms=50).resolve(
        ALICE.endpoint_id
    )
    assert time.monotonic() - started < 5
    assert found.source == "good"
    assert found.failures == ("failing: nobody there", "hanging: no answer in 0.05 seconds")


async def test_dns_counts_only_where_nobody_has_a_packet() -> None:
    dns = FakeDns()
    signed_one = await Resolver([FakeSource("relay", signed())], [dns]).resolve(ALICE.endpoint_id)  # type: ignore[list-item]
    assert signed_one.verified
    by_dns = await Resolver([FakeSource("relay")], [dns]).resolve(ALICE.endpoint_id)  # type: ignore[list-item]
    assert by_dns == (None, EndpointInfo((("192.0.2.53", 1),)), "dns:keys.test", ())
    assert not by_dns.verified
    assert await Resolver([FakeSource("relay")]).resolve(ALICE.endpoint_id) == (None, None, "", ())


# --- what endpoints say -----------------------------------------------------------------------

addresses = st.tuples(st.ip_addresses().map(str), st.integers(1, 65_535))


@given(
    st.lists(addresses, max_size=4, unique=True),
    st.lists(st.sampled_from(["https://a.example./", "https://b.example./"]), max_size=2, unique=True),
    st.none() | st.text(st.characters(codec="utf-8", exclude_categories=("Cs",)), max_size=40),
)
def test_what_an_endpoint_says_is_read_back(
    where: list[tuple[str, int]], relays: list[str], user_data: str | None
) -> None:
    info = EndpointInfo(tuple(where), tuple(relays), user_data)
    packet = SignedPacket.sign(ALICE, build_message(ALICE.endpoint_id, info.records()), NOW_US)
    assert EndpointInfo.of_packet(packet) == info


def test_what_others_write_beside_is_passed_over() -> None:
    texts = ["addr=192.0.2.1:1", "addr=nonsense", "addr=[::1]:2", "new=thing", "", "relay=https://r./"]
    assert EndpointInfo.of_attributes(texts) == EndpointInfo((("192.0.2.1", 1), ("::1", 2)), ("https://r./",))


@pytest.mark.parametrize(
    "text",
    ["", "192.0.2.1", "192.0.2.1:", "192.0.2.1:0", "192.0.2.1:65536", "::1:80", "host:80", "[::1]", ":1"],
)
def test_what_is_no_address(text: str) -> None:
    assert parse_address(text) is None


def test_addresses_are_written_as_iroh_does() -> None:
    assert format_address(("::1", 7)) == "[::1]:7"
    assert format_address(("192.0.2.1", 7)) == "192.0.2.1:7"
