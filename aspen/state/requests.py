"""Exactly once: the answers given to requests that came with an idempotency key.

::

    requests          request id → time, hash of the command, the result
    requests_by_time  time ms ‖ request id → –

A client that doesn't know what became of its write sends it again under the same key, to any node: if
the first arrived it is not done again, and its answer is repeated. Answers are remembered for ten
minutes by the time that leaders stamp into the log. If too many are remembered, new ones are
refused: an old one forgotten early would let a write happen twice.
"""

from __future__ import annotations

import struct
from collections.abc import Callable
from typing import Final

import blake3
import msgspec

from aspen.limits import KV_REQUEST_MS, KV_REQUEST_RESULT_BYTES, KV_REQUESTS, KV_REQUESTS_COLLECT
from aspen.state.apply import ApplyContext
from aspen.state.kv_commands import (
    KvOnce,
    KvPlainCommand,
    KvPlainResult,
    KvRefused,
    KvReplayed,
)
from aspen.state.kv_revisions import U64, read_state

_DIGEST_BYTES: Final = 16
_HEAD: Final = struct.Struct(f">Q{_DIGEST_BYTES}s")
_ENCODER: Final = msgspec.msgpack.Encoder()
_RESULTS: Final[msgspec.msgpack.Decoder[KvPlainResult]] = msgspec.msgpack.Decoder(KvPlainResult)


def apply_once(
    context: ApplyContext, once: KvOnce, apply: Callable[[ApplyContext, KvPlainCommand], KvPlainResult]
) -> KvPlainResult | KvReplayed:
    """Apply the command, or repeat what was answered to it before."""
    store, txn = context.store, context.txn
    table = store.tables["requests"]
    _forget(context)
    digest = blake3.blake3(_ENCODER.encode(once.command)).digest(_DIGEST_BYTES)
    known = txn.get(once.request_id, db=table)
    if known is not None and _HEAD.unpack_from(known)[0] + KV_REQUEST_MS > context.time_ms:
        if _HEAD.unpack_from(known)[1] != digest:
            revision = read_state(store, txn).revision
            return KvRefused("request_reused", "the idempotency key stood for another request", revision)
        return KvReplayed(_RESULTS.decode(known[_HEAD.size :]))
    if known is not None:
        _remove(context, once.request_id, known)
    elif txn.stat(table)["entries"] >= KV_REQUESTS:
        reason = f"{KV_REQUESTS} requests are remembered; try again later"
        return KvRefused("too_many", reason, read_state(store, txn).revision)
    result = apply(context, once.command)
    encoded = _ENCODER.encode(result)
    if len(encoded) > KV_REQUEST_RESULT_BYTES:
        reason = "the request was carried out before, but its answer was too long to be remembered"
        encoded = _ENCODER.encode(KvRefused("result_too_large", reason, read_state(store, txn).revision))
    txn.put(once.request_id, _HEAD.pack(context.time_ms, digest) + encoded, db=table)
    txn.put(U64.pack(context.time_ms) + once.request_id, b"", db=store.tables["requests_by_time"])
    return result


def _forget(context: ApplyContext) -> None:
    """Drop what is older than ten minutes, a little with each command."""
    cursor = context.txn.cursor(db=context.store.tables["requests_by_time"])
    for _ in range(KV_REQUESTS_COLLECT):
        if not cursor.first():
            return
        place = cursor.key()
        if U64.unpack_from(place)[0] + KV_REQUEST_MS > context.time_ms:
            return
        context.txn.delete(place, db=context.store.tables["requests_by_time"])
        context.txn.delete(place[U64.size :], db=context.store.tables["requests"])


def _remove(context: ApplyContext, request_id: bytes, known: bytes) -> None:
    place = known[: U64.size] + request_id
    context.txn.delete(place, db=context.store.tables["requests_by_time"])
    context.txn.delete(request_id, db=context.store.tables["requests"])
