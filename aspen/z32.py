"""z-base-32 (Zooko O'Whielacronx, 2002): the spelling of public keys in names and URLs.

A 32-byte key is 52 characters: 260 bits, of which the last 4 must be zero. Decoding is
strict, so that every key has exactly one spelling apart from letter case.
"""

from __future__ import annotations

from typing import Final

from aspen.errors import IdentityError

ALPHABET: Final = "ybndrfg8ejkmcpqxot1uwisza345h769"
KEY_CHARS: Final = 52
_KEY_BYTES: Final = 32
_PAD_BITS: Final = KEY_CHARS * 5 - _KEY_BYTES * 8

# Digits are read by int(text, 32), far faster than a loop: translate to Python's base-32 digits.
_PYTHON_DIGITS: Final = "0123456789abcdefghijklmnopqrstuv"
_TO_DIGITS: Final = bytes(
    ord(_PYTHON_DIGITS[ALPHABET.index(chr(c))]) if chr(c) in ALPHABET else 0xFF for c in range(256)
)


def encode_key(key: bytes) -> str:
    """Spell a 32-byte key as 52 lower-case characters."""
    if len(key) != _KEY_BYTES:
        raise IdentityError(f"a key is {_KEY_BYTES} bytes, not {len(key)}")
    number = int.from_bytes(key, "big") << _PAD_BITS
    return "".join(ALPHABET[number >> shift & 31] for shift in range(5 * (KEY_CHARS - 1), -1, -5))


def decode_key(text_untrusted: str | bytes, *, any_case: bool = False) -> bytes:
    """Read a 52-character spelling; `any_case` also takes upper case (DNS names, RFC 4343).

    Raises `IdentityError` on a wrong length, a character outside the alphabet, or padding
    bits that are not zero.
    """
    if isinstance(text_untrusted, str):
        try:
            raw = text_untrusted.encode("ascii")
        except UnicodeEncodeError:
            raise IdentityError("a z-base-32 key has only ASCII characters") from None
    else:
        raw = text_untrusted
    if len(raw) != KEY_CHARS:
        raise IdentityError(f"a z-base-32 key has {KEY_CHARS} characters, not {len(raw)}")
    digits = (raw.lower() if any_case else raw).translate(_TO_DIGITS)
    try:
        number = int(digits, 32)
    except ValueError:
        raise IdentityError("a character is not in the z-base-32 alphabet") from None
    if number & ((1 << _PAD_BITS) - 1):
        raise IdentityError("the padding bits of a z-base-32 key must be zero")
    return (number >> _PAD_BITS).to_bytes(_KEY_BYTES, "big")
