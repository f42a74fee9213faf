"""A node's identity and the cluster's shared secret.

The identity is an Ed25519 key pair (RFC 8032). Its public key is the node's *endpoint id*,
spelled in z-base-32. The cookie is the cluster's shared secret; keys for each use are derived
from it with BLAKE3's `derive_key` and a context string of their own, so that what one use
reveals (a gossip topic, say) tells nothing about another (the handshake).
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final, overload

import blake3
import nacl.exceptions
import nacl.signing

from aspen.errors import ConfigError, IdentityError
from aspen.z32 import decode_key, encode_key

EndpointId = bytes
"""A node's Ed25519 public key, 32 bytes."""

SEED_BYTES: Final = 32
COOKIE_MIN_CHARS: Final = 8
# Cookies that stand in documents and examples; whoever copies them shares a secret with everyone.
EXAMPLE_COOKIES: Final = frozenset(
    {
        "aspen",
        "aspen-cookie",
        "aspen-cookie-unsafe-change-me",
        "change-me",
        "changeme",
        "cookie",
        "default-cookie",
        "my-cluster-secret",
        "production-cluster-secret",
        "secret",
        "shared-cluster-secret",
    }
)


@dataclass(frozen=True, slots=True)
class Identity:
    """An Ed25519 key pair. `repr` shows the public half only."""

    signing_key: nacl.signing.SigningKey
    endpoint_id: EndpointId

    def __repr__(self) -> str:
        return f"Identity({self.z32})"

    @property
    def z32(self) -> str:
        return encode_key(self.endpoint_id)

    @property
    def seed(self) -> bytes:
        """The 32-byte secret seed (RFC 8032 §5.1.5)."""
        return bytes(self.signing_key)

    def sign(self, message: bytes) -> bytes:
        """A 64-byte Ed25519 signature."""
        return bytes(self.signing_key.sign(message).signature)

    @classmethod
    def generate(cls) -> Identity:
        return cls.from_seed(os.urandom(SEED_BYTES))

    @classmethod
    def from_seed(cls, seed: bytes) -> Identity:
        if len(seed) != SEED_BYTES:
            raise IdentityError(f"a secret key is {SEED_BYTES} bytes, not {len(seed)}")
        signing_key = nacl.signing.SigningKey(seed)
        return cls(signing_key, bytes(signing_key.verify_key))

    @classmethod
    def from_hex(cls, text: str) -> Identity:
        """Read 64 hexadecimal digits."""
        try:
            seed = bytes.fromhex(text.strip())
        except ValueError:
            raise IdentityError("a secret key is 64 hexadecimal digits") from None
        if len(seed) != SEED_BYTES:
            raise IdentityError("a secret key is 64 hexadecimal digits")
        return cls.from_seed(seed)

    @classmethod
    def load(cls, path: Path) -> Identity:
        """Read a key file (64 hexadecimal digits). Raises `IdentityError` naming the file."""
        try:
            text = path.read_text("ascii", "replace")
        except OSError as error:
            raise IdentityError(f"can't read the key file {path}: {error}") from None
        try:
            return cls.from_hex(text)
        except IdentityError as error:
            raise IdentityError(f"{path}: {error}") from None

    def save(self, path: Path) -> None:
        """Write a new key file, mode 0600, on disk before this returns. Never overwrites.

        Raises `FileExistsError` if the file is there already.
        """
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with os.fdopen(descriptor, "w", encoding="ascii") as file:
            file.write(self.seed.hex() + "\n")
            file.flush()
            os.fsync(file.fileno())
        sync_directory(path.parent)

    @classmethod
    def load_or_create(cls, path: Path) -> Identity:
        """The identity in `path`, made on first use."""
        if path.exists():
            return cls.load(path)
        identity = cls.generate()
        identity.save(path)
        return identity


