"""`aspen doctor` and the services that a configuration names: DNS discovery, pkarr relays, relays, the DHT.

Each is asked one harmless question. A web service's answer also tells the time, by which this machine's
clock is judged: signed packets and announcements of a clock that is off are refused.
"""

from __future__ import annotations

import asyncio
import email.utils
import time
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Final

import aiohttp

from aspen.cli.findings import Finding, ok, problem, skipped, warning
from aspen.errors import NetworkError, RelayError
from aspen.limits import DOCTOR_ASK_MS, GOSSIP_FUTURE_MS

if TYPE_CHECKING:
    from aspen.config import ClusterBootstrapConfig

_PKARR_RELAY: Final = "https://dns.iroh.link/pkarr"
# A key that nobody has, to ask for: the answer 404 is as good as any.
_NOBODY: Final = "y" * 52
_NO_PUT: Final = frozenset({401, 403, 404, 405, 501})
_TIMEOUT: Final = aiohttp.ClientTimeout(total=DOCTOR_ASK_MS / 1000)
_RELAY_CODES: Final = (
    "docs/relay.md, “When it doesn't work”; a relay that has a list of nodes may still let this one in"
)
_FIREWALL: Final = "check the URL, this machine's DNS and its firewall; or switch it off"


async def outside_findings(config: ClusterBootstrapConfig) -> list[Finding]:
    """All of them are asked at once; one that is dead holds up no other."""
    iroh = config.iroh
    asked: list[Awaitable[Finding]] = []
    found: list[Finding] = []
    if iroh.enable_dns_discovery:
        asked.append(dns_discovery(config))
    else:
        found.append(skipped("DNS discovery", "iroh.enable_dns_discovery is off"))
    if iroh.enable_pkarr and iroh.enable_pkarr_relay:
        urls = [url for url in (iroh.pkarr_relay_url, *iroh.pkarr_relay_urls) if url] or [_PKARR_RELAY]
        asked += [pkarr_relay(f"{url.rstrip('/')}/{_NOBODY}") for url in urls]
    else:
        found.append(skipped("pkarr relay", "iroh.enable_pkarr or enable_pkarr_relay is off"))
    relays = [url for url in (iroh.relay_url, *iroh.relay_urls) if url]
    asked += [relay(url, config) for url in relays]
    if not relays:
        found.append(skipped("relay", "no iroh.relay_url is given"))
    for setting, hosts in (
        ("iroh.bootstrap_nodes", iroh.bootstrap_nodes),
        ("dns_server.dht_bootstrap_nodes", config.dns_server.dht_bootstrap_nodes),
    ):
        asked += [host_name(setting, text) for text in hosts]
    return [*await asyncio.gather(*asked), *found]


async def dns_discovery(config: ClusterBootstrapConfig) -> Finding:
    from aspen.dns.client import DnsClient, DohDns, PlainDns
    from aspen.dns.name import name_from_text
    from aspen.dns.wire import TXT

    topic = "DNS discovery"
    server = config.iroh.dns_discovery
    assert server is not None
    client: DnsClient = DohDns(server.doh_url) if server.doh_url else PlainDns([(server.host, server.port)])
    where = server.doh_url or f"{server.host}:{server.port}"
    try:
        async with asyncio.timeout(DOCTOR_ASK_MS / 1000):
            await client.ask(name_from_text(f"_iroh.{_NOBODY}.{config.dns_server.all_origins[0]}"), TXT)
    except (NetworkError, TimeoutError, OSError) as error:
        why = str(error) or "it is silent"
        return problem(topic, f"{where} does not answer: {why}", f"{_FIREWALL} (iroh.enable_dns_discovery)")
    finally:
        await client.close()
    return ok(topic, f"{where} answers")


