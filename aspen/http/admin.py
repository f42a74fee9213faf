"""Who may use the admin routes.

They change and reveal everything, so they are served on loopback, or to whoever holds the
token. A web page in the operator's browser can reach loopback too: so requests that a page of
another origin caused are refused (`Origin`, `Sec-Fetch-Site`), and without a token also those
that came by a name that isn't this machine's (DNS rebinding shows in `Host`).
"""

from __future__ import annotations

import hmac
import re
from collections.abc import Sequence
from ipaddress import ip_address
from typing import Final

from aspen.errors import ConfigError, HttpError
from aspen.http.request import target_of
from aspen.http.routing import Request

_PORT: Final = re.compile(r":[0-9]*$")
_SAME_ORIGIN: Final = frozenset({"same-origin", "none"})
_CHALLENGE: Final = {"WWW-Authenticate": 'Bearer realm="aspen"'}


class AdminGuard:
    """Checks one request after the other; `check` raises `HttpError` 401 or 403."""

    def __init__(self, tokens: Sequence[str] = ()) -> None:
        """Any of the tokens will do; without one, what counts is to be on this machine."""
        self._tokens = [token.encode() for token in tokens]

    @property
    def asks_for_token(self) -> bool:
        return bool(self._tokens)

    def accept(self, tokens: Sequence[str]) -> None:
        """Other tokens count from now on. Raises `ConfigError` between some and none: which listeners serve
        the admin routes depends on it."""
        if bool(tokens) != bool(self._tokens):
            raise ConfigError("whether there is an admin_token is settled at the start: restart the node")
        self._tokens = [token.encode() for token in tokens]

    def check(self, request: Request) -> None:
        host = self._check_host(request)
        origin = request.headers.get("Origin")
        fetch_site = request.headers.get("Sec-Fetch-Site", "none")
        if fetch_site not in _SAME_ORIGIN or (origin is not None and not _same_origin(origin, host)):
            raise HttpError(403, "cross_origin", "admin routes don't answer to web pages of another origin")
        if self._tokens:
            self._check_token(request.headers.get("Authorization"))

    def check_page(self, request: Request) -> None:
        """Of a page: it may be linked to from anywhere, tells nothing, and asks for the token itself."""
        self._check_host(request)

    def _check_host(self, request: Request) -> str:
        host = target_of(request)[2] or request.headers.get("Host") or ""
        if not self._tokens and not names_loopback(host):
            raise HttpError(
                403, "forbidden_host", "admin routes answer only to the name localhost or a loopback address"
            )
        return host

    def _check_token(self, authorization: str | None) -> None:
        if authorization is None:
            raise HttpError(401, "unauthorized", "a bearer token is required", headers=_CHALLENGE)
        scheme, _, given = authorization.partition(" ")
        # Compared in constant time, so that a token can't be guessed byte by byte.
        told = given.strip().encode("utf-8", "surrogateescape")
        matches = [hmac.compare_digest(told, token) for token in self._tokens]
        if scheme.lower() != "bearer" or not any(matches):
            raise HttpError(401, "unauthorized", "the bearer token is not this node's", headers=_CHALLENGE)


def names_loopback(authority_untrusted: str) -> bool:
    """Whether a host or a `Host` value is `localhost` or a loopback address."""
    host = _PORT.sub("", authority_untrusted) if "]" in authority_untrusted else authority_untrusted
    if host.count(":") == 1:  # more of them are an IPv6 address
        host = _PORT.sub("", host)
    if host.startswith("[") and host.endswith("]"):
        host = host[1:-1]
    if host.lower() in ("localhost", "localhost."):
        return True
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return False


def _same_origin(origin: str, host: str) -> bool:
    scheme, separator, authority = origin.partition("://")
    return bool(separator) and scheme in ("http", "https") and authority.lower() == host.lower()
