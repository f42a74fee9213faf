"""Response rate limiting: who is limited, how much, and who never is."""

from __future__ import annotations

import asyncio
import itertools
import socket
from typing import Any

import dns.edns
import dns.flags
import dns.message
import dns.rcode
import pytest

from aspen.dns.cookies import CookieMaker, CookieSecrets
from aspen.dns.lookup import DnsSettings
from aspen.dns.rrl import RateLimiter, RrlSettings, Verdict, kind_of, prefix_of, truncated
from aspen.dns.sockets import bind_udp
from aspen.dns.udp import UdpWorkers
from aspen.dns.udp_answers import Counter, UdpAnswers
from aspen.errors import ConfigError
from aspen.limits import DNS_RRL_PREFIXES

HOST = "203.0.113.9"
SECONDS = 30.0


class World:
    """Answers under a rate, and a clock to turn."""

    def __init__(self, served: Any, **settings: Any) -> None:
        self.now = 100.0
        self.answers = UdpAnswers(
            served.view, rrl=RrlSettings(**settings), monotonic_s=lambda: self.now, wall_s=lambda: 1e9
        )
        self.limiter = self.answers.limiter

    def ask(
        self, name: str, rrtype: str = "TXT", host: str = HOST, **options: Any
    ) -> dns.message.Message | None:
        query = dns.message.make_query(name, rrtype, **options).to_wire()
        reply = self.answers.reply_to(query, host)
        self.limiter.sample(host)
        return None if reply is None else dns.message.from_wire(query[:2] + reply)

    def pass_time(self, seconds: float) -> None:
        self.now += seconds
        self.answers.tick(0)


def kinds(replies: list[dns.message.Message | None]) -> tuple[int, int, int]:
    """Whole, truncated, none."""
    whole = sum(reply is not None and not reply.flags & dns.flags.TC for reply in replies)
    slipped = sum(reply is not None and bool(reply.flags & dns.flags.TC) for reply in replies)
    return whole, slipped, len(replies) - whole - slipped


def test_a_flood_gets_its_rate_and_every_second_of_the_rest_truncated(served: Any, z32: str) -> None:
    world = World(served, rate=5)
    name = f"_iroh.{z32}.aspen.local"
    replies = [world.ask(name) for _ in range(45)]
    # Five until it is watched, five from its full bucket, then none.
    assert kinds(replies) == (10, 17, 18)
    slipped = next(reply for reply in replies if reply is not None and reply.flags & dns.flags.TC)
    assert (slipped.answer, slipped.authority, slipped.additional) == ([], [], [])
    assert slipped.rcode() == dns.rcode.NOERROR
    tally = world.answers.tally
    assert (tally[Counter.SLIPPED], tally[Counter.LIMITED]) == (17, 18)


def test_the_bucket_fills_again_at_the_rate(served: Any, z32: str) -> None:
    world = World(served, rate=10, slip=0)
    name = f"{z32}.aspen.local"
    for _ in range(100):
        world.ask(name, "A")
    assert world.ask(name, "A") is None
    world.now += 0.35
    assert [world.ask(name, "A") is not None for _ in range(5)] == [True] * 3 + [False] * 2


@pytest.mark.parametrize(("slip", "slipped"), [(0, 0), (1, 30), (2, 15), (3, 10)])
def test_slip_says_how_many_are_truncated(served: Any, z32: str, slip: int, slipped: int) -> None:
    world = World(served, rate=5, slip=slip)
    for _ in range(10):
        world.ask(f"{z32}.aspen.local", "A")
    replies = [world.ask(f"{z32}.aspen.local", "A") for _ in range(30)]
    assert kinds(replies) == (0, slipped, 30 - slipped)


def test_kinds_of_answers_are_counted_apart(served: Any, z32: str) -> None:
    """Data by name; no data, no such name and each error as one, whatever was asked."""
    world = World(served, rate=5, slip=0)
    for number in range(20):
        world.ask(f"x{number}.aspen.local", "A")
    assert world.ask("yet-another.aspen.local", "A") is None
    assert world.ask(f"_iroh.{z32}.aspen.local") is not None
    assert world.ask(f"_iroh.{z32}.aspen.local", "A") is not None  # NODATA
    assert world.ask("example.com", "A") is not None  # REFUSED
    for number in range(40):
        world.ask(f"{number}.example.com", "A")
    assert world.ask("example.com", "A") is None
    assert world.ask(f"_iroh.{z32}.aspen.local") is not None


def test_other_networks_are_served_while_one_is_limited(served: Any, z32: str) -> None:
    world = World(served, rate=5, slip=0)
    name = f"_iroh.{z32}.aspen.local"
    for _ in range(50):
        world.ask(name)
    assert world.ask(name, host="203.0.113.200") is None  # the same /24
    assert world.ask(name, host="203.0.114.9") is not None
    assert world.ask(name, host="2001:db8::1") is not None


def test_a_network_that_calms_down_is_watched_no_more(served: Any, z32: str) -> None:
    world = World(served, rate=5)
    for _ in range(50):
        world.ask(f"{z32}.aspen.local", "A")
    world.pass_time(1)
    assert world.limiter.watched
    world.pass_time(1)
    assert not world.limiter.watched
    assert world.ask(f"{z32}.aspen.local", "A") is not None


