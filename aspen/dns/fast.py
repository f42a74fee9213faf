"""A shortcut through the pipeline for the query we see most: a name under a key (pure).

Queries for the same kind of name differ only in id and key: `_iroh.<key>.aspen.local TXT` from one
resolver is always the same octets around the key. So everything `respond` would work out from
those octets (origin, type, EDNS, flags, sizes) is worked out once, by `respond`'s own parts, and
kept as a *plan*. A query with a known plan needs its key decoded, one read of the replica, one
`bytes.find`, and three slices joined. Whatever is out of the ordinary takes the pipeline.

`FastResponder` answers every message exactly as `respond` does; a test holds them together.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import Final

from aspen.dns.fast_zone import ZonePlan, make_zone_plan
from aspen.dns.lookup import Records, View
from aspen.dns.members import split
from aspen.dns.name import HEADER_BYTES
from aspen.dns.networks import UNKNOWN
from aspen.dns.policy import Staleness
from aspen.dns.ready import DEFAULT_MARK, DEFAULT_TYPE, ENTRY, INDEX_OFFSET, READY_VERSION, Outcome
from aspen.dns.respond import Transport, answer, size_limit
from aspen.dns.wire import (
    ANY,
    AXFR,
    CLASS_IN,
    FLAG_AA,
    FLAG_QR,
    IXFR,
    META_QTYPES,
    OPCODE_MASK,
    Query,
    Rcode,
    opt_record,
    parse_query,
    reply_header,
)
from aspen.dns.zone import Consistency
from aspen.errors import DnsWireError
from aspen.limits import DNS_LABEL_BYTES, DNS_PLANS
from aspen.z32 import ALPHABET, KEY_CHARS

ID_BYTES: Final = 2
_NO_OPTIONS: Final = b"\x00\x00"  # how an OPT record without options ends
_PREFIX: Final = bytes((READY_VERSION,)) + DEFAULT_MARK
_NEVER: Final = bytes((READY_VERSION,)) + DEFAULT_MARK + b"\x00" * 64  # no block begins so
_KEY_LABEL_BYTES: Final = 1 + KEY_CHARS
_COUNT_START: Final = 4  # of ANCOUNT, in a header without its id
# Type 0, too: it would find the entry for types a name has not.
_SPECIAL_QTYPES: Final = META_QTYPES | {0, ANY, AXFR, IXFR}
_UNPACK_ENTRY: Final = ENTRY.unpack_from
# z-base-32 digits of either case to Python's; others to an octet that int() refuses.
_DIGITS: Final = bytes(
    b"0123456789abcdefghijklmnopqrstuv"[ALPHABET.index(chr(octet).lower())]
    if chr(octet).lower() in ALPHABET
    else 0xFF
    for octet in range(256)
)


class Plan:
    """What all queries of one shape have in common."""

    __slots__ = (
        "any_type",
        "authority",
        "found",
        "head",
        "head_end",
        "head_start",
        "heads",
        "limit",
        "needle",
        "no_data",
        "no_name",
        "opt",
        "opt_start",
        "records",
    )

    def __init__(self, query_bytes: bytes, query: Query, key_offset: int, view: View) -> None:
        offset = key_offset + _KEY_LABEL_BYTES
        relative = query.name[: key_offset - HEADER_BYTES]
        origin = view.origins[query.name[offset - HEADER_BYTES :]]
        entry = DEFAULT_MARK + bytes((len(relative),)) + relative
        self.needle = entry + query.qtype.to_bytes(2, "big")
        self.any_type = entry + DEFAULT_TYPE
        self.opt = opt_record(query.edns) if query.edns is not None else b""
        # Negative, from the end; a question that is the whole query ends at None.
        self.opt_start = query.question_end - len(query_bytes) or None
        additional = 1 if self.opt else 0
        head = reply_header(query_bytes, Rcode.NOERROR, FLAG_AA, (1, 0, 0, additional))[ID_BYTES:]
        self.head_start, self.head_end = head[:_COUNT_START], head[_COUNT_START + 2 :]
        self.heads: dict[int, bytes] = {}
        # Packets that the same program made mostly have their records at the same places: how the last
        # block began, up to the entry that was found in it, and what that entry said.
        self.found, self.head, self.records = _NEVER, b"", slice(0)
        counts = (1, 0, 1, additional)
        self.no_data = reply_header(query_bytes, Rcode.NOERROR, FLAG_AA, counts)[ID_BYTES:]
        self.no_name = reply_header(query_bytes, Rcode.NXDOMAIN, FLAG_AA, counts)[ID_BYTES:]
        self.authority = origin.authority(offset) + self.opt
        self.limit = size_limit(query.edns, Transport.UDP) - ID_BYTES

    def find(self, answers: bytes) -> bool:
        """Whether a block has an entry for what is asked; if so, `head` and `records` say what it says."""
        at = answers.find(self.needle, INDEX_OFFSET)
        if at < 0:
            return False
        at += len(self.needle)
        count, _, start, end = _UNPACK_ENTRY(answers, at)
        head = self.heads.get(count)
        if head is None:
            head = self.heads[count] = self.head_start + count.to_bytes(2, "big") + self.head_end
        self.found, self.head, self.records = answers[: at + ENTRY.size], head, slice(start, end)
        return True


class _Noted:
    """Records that note whose packets are read."""

    __slots__ = ("_keys", "_packet_answers")

    def __init__(self, records: Records, keys: list[bytes]) -> None:
        self._packet_answers = records.packet_answers
        self._keys = keys

    def packet_answers(self, public_key: bytes) -> bytes | None:
        self._keys.append(public_key)
        return self._packet_answers(public_key)


class FastResponder:
    """Answers datagrams from one view. Replies come without the two octets of id."""

    __slots__ = (
        "_blocks",
        "_noted",
        "_packet_answers",
        "_plans",
        "_zone_plans",
        "consistency",
        "packets",
        "shared",
        "view",
    )

    def __init__(self, view: View) -> None:
        self.packets: Collection[bytes] = ()
        """Keys of the packets that the last answer was made from."""
        self._noted: list[bytes] = []
        self.shared = True
        """Whether any client would have got the last answer."""
        self.consistency: Consistency = "stale"
        """What the last answer asks for before it may be sent (`Reply`)."""
        self.view = view._replace(records=_Noted(view.records, self._noted))
        # What stands for a packet that isn't there is looked up here, which saves a call.
        records, self._blocks = split(view.records)
        self._packet_answers = records.packet_answers
        self._plans: dict[bytes, Plan | None] = {}
        self._zone_plans: dict[bytes, ZonePlan | None] = {}

    def begin(self) -> None:
        """Forget the last answer's conditions."""
        self.packets = ()
        self.shared, self.consistency = True, "stale"

    def answer(self, query_untrusted: bytes, client: bytes = UNKNOWN) -> bytes | None:
        """What `respond` answers over UDP, but for the id; None for what must not be answered."""
        reply = self.quick(query_untrusted)
        if reply is None:
            return self._respond(query_untrusted, client)
        self.shared, self.consistency = True, "stale"
        return reply

    def quick(self, query_untrusted: bytes) -> bytes | None:
        """The same for what there is a plan for, or can be made, and any client may have; None for all else.
        `packets` is set, what else the answer depends on is not."""
        query = query_untrusted
        try:
            if query[11] and query[-2:] != _NO_OPTIONS:
                return None
            key_offset = HEADER_BYTES
            while (length := query[key_offset]) != KEY_CHARS:
                if not 0 < length <= DNS_LABEL_BYTES:
                    return self._quick_in_zone(query) if not length else None
                key_offset += 1 + length
            # The key's length octet stays in: it marks where the key was taken out.
            after = key_offset + _KEY_LABEL_BYTES
            shape = query[ID_BYTES : key_offset + 1] + query[after:]
            plan = self._plans.get(shape)
            if plan is None:
                if shape in self._plans:
                    return None
                plan = self._make_plan(query, shape, key_offset)
                if plan is None:
                    return None
            number = int(query[key_offset + 1 : after].translate(_DIGITS), 32)
        except (IndexError, ValueError):
            return None
        if number & 15:
            return None
        question = query[HEADER_BYTES : plan.opt_start]
        public_key = (number >> 4).to_bytes(32, "big")
        answers = self._packet_answers(public_key)
        if answers is None and (answers := self._blocks.get(public_key)) is None:
            reply = plan.no_name + question + plan.authority
        elif answers.startswith(plan.found) or (answers.startswith(_PREFIX) and plan.find(answers)):
            reply = plan.head + question + answers[plan.records] + plan.opt
        elif not answers.startswith(_PREFIX):
            return None
        elif (at := answers.find(plan.any_type, INDEX_OFFSET)) < 0:
            reply = plan.no_name + question + plan.authority
        elif _UNPACK_ENTRY(answers, at + len(plan.any_type))[:2] == (0, Outcome.NODATA):
            reply = plan.no_data + question + plan.authority
        else:
            return None
        if len(reply) > plan.limit:
            return None
        self.packets = (public_key,)
        return reply

    def _quick_in_zone(self, query: bytes) -> bytes | None:
        after = HEADER_BYTES + 1 + query[HEADER_BYTES]
        # The first label's length stays in.
        shape = query[ID_BYTES : HEADER_BYTES + 1] + query[after:]
        plans = self._zone_plans
        plan = plans.get(shape)
        if plan is None:
            if shape in plans:
                return None
            if len(plans) >= DNS_PLANS:
                plans.clear()
            asked = self._plain_query(query)
            plan = plans[shape] = None if asked is None else make_zone_plan(query, asked, self.view)
            if plan is None:
                return None
        reply = plan.answer(query)
        if reply is not None:
            self.packets = ()
        return reply

    def _respond(self, query_untrusted: bytes, client: bytes) -> bytes | None:
        noted = self._noted
        noted.clear()
        reply = answer(query_untrusted, self.view, Transport.UDP, client)
        self.packets = tuple(noted)
        if reply is None:
            return None
        self.shared, self.consistency = reply.shared, reply.consistency
        return reply.message[ID_BYTES:]

    def _make_plan(self, query_untrusted: bytes, shape: bytes, key_offset: int) -> Plan | None:
        """Work out and keep the plan for a shape; None, kept too, if such queries are not plain."""
        if len(self._plans) >= DNS_PLANS:
            self._plans.clear()
        plan = None
        query = self._plain_query(query_untrusted)
        if query is not None and self._is_plain(query, key_offset):
            plan = Plan(query_untrusted, query, key_offset, self.view)
        self._plans[shape] = plan
        return plan

    def _plain_query(self, query_untrusted: bytes) -> Query | None:
        """A query that everybody may ask and that says nothing but its question: neither options nor
        records beside it."""
        view, query = self.view, query_untrusted
        if view.policy.clients is not None or view.staleness is not Staleness.FRESH:
            return None
        if len(query) < HEADER_BYTES or query[2] & (FLAG_QR | OPCODE_MASK) or query[6:11] != bytes(5):
            return None
        try:
            asked = parse_query(query)
        except DnsWireError:
            return None
        edns = asked.edns
        if query[11] != (0 if edns is None else 1):
            return None
        return None if edns is not None and (edns.version or edns.options) else asked

    def _is_plain(self, query: Query, key_offset: int) -> bool:
        """Whether a query's answer is its type's entry in the packet of the key at `key_offset`."""
        view = self.view
        if query.qclass != CLASS_IN or query.qtype in _SPECIAL_QTYPES:
            return False
        above = key_offset + _KEY_LABEL_BYTES - HEADER_BYTES
        name = query.name
        offset = 0
        while offset < above:
            if name[offset:] in view.origins:
                return False  # the key's label is part of a longer origin, which wins
            offset += 1 + name[offset]
        return name[above:] in view.origins