def sync_directory(path: Path) -> None:
    """fsync a directory, so that a file just created or renamed in it survives a power cut."""
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def parse_endpoint_id(text_untrusted: str) -> EndpointId:
    """Read an endpoint id: 52 z-base-32 characters or 64 hexadecimal digits."""
    text = text_untrusted.strip()
    if len(text) == 64:
        try:
            return bytes.fromhex(text)
        except ValueError:
            raise IdentityError("an endpoint id of 64 characters must be hexadecimal") from None
    return decode_key(text)


def verify(endpoint_id: EndpointId, message: bytes, signature: bytes) -> bool:
    """Whether `signature` is the key's Ed25519 signature of `message`."""
    try:
        nacl.signing.VerifyKey(endpoint_id).verify(message, signature)
    except (nacl.exceptions.BadSignatureError, nacl.exceptions.CryptoError, ValueError, TypeError):
        return False
    return True


class Cookie:
    """The cluster's shared secret. Never printed, logged or sent; only keys derived from it are used."""

    __slots__ = ("_secret",)

    def __init__(self, text: str) -> None:
        """Raises `ConfigError` for an empty, short or example cookie."""
        cleaned = text.strip()
        if not cleaned:
            raise ConfigError(
                "the cluster cookie is empty: give every node of a cluster the same secret, by ASPEN_COOKIE"
            )
        if cleaned.lower() in EXAMPLE_COOKIES:
            raise ConfigError("the cluster cookie is one from the documentation: choose a secret of your own")
        if len(cleaned) < COOKIE_MIN_CHARS:
            raise ConfigError(f"the cluster cookie is shorter than {COOKIE_MIN_CHARS} characters")
        self._secret = cleaned.encode()

    def __repr__(self) -> str:
        return "Cookie(…)"

    def derive(self, context: str) -> bytes:
        """A 32-byte key for one use; `context` names that use, globally unique (BLAKE3 §6.2)."""
        return blake3.blake3(self._secret, derive_key_context=context).digest()

    def authenticator(self, context: str) -> Callable[[bytes], bytes]:
        """A keyed BLAKE3 MAC (32 bytes) under the key derived for `context`."""
        key = self.derive(context)
        return lambda message: blake3.blake3(message, key=key).digest()


Authenticator = Callable[[bytes], bytes]
"""Makes the MAC of a message."""


class Cookies:
    """The cookie in use, and those accepted beside it while it is being changed. Others share this object:
    what is changed here, they see."""

    def __init__(self, *cookies: Cookie) -> None:
        self.change(*cookies)

    def __repr__(self) -> str:
        return f"Cookies({len(self.all)})"

    def change(self, current: Cookie, *accepted: Cookie) -> None:
        self.all: tuple[Cookie, ...] = (current, *accepted)
        """The one in use first."""

    @property
    def current(self) -> Cookie:
        return self.all[0]

    @classmethod
    def of(cls, texts: Iterable[str]) -> Cookies:
        """Raises `ConfigError`."""
        return cls(*map(Cookie, texts))

    def authenticators(self, context: str) -> Authenticators:
        return Authenticators(self, context)


class Authenticators(Sequence[Authenticator]):
    """One for each cookie, the one in use first; they change as the cookies do."""

    def __init__(self, cookies: Cookies, context: str) -> None:
        self._cookies = cookies
        self._context = context
        self._made_of: tuple[Cookie, ...] = ()
        self._made: tuple[Authenticator, ...] = ()

    def __len__(self) -> int:
        return len(self._now())

    @overload
    def __getitem__(self, index: int) -> Authenticator: ...

    @overload
    def __getitem__(self, index: slice) -> Sequence[Authenticator]: ...

    def __getitem__(self, index: int | slice) -> Authenticator | Sequence[Authenticator]:
        return self._now()[index]

    def _now(self) -> tuple[Authenticator, ...]:
        if self._made_of is not self._cookies.all:
            self._made_of = self._cookies.all
            self._made = tuple(cookie.authenticator(self._context) for cookie in self._made_of)
        return self._made


def fingerprint(data: bytes) -> str:
    """A short, loggable name for bytes that must not be logged themselves."""
    return hashlib.blake2b(data, digest_size=6).hexdigest()
