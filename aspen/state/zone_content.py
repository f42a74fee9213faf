"""The records of zones on disk: table `rrsets`, one pair for each name that has records.

::

    content id u64 ‖ owner  →  RRset, RRset, …  by ascending type
    RRset: type u16 ‖ TTL u32 ‖ count u16 ‖ count × (length u16 ‖ RDATA)

A *content* is one zone's records; an import writes another content beside the one in use. `owner`
is relative to the apex, its labels from the root down with a zero octet between them, so keys
stand in canonical order (RFC 4034 §6.1) and what is below a name follows it. Octets 0 and 1 inside
a label are escaped as 1 1 and 1 2, which keeps the order.

`Content` gathers the changes of one command and writes them in the end, or doesn't.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable, Iterator
from typing import Any, Final

from aspen.dns.name import parents, relative_to
from aspen.dns.zone import Node, RRset
from aspen.dns.zone_rules import DNAME, check_node, dname_above
from aspen.errors import ZoneRuleError
from aspen.limits import ZONE_NODE_BYTES
from aspen.state.store import Txn

_U64: Final = struct.Struct(">Q")
_RRSET: Final = struct.Struct(">HIH")
_SEPARATOR: Final = b"\0"
_ABSENT: Final[Node] = {}


def content_prefix(content_id: int) -> bytes:
    return _U64.pack(content_id)


def name_key(relative: bytes) -> bytes:
    """The key of a relative name (folded; `b""` is the apex)."""
    if relative and len(relative) == 1 + relative[0] and b"\0" not in relative and b"\1" not in relative:
        return relative[1:]  # one label, as nearly always: in the middle of every query
    labels = []
    offset = 0
    while offset < len(relative):
        end = offset + 1 + relative[offset]
        labels.append(relative[offset + 1 : end])
        offset = end
    labels.reverse()
    if b"\0" in relative or b"\1" in relative:  # as content, or as a length
        labels = [label.replace(b"\1", b"\1\2").replace(b"\0", b"\1\1") for label in labels]
    return _SEPARATOR.join(labels)


def name_of_key(key: bytes) -> bytes:
    """The relative name that a key stands for."""
    if not key:
        return b""
    labels = key.split(_SEPARATOR)
    if b"\1" in key:
        labels = [label.replace(b"\1\1", b"\0").replace(b"\1\2", b"\1") for label in labels]
    return b"".join(bytes((len(label),)) + label for label in reversed(labels))


def encode_node(node: Node) -> bytes:
    pieces = []
    for rrtype in sorted(node):
        rrset = node[rrtype]
        pieces.append(_RRSET.pack(rrtype, rrset.ttl, len(rrset.rdatas)))
        for rdata in rrset.rdatas:
            pieces.append(len(rdata).to_bytes(2, "big"))
            pieces.append(rdata)
    return b"".join(pieces)


def decode_node(value: bytes) -> dict[int, RRset]:
    node = {}
    offset, end = 0, len(value)
    while offset < end:
        rrtype, ttl, count = _RRSET.unpack_from(value, offset)
        offset += _RRSET.size
        rdatas = []
        for _ in range(count):
            start = offset + 2
            offset = start + (value[offset] << 8 | value[offset + 1])
            rdatas.append(value[start:offset])
        node[rrtype] = RRset(ttl, tuple(rdatas))
    return node


def read_node(txn: Txn, table: Any, prefix: bytes, relative: bytes) -> Node | None:
    """The node of a relative name in the content of that prefix: empty for an empty non-terminal."""
    key = prefix + name_key(relative)
    value = txn.get(key, db=table)
    if value is not None:
        return decode_node(value)
    if not relative:
        return None
    below = key + _SEPARATOR
    cursor = txn.cursor(db=table)
    return {} if cursor.set_range(below) and cursor.key().startswith(below) else None


def walk_content(
    txn: Txn, table: Any, content_id: int, after: bytes | None = None
) -> Iterator[tuple[bytes, Node]]:
    """(relative name, node) of every name that has records, in canonical order; after a relative name,
    or from the apex on."""
    prefix = content_prefix(content_id)
    cursor = txn.cursor(db=table)
    found = cursor.set_range(prefix if after is None else prefix + name_key(after) + _SEPARATOR)
    while found:
        key, value = cursor.item()
        if not key.startswith(prefix):
            return
        yield name_of_key(key[len(prefix) :]), decode_node(value)
        found = cursor.next()


class Content:
    """One content, with the changes of the command that is being applied on top.

    `nodes` changed with `put` are written by `flush`; `check` says first whether they may be.
    """

    def __init__(self, txn: Txn, table: Any, content_id: int, apex: bytes) -> None:
        self._txn = txn
        self._table = table
        self._prefix = content_prefix(content_id)
        self.apex = apex
        self._stored: dict[bytes, Node] = {}
        """As they are on disk: owner → node, empty if there is none."""
        self._changed: dict[bytes, Node] = {}
        self._with_dname: dict[bytes, bool] = {}

    def get(self, owner: bytes) -> Node:
        """The records of an owner (an absolute name in the zone), empty if it has none."""
        changed = self._changed.get(owner)
        return self.stored(owner) if changed is None else changed

    def stored(self, owner: bytes) -> Node:
        """… as they are without the changes."""
        node = self._stored.get(owner)
        if node is None:
            value = self._txn.get(self._key(owner), db=self._table)
            node = self._stored[owner] = _ABSENT if value is None else decode_node(value)
        return node

    def put(self, owner: bytes, node: Node) -> None:
        self._changed[owner] = node
        self._with_dname.clear()

    def changed(self) -> list[bytes]:
        """The owners whose records differ from what is stored, in canonical order."""
        different = [owner for owner, node in self._changed.items() if node != self.stored(owner)]
        return sorted(different, key=self._key)

    def check(self, owner: bytes, *, complete: bool = True) -> None:
        """Check the rules for an owner that was changed. Raises `ZoneRuleError`.

        Without `complete`, the zone is still being brought in: its apex may lack SOA and NS.
        """
        node = self.get(owner)
        if node or owner == self.apex:
            check_node(owner, node, self.apex, complete=complete)
        if not node:
            return
        if sum(len(rdata) for rrset in node.values() for rdata in rrset.rdatas) > ZONE_NODE_BYTES:
            raise ZoneRuleError("node-size", f"one name has at most {ZONE_NODE_BYTES} bytes of records")
        above = self._dname_above(owner)
        if above is not None:
            raise dname_above(owner, above)
        if DNAME in node:
            below = self._any_below(owner)
            if below is not None:
                raise dname_above(below, owner)

    def flush(self) -> None:
        for owner, node in self._changed.items():
            if node:
                self._txn.put(self._key(owner), encode_node(node), db=self._table)
            elif self.stored(owner):
                self._txn.delete(self._key(owner), db=self._table)

    def _key(self, owner: bytes) -> bytes:
        return self._prefix + name_key(self._relative(owner))

    def _relative(self, owner: bytes) -> bytes:
        return owner[: len(owner) - len(self.apex)]

    def _dname_above(self, owner: bytes) -> bytes | None:
        for relative in parents(self._relative(owner)):
            name = relative + self.apex
            has = self._with_dname.get(name)
            if has is None:
                # Most names above have no records of their own: no need to remember each of their nodes.
                has = self._with_dname[name] = DNAME in self.get(name)
            if has:
                return name
        return None

    def _any_below(self, owner: bytes) -> bytes | None:
        for name, node in self._changed.items():
            if node and name != owner and relative_to(name, owner):
                return name
        prefix = self._key(owner) + (_SEPARATOR if self._relative(owner) else b"")
        cursor = self._txn.cursor(db=self._table)
        found = cursor.set_range(prefix)
        while found and cursor.key().startswith(prefix):
            name = name_of_key(cursor.key()[len(self._prefix) :]) + self.apex
            if name != owner and self._changed.get(name, True):
                return name
            found = cursor.next()
        return None


def count_records(nodes: Iterable[Node]) -> int:
    return sum(len(rrset.rdatas) for node in nodes for rrset in node.values())
