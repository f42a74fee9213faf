"""Private keys in the replicated state, where every disk and snapshot of the cluster has them: sealed.

The key is derived from the cluster's cookie (BLAKE3 `derive_key`), which every member knows and no disk
holds; the cipher is XChaCha20-Poly1305, with the setting's name as associated data, so that one sealed
value can't stand in for another. Who holds a disk and guesses the cookie can open them: choose a long one.
"""

from __future__ import annotations

from typing import Final

import nacl.exceptions
import nacl.secret

from aspen.errors import CertificateError
from aspen.identity import Cookie, Cookies

_CONTEXT: Final = "aspen 2026 private keys in settings v1"


class Box:
    """Seals and opens values of settings."""

    def __init__(self, cookies: Cookies) -> None:
        self._cookies = cookies

    def seal(self, name: str, value: bytes) -> bytes:
        """`value`, as setting `name` may hold it. Different each time."""
        return bytes(_aead(self._cookies.current).encrypt(value, aad=name.encode()))

    def open(self, name: str, sealed: bytes) -> bytes:
        """Raises `CertificateError` if it was sealed under another cookie, or for another setting."""
        for cookie in self._cookies.all:
            value = _opened(cookie, name, sealed)
            if value is not None:
                return value
        raise CertificateError(f"the setting {name} was sealed under another cookie")

    def is_old(self, name: str, sealed: bytes) -> bool:
        """Whether it can be opened by a cookie that is accepted still, and not by the one in use."""
        if _opened(self._cookies.current, name, sealed) is not None:
            return False
        return any(_opened(cookie, name, sealed) is not None for cookie in self._cookies.all[1:])


def _aead(cookie: Cookie) -> nacl.secret.Aead:
    return nacl.secret.Aead(cookie.derive(_CONTEXT))


def _opened(cookie: Cookie, name: str, sealed: bytes) -> bytes | None:
    try:
        return _aead(cookie).decrypt(sealed, aad=name.encode())
    except (nacl.exceptions.CryptoError, nacl.exceptions.ValueError, nacl.exceptions.TypeError):
        return None
