"""The secret of DNS cookies that all members share: read from the settings, rolled by the leader.

RFC 7873 §7.1 wants a secret used for no more than 26 hours; ours rolls every 24. `CookieSecrets` holds
the next and the previous one beside it, so a member that is a whole roll behind still agrees with
the others on every cookie that is alive.
"""

from __future__ import annotations

import secrets
from collections.abc import Callable
from typing import Final

import msgspec
import structlog

from aspen.decoding import UNDECODABLE
from aspen.dns.cookies import SECRET_BYTES, CookieMaker, CookieSecrets
from aspen.limits import DNS_COOKIE_CHECK_MS, DNS_COOKIE_SECRET_MS
from aspen.state.ports import Proposer
from aspen.state.settings import LmdbSettings, SettingPut

log = structlog.get_logger("aspen.dns.cookies")

SETTING: Final = "dns/cookie-secret"


def read_cookie_maker(settings: LmdbSettings) -> CookieMaker | None:
    """The cluster's cookies; None while there is no secret yet, or none of a form known here."""
    value = settings.get(SETTING)
    if value is None:
        return None
    try:
        return CookieMaker(msgspec.msgpack.decode(value, type=CookieSecrets))
    except (ValueError, *UNDECODABLE) as error:
        log.error("cookie_secret_unreadable", error=str(error))
        return None


class ClusterCookies:
    """The cookies as of now, for the node process: read again when `generation` has moved."""

    def __init__(self, settings: LmdbSettings, generation: Callable[[], int]) -> None:
        self._settings = settings
        self._generation = generation
        self._seen = -1
        self._maker: CookieMaker | None = None

    def __call__(self) -> CookieMaker | None:
        generation = self._generation()
        if generation != self._seen:
            # The word first, then the data, as everywhere.
            self._maker = read_cookie_maker(self._settings)
            self._seen = generation
        return self._maker


class CookieSecretDuty:
    """Makes the first secret, and rolls it (`aspen.services.housekeeping.Duty`)."""

    name = "dns_cookie_secret"
    interval_ms = DNS_COOKIE_CHECK_MS

    def __init__(self, proposer: Proposer, settings: LmdbSettings) -> None:
        self._proposer = proposer
        self._settings = settings

    async def run(self, now_ms: int, led_for_ms: int) -> bool:
        """One turn. Raises `ProposalError`."""
        maker = read_cookie_maker(self._settings)
        fresh = secrets.token_bytes(SECRET_BYTES)
        if maker is None:
            first = CookieSecrets(secrets.token_bytes(SECRET_BYTES), fresh, rolled_at_ms=now_ms)
            await self._put(first)
        elif now_ms - maker.secrets.rolled_at_ms >= DNS_COOKIE_SECRET_MS:
            await self._put(maker.secrets.rolled(fresh, now_ms))
        return False

    async def _put(self, value: CookieSecrets) -> None:
        await self._proposer.propose(SettingPut(SETTING, msgspec.msgpack.encode(value)))
