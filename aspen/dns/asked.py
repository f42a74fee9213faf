"""A message on its way to an answer that takes more than a look at the replica: who asks, and what is said.

Shared by transfers, updates and whatever else `primary` answers.
"""

from __future__ import annotations

from typing import Any, Final, NamedTuple

from aspen.dns.name import HEADER_BYTES, name_to_text
from aspen.dns.networks import networks, packed_address
from aspen.dns.respond import Transport
from aspen.dns.tsig import Signer
from aspen.dns.wire import (
    EDE_NOT_AUTHORITATIVE,
    EDE_OPTION,
    OPCODE_MASK,
    Edns,
    Rcode,
    opt_record,
    reply_header,
)
from aspen.errors import ConfigError

EDE_OTHER: Final = 0
EDE_NOT_READY: Final = 14


class Failure(NamedTuple):
    """A response code and why (RFC 8914), for clients that speak EDNS."""

    rcode: Rcode
    info_code: int | None = None
    text: str = ""

    def options(self) -> bytes:
        if self.info_code is None:
            return b""
        data = self.info_code.to_bytes(2, "big") + self.text.encode()
        return EDE_OPTION.to_bytes(2, "big") + len(data).to_bytes(2, "big") + data


NOT_OURS: Final = Failure(Rcode.NOTAUTH, EDE_NOT_AUTHORITATIVE)


class Asked(NamedTuple):
    """A message, verified if it was signed, on its way to an answer."""

    message: bytes
    """Without its TSIG record."""
    client: Any
    transport: Transport
    signer: Signer | None

    @property
    def opcode(self) -> int:
        return (self.message[2] & OPCODE_MASK) >> 3

    def allowed(self, acl: tuple[str, ...], keys: tuple[str, ...]) -> bool:
        """By its address alone, or by the key that it is signed with."""
        signer = self.signer
        if signer is not None and name_to_text(signer.key.name) in (_dotted(key) for key in keys):
            return True
        try:
            return packed_address(self.client) in networks(acl)
        except ConfigError:  # an entry that an earlier version let in: nobody's
            return False

    @property
    def client_text(self) -> str:
        try:
            return f"{self.client[0]}:{self.client[1]}"
        except (TypeError, IndexError):
            return "unknown"


def bare_reply(
    message: bytes, question_end: int, edns: Edns | None, failure: Failure, flags: int = 0
) -> bytes:
    """The question (or zone section) echoed with a response code and, under EDNS, an OPT record."""
    question = message[HEADER_BYTES:question_end]
    opt = b"" if edns is None else opt_record(edns, failure.rcode, failure.options())
    counts = (1, 0, 0, 1 if opt else 0)
    return reply_header(message, failure.rcode, flags, counts) + question + opt


def _dotted(name: str) -> str:
    return name.lower().rstrip(".") + "."
