"""Errors as HTTP tells them: a fitting status and JSON `{"error": code, "reason": text}`.

One place maps the exception tree to statuses: what the sender got wrong is 4xx, what the cluster
can't do now is 503 with `Retry-After`, and only a bug is 500. `reason` is for people, `error` is
for programs and doesn't change.
"""

from __future__ import annotations

from collections.abc import Mapping
from http import HTTPStatus
from typing import Final

import msgspec
from aiohttp import web

from aspen.errors import (
    AspenError,
    ControlPlaneError,
    HttpError,
    InputError,
    KeyValueStoreError,
    NetworkError,
    NotLeader,
    PacketError,
    ProposalError,
    StorageError,
    ZoneError,
)

JSON: Final = "application/json"
RETRY_AFTER_SECONDS: Final = "1"
_RETRY: Final = {"Retry-After": RETRY_AFTER_SECONDS}

_KV_STATUS: Final[Mapping[type[KeyValueStoreError], int]] = {
    KeyValueStoreError.NotFound: 404,
    KeyValueStoreError.EmptyKey: 400,
    KeyValueStoreError.KeyTooLarge: 400,
    KeyValueStoreError.ValueTooLarge: 413,
    KeyValueStoreError.BatchTooLarge: 413,
    KeyValueStoreError.ReservedKey: 403,
    KeyValueStoreError.InvalidRequest: 400,
    KeyValueStoreError.CompareFailed: 409,
    KeyValueStoreError.LeaseNotFound: 404,
    KeyValueStoreError.NotANumber: 409,
    KeyValueStoreError.Compacted: 410,
    KeyValueStoreError.FutureRevision: 409,
    KeyValueStoreError.ResultTooLarge: 413,
    KeyValueStoreError.RequestReused: 409,
}


_ZONE_STATUS: Final[Mapping[type[ZoneError], int]] = {
    ZoneError.NotFound: 404,
    ZoneError.Exists: 409,
    ZoneError.RuleBroken: 422,
    ZoneError.PrerequisiteFailed: 409,
    ZoneError.ImportLost: 409,
    ZoneError.Limit: 413,
}

_CONTROL_STATUS: Final[Mapping[type[ControlPlaneError], int]] = {
    ControlPlaneError.InvalidRequest: 400,
    ControlPlaneError.UnknownNode: 404,
    ControlPlaneError.NotInitialized: 409,
    ControlPlaneError.Failed: 409,
}


def json_response(
    value: object, *, status: int = 200, headers: Mapping[str, str] | None = None
) -> web.Response:
    """`value` as JSON; bytes in it are base64 (RFC 4648 §4)."""
    all_headers = {"Content-Type": JSON}
    if headers is not None:
        all_headers.update(headers)
    return web.Response(body=msgspec.json.encode(value), status=status, headers=all_headers)


def problem(
    status: int, code: str, reason: str, headers: Mapping[str, str] | None = None, **details: object
) -> web.Response:
    """An error answer."""
    return json_response({"error": code, "reason": reason, **details}, status=status, headers=headers)


def raw_problem(status: int, code: str, reason: str) -> bytes:
    """An error answer as bytes, for a connection without a request to answer; the connection ends."""
    body = msgspec.json.encode({"error": code, "reason": reason})
    head = (
        f"HTTP/1.1 {status} {HTTPStatus(status).phrase}\r\nContent-Type: {JSON}\r\n"
        f"Content-Length: {len(body)}\r\nConnection: close\r\n\r\n"
    )
    return head.encode() + body


def answer_to(error: AspenError) -> web.Response:
    """The answer that an exception stands for. `InvariantViolation` and other bugs are not for here."""
    match error:
        case HttpError():
            response = problem(error.status, error.code, str(error), error.headers)
            if error.close:
                response.force_close()
            return response
        case PacketError():
            return problem(400, error.code, str(error))
        case NotLeader():
            return problem(503, error.code, str(error), _RETRY, leader_id=error.leader_id)
        case ProposalError() | NetworkError():
            return problem(503, error.code, str(error), _RETRY)
        case ControlPlaneError():
            status = _CONTROL_STATUS.get(type(error), 503)
            return problem(status, error.code, str(error), _RETRY if status == 503 else None)
        case KeyValueStoreError():
            status = _KV_STATUS.get(type(error), 503)
            details = {"revision": error.revision} if error.revision else {}
            return problem(status, error.code, str(error), _RETRY if status == 503 else None, **details)
        case ZoneError():
            blame = {"rule": error.rule, "record": error.record, "line": error.line}
            told = {name: value for name, value in blame.items() if value}
            return problem(_ZONE_STATUS.get(type(error), 503), error.code, str(error), None, **told)
        case StorageError():
            return problem(503, "storage", str(error), _RETRY)
        case InputError():
            return problem(400, "bad_request", str(error))
        case _:
            raise error
