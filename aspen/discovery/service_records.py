"""The nodes of a cluster as DNS tells of them, at `_aspen._udp.<origin>` (RFC 2782, RFC 6763 §6; core).

Aspen's own DNS has a TXT record for each node, with the strings `node=<id>`, `id=<endpoint id>` and
`addr=<ip>:<port>` (any number). Whoever keeps such a zone by hand may leave that to SRV records alone: a host
and a port, where the node itself has to be asked for its key. Unknown attributes and records that can't be
read are passed over. Nothing of it is proven.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final, NamedTuple

from aspen.dns.message import RecordView, read_record, section_counts, skip_questions
from aspen.dns.name import ROOT, name_to_text, read_name
from aspen.dns.wire import SRV, TXT
from aspen.errors import IdentityError
from aspen.limits import ADDRESSES_PER_PEER, LOOKUP_NODES
from aspen.pkarr.endpoint_info import parse_address
from aspen.z32 import decode_key

SERVICE: Final = "_aspen._udp"
_IN: Final = 1
_SRV_FIXED_BYTES: Final = 6  # priority, weight, port
_PORT_AT: Final = 4

Address = tuple[str, int]


class FoundNode(NamedTuple):
    """A node, and where it is said to be."""

    endpoint_id: bytes
    addresses: tuple[Address, ...]


def read_nodes(message: bytes) -> list[FoundNode]:
    """The nodes that the TXT records in the answers of a valid message tell of."""
    found = []
    for record in _answers(message, TXT):
        endpoint_id, addresses = None, []
        for text in _strings(message[record.rdata_start : record.rdata_end]):
            name, _, value = text.partition("=")
            if name == "id":
                try:
                    endpoint_id = decode_key(value)
                except IdentityError:
                    break
            elif name == "addr" and (address := parse_address(value)) is not None:
                addresses.append(address)
        if endpoint_id is not None and addresses:
            found.append(FoundNode(endpoint_id, tuple(addresses[:ADDRESSES_PER_PEER])))
    return found[:LOOKUP_NODES]


def read_places(message: bytes) -> list[Address]:
    """Hosts and ports of the SRV records in the answers of a valid message."""
    found = []
    for record in _answers(message, SRV):
        port_at = record.rdata_start + _PORT_AT
        port = int.from_bytes(message[port_at : port_at + 2], "big")
        target, _ = read_name(message, record.rdata_start + _SRV_FIXED_BYTES)
        if target != ROOT and port:  # the root says: no such service here (RFC 2782)
            found.append((name_to_text(target).rstrip("."), port))
    return found[:LOOKUP_NODES]


def _answers(message: bytes, rrtype: int) -> Iterator[RecordView]:
    questions, answers, _, _ = section_counts(message)
    offset = skip_questions(message, questions)
    for _ in range(answers):
        record = read_record(message, offset)
        offset = record.rdata_end
        if record.rrtype == rrtype and record.rrclass == _IN:
            yield record


def _strings(rdata: bytes) -> Iterator[str]:
    at = 0
    while at < len(rdata):
        end = at + 1 + rdata[at]
        yield rdata[at + 1 : end].decode("utf-8", "replace")
        at = end
