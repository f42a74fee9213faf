"""How an endpoint can be reached, as iroh writes it into its packet (iroh, `endpoint_info`).

At `_iroh.<key>` stand TXT records, one attribute each: `relay=<URL>`, `addr=<ip:port>` (any number),
`user-data=<text>`. Readers here pass over attributes they don't know and addresses they can't read; iroh's
own reader gives the whole packet up for one unknown attribute, so nothing else is ever written.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable, Sequence
from typing import Final, NamedTuple, Self

from aspen.dns.message import read_record, section_counts, skip_questions
from aspen.dns.svcparams import quote_string
from aspen.pkarr.packet import SignedPacket
from aspen.z32 import encode_key

LABEL: Final = "_iroh"
USER_DATA_BYTES: Final = 245
_TXT: Final = 16
_IN: Final = 1

Address = tuple[str, int]
"""IP address and UDP port."""


class EndpointInfo(NamedTuple):
    """Where an endpoint says that it can be reached."""

    addresses: tuple[Address, ...] = ()
    relay_urls: tuple[str, ...] = ()
    user_data: str | None = None

    def records(self) -> list[str]:
        """The records that say so, for `build_message`."""
        attributes = [f"relay={url}" for url in self.relay_urls]
        attributes += [f"addr={format_address(address)}" for address in self.addresses]
        if self.user_data is not None:
            attributes.append(f"user-data={self.user_data}")
        return [f"{LABEL} TXT {quote_string(text.encode())}" for text in attributes]

    @classmethod
    def of_attributes(cls, texts_untrusted: Iterable[str]) -> Self:
        """What the texts at `_iroh` say."""
        addresses: dict[Address, None] = {}
        relay_urls: dict[str, None] = {}
        user_data = None
        for text in texts_untrusted:
            name, _, value = text.partition("=")
            if name == "relay":
                relay_urls[value] = None
            elif name == "user-data":
                user_data = value
            elif name == "addr":
                address = parse_address(value)
                if address is not None:
                    addresses[address] = None
        return cls(tuple(addresses), tuple(relay_urls), user_data)

    @classmethod
    def of_packet(cls, packet: SignedPacket) -> Self:
        """What a packet says of its own key."""
        return cls.of_attributes(texts_at(packet.message, f"{LABEL}.{encode_key(packet.public_key)}"))


def texts_at(message: bytes, name: str) -> Sequence[str]:
    """The TXT records at a name (labels without a dot in them) in the answers of a valid message; the strings
    of one record are one text."""
    wanted = b"".join(bytes((len(label),)) + label.encode() for label in name.split(".")) + b"\0"
    questions, answers, _, _ = section_counts(message)
    offset = skip_questions(message, questions)
    texts = []
    for _ in range(answers):
        record = read_record(message, offset)
        offset = record.rdata_end
        if record.rrtype == _TXT and record.rrclass == _IN and record.owner.lower() == wanted.lower():
            texts.append(_strings(message[record.rdata_start : record.rdata_end]).decode("utf-8", "replace"))
    return texts


def format_address(address: Address) -> str:
    host, port = address
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def parse_address(text_untrusted: str) -> Address | None:
    """`192.0.2.1:7300` or `[2001:db8::1]:7300`; None if it is neither."""
    host, colon, port = text_untrusted.rpartition(":")
    if host.startswith("[") and host.endswith("]"):
        host = host[1:-1]
    elif ":" in host:
        return None
    try:
        ip = ipaddress.ip_address(host)
    except ValueError:
        return None
    if not colon or not port.isascii() or not port.isdigit() or not 0 < int(port) < 65_536:
        return None
    return str(ip), int(port)


def _strings(rdata: bytes) -> bytes:
    parts, at = [], 0
    while at < len(rdata):
        end = at + 1 + rdata[at]
        parts.append(rdata[at + 1 : end])
        at = end
    return b"".join(parts)