def test_a_good_cookie_is_never_limited(served: Any, z32: str) -> None:
    world = World(served, rate=5, slip=1)
    maker = CookieMaker(CookieSecrets(bytes(16), bytes(16)))
    world.answers.use_cookies(maker)
    name = f"_iroh.{z32}.aspen.local"
    address = bytes(map(int, HOST.split(".")))

    def cookie(octets: bytes) -> dict[str, Any]:
        return {"use_edns": 0, "options": [dns.edns.GenericOption(10, octets)]}

    good = bytes(8) + maker.make(bytes(8), address, 10**9)
    for _ in range(50):
        world.ask(name)
    for _ in range(20):
        reply = world.ask(name, **cookie(good))
        assert reply is not None
        assert reply.answer
    # Who knows cookies, but not ours, learns ours instead of being sent to TCP.
    reply = world.ask(name, **cookie(bytes(8)))
    assert reply is not None
    assert reply.rcode() == dns.rcode.BADCOOKIE
    assert reply.options[0].to_wire() == good
    # Another's cookie proves nothing.
    reply = world.ask(name, host="203.0.113.77", **cookie(good))
    assert reply is not None
    assert reply.rcode() == dns.rcode.BADCOOKIE


def test_loopback_is_exempt_unless_configured(served: Any, z32: str) -> None:
    for settings, limited in (({}, False), ({"exempt": ()}, True), ({"exempt": ("10.0.0.0/8",)}, True)):
        world = World(served, rate=5, slip=0, **settings)
        replies = [world.ask(f"{z32}.aspen.local", "A", host="127.0.0.1") for _ in range(50)]
        assert (None in replies) is limited
    with pytest.raises(ConfigError, match="neither an address nor a network"):
        RateLimiter(RrlSettings(rate=1, exempt=("10.0.0.0/99",)))


def test_without_a_rate_nothing_is_limited(served: Any, z32: str) -> None:
    world = World(served)
    assert all(world.ask(f"{z32}.aspen.local", "A") is not None for _ in range(300))


def test_floods_from_everywhere_fill_nothing_up(served: Any) -> None:
    limiter = RateLimiter(RrlSettings(rate=1))
    for a, b in itertools.product(range(100), range(100)):
        limiter.sample(f"10.{a}.{b}.1")
    assert len(limiter._samples) <= DNS_RRL_PREFIXES
    assert len(limiter.watched) <= DNS_RRL_PREFIXES


def test_at_high_rates_a_sample_stands_for_many(served: Any) -> None:
    limiter = RateLimiter(RrlSettings(rate=1_000), processes=2)
    assert (limiter.rate, limiter.stride) == (500, 16)
    for _ in range(500 // 16 - 1):
        limiter.sample(HOST)
    assert not limiter.watched
    limiter.sample(HOST)
    assert limiter.watched == {"203.0.113"}


@pytest.mark.parametrize(
    ("one", "other", "same"),
    [
        ("192.0.2.1", "192.0.2.254", True),
        ("192.0.2.1", "192.0.3.1", False),
        ("2001:db8:0:10::1", "2001:db8:0:1f::2", True),
        ("2001:db8:0:10::1", "2001:db8:0:110::1", False),
        ("::ffff:192.0.2.1", "192.0.2.7", True),
        ("fe80::1%eth0", "fe80::2%eth0", True),
    ],
)
def test_networks_are_of_24_and_56_bits(one: str, other: str, same: bool) -> None:
    assert (prefix_of(one) == prefix_of(other)) is same


def test_a_slip_of_a_reply_without_question_is_a_bare_header() -> None:
    assert truncated(b"\x80\x01" + bytes(8)) == b"\x82\x01" + bytes(8)
    assert kind_of(b"\x80\x01" + bytes(8)) == (1, b"")


def test_verdicts_without_watching_are_to_send() -> None:
    limiter = RateLimiter(RrlSettings(rate=1))
    assert limiter.judge(HOST, bytes(10), 0.0) is Verdict.SEND


async def test_a_worker_limits_and_counts(replica: Any, z32: str) -> None:
    """The loop's own part: sampling, and every answer judged while a network is watched."""
    sockets = bind_udp("127.0.0.1", 0, 1)
    settings = DnsSettings(rrl=RrlSettings(rate=20, exempt=()))
    udp = UdpWorkers(replica.data_dir, sockets, settings, replica.page_path)
    address = sockets[0].getsockname()
    loop = asyncio.get_running_loop()
    query = dns.message.make_query(f"_iroh.{z32}.aspen.local", "TXT").to_wire()
    await udp.start()
    try:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as client:
            client.setblocking(False)
            slips = 0
            deadline = loop.time() + SECONDS
            while slips < 3 and loop.time() < deadline:
                await loop.sock_sendto(client, query, address)
                try:
                    reply = await asyncio.wait_for(loop.sock_recv(client, 2_000), 0.05)
                except TimeoutError:
                    continue  # limited, or the worker is starting
                slips += bool(reply[2] & 2)
        assert slips == 3
        counters = replica.page.worker(0)
        while loop.time() < deadline and not counters.get(Counter.SLIPPED):  # noqa: ASYNC110
            await asyncio.sleep(0.02)
        assert counters.get(Counter.SLIPPED) > 0
    finally:
        await udp.close()
