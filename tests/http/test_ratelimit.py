"""Token buckets, and whose bucket a request draws from."""

from __future__ import annotations

import asyncio
from typing import Any, cast

import pytest
from aiohttp import web
from hypothesis import given
from hypothesis import strategies as st
from multidict import CIMultiDict

from aspen.errors import ConfigError
from aspen.http.forwarded import ClientAddress, parse_networks
from aspen.ratelimit import Rate, RateLimiter, peer_of, retry_after


def test_a_burst_then_the_rate() -> None:
    limiter = RateLimiter(Rate(per_s=2, burst=3))
    assert [limiter.take("a", 100.0) for _ in range(4)] == [0, 0, 0, 0.5]
    assert limiter.take("a", 100.4) == pytest.approx(0.1)
    assert limiter.take("a", 100.5) == 0
    assert limiter.take("a", 100.5) == pytest.approx(0.5)
    assert [limiter.take("a", 200.0) for _ in range(4)] == [0, 0, 0, 0.5]  # full again, no fuller
    assert limiter.take("b", 200.0) == 0  # another's bucket


def test_no_rate_is_no_limit() -> None:
    limiter = RateLimiter(Rate(0, 0))
    assert all(limiter.take("a", 0.0) == 0 for _ in range(1_000))
    assert len(limiter) == 0


def test_of_too_many_the_one_longest_silent_is_forgotten() -> None:
    limiter = RateLimiter(Rate(per_s=0.001, burst=1), peers=3)
    for peer in "abc":
        assert limiter.take(peer, 0.0) == 0
    assert limiter.take("a", 1.0) > 0
    assert limiter.take("d", 1.0) == 0  # "a" goes: it was granted nothing since its first
    assert len(limiter) == 3
    assert limiter.take("b", 1.0) > 0
    assert limiter.take("a", 1.0) == 0


@given(st.floats(0.1, 1_000), st.integers(1, 50), st.lists(st.floats(0, 3), min_size=1, max_size=200))
def test_no_more_than_burst_and_rate_allow(per_s: float, burst: int, gaps: list[float]) -> None:
    limiter = RateLimiter(Rate(per_s, burst))
    now_s = granted = 0.0
    for gap_s in gaps:
        now_s += gap_s
        wait_s = limiter.take("a", now_s)
        assert 0 <= wait_s <= 1 / per_s + 1e-6
        granted += wait_s == 0
    assert 1 <= granted <= burst + now_s * per_s + 1e-6


def test_retry_after_is_whole_seconds_and_at_least_one() -> None:
    assert [retry_after(wait_s) for wait_s in (0.01, 1.0, 1.2, 59.5)] == ["1", "1", "2", "60"]


@pytest.mark.parametrize(
    ("address", "peer"),
    [
        ("192.0.2.7", "192.0.2.7"),
        ("::ffff:192.0.2.7", "192.0.2.7"),
        ("2001:db8:1:2:3:4:5:6", "2001:db8:1:2::/64"),
        ("2001:db8:1:2::", "2001:db8:1:2::/64"),
        ("fe80::1%eth0", "fe80::/64"),
    ],
)
def test_a_v6_network_is_one_peer(address: str, peer: str) -> None:
    assert peer_of(address) == peer


# --- proxies ----------------------------------------------------------------------------------

TRUSTED = parse_networks(["10.0.0.0/8", "2001:db8:ffff::/48"], "trusted_proxies")


def request(peer: str, *headers: tuple[str, str]) -> web.BaseRequest:
    class Transport(asyncio.Transport):
        def get_extra_info(self, name: str, default: Any = None) -> Any:
            return (peer, 4_711) if name == "peername" else default

    class Fake:
        transport = Transport()

    fake = Fake()
    fake.headers = CIMultiDict(headers)  # type: ignore[attr-defined]
    return cast(web.BaseRequest, fake)


@pytest.mark.parametrize(
    ("peer", "headers", "client"),
    [
        ("192.0.2.1", [], "192.0.2.1"),
        ("192.0.2.1", [("X-Forwarded-For", "198.51.100.9")], "192.0.2.1"),  # anyone can write that
        ("192.0.2.1", [("Forwarded", "for=198.51.100.9")], "192.0.2.1"),
        ("10.0.0.1", [], "10.0.0.1"),
        ("10.0.0.1", [("X-Forwarded-For", "198.51.100.9")], "198.51.100.9"),
        ("10.0.0.1", [("X-Forwarded-For", "1.1.1.1, 198.51.100.9")], "198.51.100.9"),
        ("10.0.0.1", [("X-Forwarded-For", "1.1.1.1, 198.51.100.9, 10.9.9.9")], "198.51.100.9"),
        ("10.0.0.1", [("X-Forwarded-For", "1.1.1.1"), ("X-Forwarded-For", "198.51.100.9")], "198.51.100.9"),
        ("10.0.0.1", [("X-Forwarded-For", "198.51.100.9, nonsense")], "10.0.0.1"),
        ("10.0.0.1", [("X-Forwarded-For", "198.51.100.9, nonsense, 10.2.2.2")], "10.2.2.2"),
        ("10.0.0.1", [("X-Forwarded-For", "10.3.3.3, 10.2.2.2")], "10.3.3.3"),
        ("10.0.0.1", [("X-Forwarded-For", "198.51.100.9:5000")], "198.51.100.9"),
        ("10.0.0.1", [("X-Forwarded-For", "::ffff:198.51.100.9")], "198.51.100.9"),
        ("::ffff:10.0.0.1", [("X-Forwarded-For", "2001:db8::5")], "2001:db8::5"),
        ("2001:db8:ffff::1", [("Forwarded", 'For="[2001:db8:cafe::17]:4711"')], "2001:db8:cafe::17"),
        (
            "10.0.0.1",
            [("Forwarded", "for=1.1.1.1, proto=http; for=198.51.100.9;by=10.0.0.1")],
            "198.51.100.9",
        ),
        ("10.0.0.1", [("Forwarded", "for=198.51.100.9;host=x, for=10.2.2.2")], "198.51.100.9"),
        ("10.0.0.1", [("Forwarded", 'for="_a,b", for=198.51.100.9')], "198.51.100.9"),
        ("10.0.0.1", [("Forwarded", "for=198.51.100.9, for=unknown")], "10.0.0.1"),
        ("10.0.0.1", [("Forwarded", "for=198.51.100.9, for=_hidden")], "10.0.0.1"),
        ("10.0.0.1", [("Forwarded", "for=198.51.100.9, host=x")], "10.0.0.1"),
        ("10.0.0.1", [("Forwarded", "for=198.51.100.9"), ("X-Forwarded-For", "1.1.1.1")], "198.51.100.9"),
        ("10.0.0.1", [("Forwarded", "")], "10.0.0.1"),
    ],
)
def test_the_client_is_the_right_most_whom_no_proxy_of_ours_is(
    peer: str, headers: list[tuple[str, str]], client: str
) -> None:
    assert ClientAddress(TRUSTED).of(request(peer, *headers)) == client


def test_a_bad_network_is_named() -> None:
    with pytest.raises(ConfigError, match=r"trusted_proxies: .*10\.0\.0\.1/8"):
        parse_networks(["10.0.0.1/8"], "trusted_proxies")