async def relay(url: str, config: ClusterBootstrapConfig) -> Finding:
    """Whether it is there, and lets in who knows the cookie."""
    from aspen.identity import Cookies
    from aspen.relay.access import COOKIE_CONTEXT, parse_relay_url
    from aspen.relay.client import knock

    parsed = parse_relay_url("iroh.relay_url", url)
    address = "http" + parsed.websocket.removeprefix("ws")
    there = await web("relay", address, 'iroh.relay_mode, by "disabled"')
    if there.level != "ok":
        return there
    cookies = Cookies.of(config.all_cookies).authenticators(COOKIE_CONTEXT) if config.cookie else ()
    try:
        await knock(parsed, cookies)
    except RelayError as error:
        return problem("relay", f"{url} does not let in who knows this node's cookie: {error}", _RELAY_CODES)
    except (aiohttp.ClientError, OSError) as error:
        return problem("relay", f"{url} is no relay: {error or 'it is silent'}", _RELAY_CODES)
    return ok("relay", f"{url} answers, and lets in who knows the cookie")


async def pkarr_relay(url: str) -> Finding:
    """Whether it can be asked, and would take a packet. What is put there is none: it is to be refused."""
    topic, setting = "pkarr relay", "iroh.enable_pkarr_relay"
    found = await web(topic, url, setting)
    if found.level != "ok":
        return found
    try:
        async with (
            aiohttp.ClientSession(timeout=_TIMEOUT) as session,
            session.put(url, data=b"no packet", allow_redirects=False) as response,
        ):
            status = response.status
    except (aiohttp.ClientError, OSError, TimeoutError) as error:
        return problem(topic, f"{url} takes no PUT: {error or 'it is silent'}", f"{_FIREWALL} ({setting})")
    if status in _NO_PUT or status < 400:
        return problem(
            topic, f"{url} answers a PUT with status {status}", "see that the URL is that of a pkarr relay"
        )
    return ok(topic, f"{url} answers, and takes packets")


async def web(topic: str, url: str, setting: str) -> Finding:
    """A web service: any answer but an error of its own is one."""
    try:
        async with (
            aiohttp.ClientSession(timeout=_TIMEOUT) as session,
            session.get(url, allow_redirects=False) as response,
        ):
            status, date = response.status, response.headers.get("Date", "")
    except (aiohttp.ClientError, OSError, TimeoutError, ValueError) as error:
        return problem(topic, f"{url} does not answer: {error or 'it is silent'}", f"{_FIREWALL} ({setting})")
    if status >= 500:
        return problem(topic, f"{url} answers with status {status}", "ask who runs it, or name another")
    off_ms = clock_difference_ms(date, time.time)
    if off_ms is not None and abs(off_ms) > GOSSIP_FUTURE_MS:
        way = "ahead of" if off_ms > 0 else "behind"
        return problem(
            "clock",
            f"this machine's clock is {abs(off_ms) // 1000} s {way} that of {url}",
            "let NTP set it (timedatectl set-ntp true)",
        )
    return ok(topic, f"{url} answers")


def clock_difference_ms(date: str, clock: Callable[[], float]) -> int | None:
    """This clock minus that of a `Date` header; None if there is none."""
    try:
        told = email.utils.parsedate_to_datetime(date).timestamp()
    except (ValueError, TypeError, IndexError):
        return None
    return int((clock() - told) * 1000)


async def host_name(setting: str, text: str) -> Finding:
    from aspen.config import parse_address
    from aspen.errors import ConfigError

    try:
        host = parse_address(setting, text)[0]
    except ConfigError:
        host = text.strip("[]")
    try:
        async with asyncio.timeout(DOCTOR_ASK_MS / 1000):
            found = await asyncio.get_running_loop().getaddrinfo(host, None)
    except (OSError, TimeoutError) as error:
        why = getattr(error, "strerror", "") or "it is silent"
        return warning("names", f"{setting}: {host} can't be looked up: {why}", "correct the name")
    return ok("names", f"{setting}: {host} is {found[0][4][0]}")
