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
from aspen.identity import Cookie

_CONTEXT: Final = "aspen 2026 private keys in settings v1"


class Box:
    """Seals and opens values of settings."""

    def __init__(self, cookie: Cookie) -> None:
        self._aead = nacl.secret.Aead(cookie.derive(_CONTEXT))

    def seal(self, name: str, value: bytes) -> bytes:
        """`value`, as setting `name` may hold it. Different each time."""
        return bytes(self._aead.encrypt(value, aad=name.encode()))

    def open(self, name: str, sealed: bytes) -> bytes:
        """Raises `CertificateError` if it was sealed under another cookie, or for another setting."""
        try:
            return self._aead.decrypt(sealed, aad=name.encode())
        except (nacl.exceptions.CryptoError, nacl.exceptions.ValueError, nacl.exceptions.TypeError):
            raise CertificateError(f"the setting {name} was sealed under another cookie") from None
