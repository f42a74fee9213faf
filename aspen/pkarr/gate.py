"""Who may publish, and how often: lists of keys, and token buckets per address, per key and for all.

The order matters. A client's address is looked at before anything is read of it, so a flood costs
little. A key is looked at when the signature is verified, or anybody could use up another's tokens;
and so are the tokens of all together, which garbage must not use up.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import lru_cache
from ipaddress import ip_address
from typing import Final, Protocol

from aspen.errors import HttpError
from aspen.http.forwarded import ClientAddress, Network
from aspen.http.routing import Request
from aspen.limits import PKARR_WATCHES_PER_CLIENT, RATE_LIMIT_PEERS
from aspen.ratelimit import Rate, RateLimiter, peer_of, retry_after
from aspen.z32 import encode_key

_LISTS: Final = "pkarr/"
DENIED: Final = _LISTS + "denied/"
ALLOWED: Final = _LISTS + "allowed/"
LIMITS: Final = ("put_per_address", "put_per_key", "put_in_all", "get_per_address", "watches")
"""Settings of the whole cluster: these prefixes and a key's z-base-32; the value is a reason."""

UNLIMITED: Final = Rate(0, 0)


class KeySettings(Protocol):
    """Settings of the whole cluster."""

    def get(self, name: str) -> bytes | None: ...

    def any_under(self, prefix: str) -> bool: ...


@dataclass(frozen=True, slots=True)
class GateRules:
    """What the configuration says."""

    put_per_address: Rate = UNLIMITED
    put_per_key: Rate = UNLIMITED
    put_in_all: Rate = UNLIMITED
    get_per_address: Rate = UNLIMITED
    limit_loopback: bool = False
    """Whether clients on this machine are limited too."""
    trusted_proxies: Sequence[Network] = ()
    denied: frozenset[bytes] = field(default_factory=frozenset)
    allowed: frozenset[bytes] = field(default_factory=frozenset)
    """If there are any, here or in the cluster's settings, other keys are refused."""


class Gate:
    """Every check raises `HttpError`: 429 for too often, 403 for not at all."""

    def __init__(
        self,
        rules: GateRules | None = None,
        settings: KeySettings | None = None,
        *,
        now_s: Callable[[], float] = time.monotonic,
    ) -> None:
        self._rules = rules = rules if rules is not None else GateRules()
        self._settings = settings
        self._now_s = now_s
        self._addresses = ClientAddress(rules.trusted_proxies)
        self._puts = RateLimiter(rules.put_per_address)
        self._keys = RateLimiter(rules.put_per_key)
        self._all = RateLimiter(rules.put_in_all, 1)
        self._gets = RateLimiter(rules.get_per_address)
        self._watching: Counter[str] = Counter()
        self.limited: Counter[str] = Counter()
        """Requests refused for coming too often, by the limit they were over, of `LIMITS`."""

    def before_put(self, request: Request) -> None:
        """Before the body is read."""
        self._address(request, self._puts, "put_per_address", "packets")

    def before_get(self, request: Request) -> None:
        self._address(request, self._gets, "get_per_address", "lookups")

    def verified(self, request: Request, public_key: bytes) -> None:
        """The packet is good, and would be a log entry."""
        if self._client(request) is None:
            return
        self._take(self._keys, public_key, "put_per_key", "packets under this key")
        self._take(self._all, None, "put_in_all", "packets from all clients together")

    def admit(self, public_key: bytes) -> None:
        """Whether the lists let a key publish."""
        rules, settings = self._rules, self._settings
        if public_key in rules.denied:
            raise HttpError(403, "denied", "this relay takes no packets under this key")
        if settings is not None and not settings.any_under(_LISTS):
            settings = None  # nothing to look up: the usual case costs one read
        if settings is None and not rules.allowed:
            return
        z32 = encode_key(public_key)
        if settings is not None and (reason := settings.get(DENIED + z32)) is not None:
            text = reason.decode("utf-8", "replace")
            raise HttpError(403, "denied", text or "this relay takes no packets under this key")
        restricted = bool(rules.allowed) or (settings is not None and settings.any_under(ALLOWED))
        if not restricted or public_key in rules.allowed:
            return
        if settings is None or settings.get(ALLOWED + z32) is None:
            raise HttpError(403, "not_allowed", "this relay takes packets under the keys on its list only")

    @contextmanager
    def watching(self, request: Request) -> Iterator[None]:
        """A client opens a stream: it may have so many at one time."""
        client = self._client(request)
        if client is None:
            yield
            return
        if self._watching[client] >= PKARR_WATCHES_PER_CLIENT:
            self.limited["watches"] += 1
            raise _too_often(f"{PKARR_WATCHES_PER_CLIENT} streams to your address are open", 1)
        self._watching[client] += 1
        try:
            yield
        finally:
            self._watching[client] -= 1
            if not self._watching[client]:
                del self._watching[client]

    def _client(self, request: Request) -> str | None:
        """Whose buckets a request draws from; None if it isn't limited."""
        peer, is_loopback = _known(self._addresses.of(request))
        return None if is_loopback and not self._rules.limit_loopback else peer

    def _address(self, request: Request, limiter: RateLimiter, name: str, what: str) -> None:
        if not limiter.rate.unlimited and (client := self._client(request)) is not None:
            self._take(limiter, client, name, f"{what} from your address")

    def _take(self, limiter: RateLimiter, peer: str | bytes | None, name: str, what: str) -> None:
        wait_s = limiter.take(peer, self._now_s())
        if wait_s > 0:
            self.limited[name] += 1
            raise _too_often(f"too many {what}: {limiter.rate.per_s:g} a second are taken", wait_s)


@lru_cache(RATE_LIMIT_PEERS)
def _known(address: str) -> tuple[str, bool]:
    """Whose bucket an address draws from, and whether it is this machine's."""
    return peer_of(address), ip_address(address).is_loopback


def _too_often(reason: str, wait_s: float) -> HttpError:
    return HttpError(429, "rate_limited", reason, headers={"Retry-After": retry_after(wait_s)})
