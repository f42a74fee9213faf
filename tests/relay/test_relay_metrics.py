"""A relay's own `/metrics`: what it counts, and who may read it. The page: tests/e2e/test_e2e_metrics.py."""

from __future__ import annotations

import aiohttp
import pytest
from prometheus_client.parser import text_string_to_metric_families
from relay_stations import Lines, Relays

from aspen.errors import ConfigError
from aspen.relay.access import Access
from aspen.relay.hub import RelayLimits
from aspen.relay.standalone import StandaloneRelay

LOOPBACK = ("127.0.0.1", 0)
ALL = ("0.0.0.0", 0)
TOKEN = "of the operators"


async def get(address: tuple[str, int], **headers: str) -> tuple[int, str]:
    url = f"http://127.0.0.1:{address[1]}/metrics"
    async with aiohttp.ClientSession() as session, session.get(url, headers=headers) as answer:
        return answer.status, await answer.text()


async def samples(relay: StandaloneRelay) -> dict[tuple[str, str], float]:
    """By name and reason."""
    status, text = await get(relay.address)
    assert status == 200, text
    return {
        (sample.name, sample.labels.get("reason", "")): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


async def test_clients_datagrams_and_refusals_are_counted(relay: Relays, line: Lines) -> None:
    there = await relay(limits=RelayLimits(clients=7))
    one, other = [await line(there) for _ in range(2)]
    stranger = await line(there, cookie="another cookie than the relay has", wait=False)
    await stranger.fails("is for others")
    await stranger.client.stop()
    one.client.send(other.id, b"x" * 100)
    assert await other.hears() == (one.id, b"x" * 100)
    one.client.send(stranger.id, b"lost")
    assert await one.gone.get() == stranger.id
    told = await samples(there)
    refused = told.pop(("aspen_relay_refused_total", "not_allowed"))
    assert refused >= 1  # it tries again
    assert {name: value for name, value in told.items() if name[0].startswith("aspen_")} == {
        ("aspen_relay_info", ""): 1,
        ("aspen_relay_clients", ""): 2,
        ("aspen_relay_max_clients", ""): 7,
        ("aspen_relay_handshakes", ""): 0,
        ("aspen_relay_connections_total", ""): 2,
        ("aspen_relay_queued_bytes", ""): 0,
        ("aspen_relay_forwarded_datagrams_total", ""): 1,
        ("aspen_relay_forwarded_bytes_total", ""): 100,
        ("aspen_relay_dropped_datagrams_total", "gone"): 1,
        ("aspen_relay_dropped_datagrams_total", "queue"): 0,
        ("aspen_relay_dropped_datagrams_total", "rate"): 0,
    }


@pytest.mark.parametrize(
    ("listen", "admin", "tokens", "here", "there"),
    [
        (LOOPBACK, None, (), 200, None),
        (ALL, None, (), 404, None),
        (ALL, None, (TOKEN,), 401, None),
        (LOOPBACK, LOOPBACK, (), 404, 200),
        (ALL, LOOPBACK, (), 404, 200),
        (ALL, ALL, (TOKEN,), 404, 401),
    ],
)
async def test_metrics_are_for_this_machine_or_for_who_holds_a_token(
    listen: tuple[str, int],
    admin: tuple[str, int] | None,
    tokens: tuple[str, ...],
    here: int,
    there: int | None,
) -> None:
    relay = StandaloneRelay(Access(open=True), RelayLimits(), tokens=tokens)
    await relay.start(listen, admin)
    try:
        assert (await get(relay.address))[0] == here
        served = relay.metrics_address
        assert (served is None) == (here == 404 and there is None)
        if served is not None:
            assert (await get(served))[0] == (there or here)
            assert (await get(served, Authorization=f"Bearer {TOKEN}"))[0] == 200
            assert (await get(served, Authorization="Bearer another"))[0] == (401 if tokens else 200)
            assert (await get(served, Origin="https://example.com"))[0] == 403
            assert (await get(served, Host="relay.example.com"))[0] == (401 if tokens else 403)
    finally:
        await relay.close()


async def test_metrics_are_open_to_nobody_elsewhere_and_without_a_token() -> None:
    relay = StandaloneRelay(Access(open=True), RelayLimits())
    with pytest.raises(ConfigError, match="is not loopback: set a token"):
        await relay.start(LOOPBACK, ALL)
    await relay.start(LOOPBACK)
    taken = StandaloneRelay(Access(open=True), RelayLimits())
    with pytest.raises(ConfigError, match="can't listen"):
        await taken.start(LOOPBACK, relay.address)
    await relay.close()
