"""DNS over HTTPS (RFC 8484): the same answers as by TCP, in HTTP's clothes. And the same as JSON.

`/dns-query` takes a message (GET `?dns=` in base64url, POST `application/dns-message`) or, as
large public resolvers do, a question in words (`?name=&type=`); `/resolve` is for words only. What
comes back, message or JSON, is settled by `Accept`, with the form of the question as the default.
Whatever DNS has to say (NXDOMAIN, REFUSED, SERVFAIL) is 200; other statuses speak of HTTP alone.
"""

from __future__ import annotations

import base64
import binascii
import re
from typing import Any, Final, Protocol

from aiohttp import web

from aspen.dns.message import read_record, section_counts, skip_questions
from aspen.dns.name import name_from_text
from aspen.dns.networks import packed_address
from aspen.dns.presentation import type_number
from aspen.dns.wire import FLAG_RD, OPT, Rcode
from aspen.errors import DnsWireError, HttpError, InputError
from aspen.http.dns_json import json_of
from aspen.http.errors import json_response
from aspen.http.forwarded import ClientAddress
from aspen.http.freshness import freshness_headers
from aspen.http.negotiation import preferred
from aspen.http.openapi import BINARY, JSON, Answer, Body, Operation, Parameter
from aspen.http.request import query_of, read_body
from aspen.http.routing import Request, Router
from aspen.limits import DNS_CACHEABLE_S, DNS_TCP_MESSAGE_BYTES
from aspen.state.ports import Proposer

DNS_MESSAGE: Final = "application/dns-message"
DNS_JSON: Final = "application/dns-json"

_WIRE_QUERY: Final = frozenset({"dns"})
_WORDS: Final = frozenset({"name", "type", "do", "cd", "ct", "edns_client_subnet", "random_padding"})
"""The last two are known so that they may be ignored."""
_CONTENT_TYPES: Final = {
    DNS_JSON: DNS_JSON,
    JSON: JSON,
    "application/x-javascript": JSON,
    DNS_MESSAGE: DNS_MESSAGE,
}
"""What `ct` may ask for → what it is answered with."""
_BASE64URL: Final = re.compile(rb"[A-Za-z0-9_-]*")
_SOA: Final = 6
_ANY_QTYPE: Final = 255
_META_TYPE: Final = re.compile(r"(?:TYPE)?([0-9]{1,5})")
_QUERY_FLAGS_CD: Final = 0x10


_ANSWERS: Final = {
    200: Answer(
        "What DNS says, failures included.",
        {DNS_MESSAGE: BINARY, DNS_JSON: {"type": "object"}, JSON: {"type": "object"}},
        {"Cache-Control": "As long as the record that expires first."},
    )
}
_NOT_ACCEPTABLE: Final = {406: "`Accept` allows none of the forms an answer can have"}
_IN_WORDS: Final = (
    Parameter("name", "A domain name."),
    Parameter("type", "A type's name or number; A if left out."),
    Parameter("do", "DNSSEC OK."),
    Parameter("cd", "Checking disabled."),
    Parameter("ct", "The answer's content type.", {"enum": list(_CONTENT_TYPES)}),
)
_GET: Final = Operation(
    "DNS over HTTPS (RFC 8484)",
    _ANSWERS,
    _NOT_ACCEPTABLE,
    (Parameter("dns", "A DNS message in base64url; without it, a question in words."), *_IN_WORDS),
    tag="dns",
)
_POST: Final = Operation(
    "DNS over HTTPS (RFC 8484)",
    _ANSWERS,
    _NOT_ACCEPTABLE | {413: "more than 65,535 octets", 415: f"the body is not {DNS_MESSAGE}"},
    body=Body({DNS_MESSAGE: BINARY}),
    tag="dns",
)
_RESOLVE: Final = Operation(
    "DNS by question and answer in words", _ANSWERS, _NOT_ACCEPTABLE, _IN_WORDS, tag="dns"
)


class Answers(Protocol):
    """Where answers come from."""

    async def answer_in_time(self, query_untrusted: bytes, client: bytes, peer: Any) -> bytes | None:
        """The reply to a message of a client (its packed address, and its address as the socket spells
        it); None for what must not be answered."""
        ...


class DohRoutes:
    """The handlers."""

    def __init__(self, answers: Answers, proposer: Proposer, client: ClientAddress | None = None) -> None:
        """`client` knows which proxies to believe; without it, none."""
        self._answers = answers
        self._client = client if client is not None else ClientAddress()
        self._proposer = proposer

    def add_routes(self, public: Router) -> None:
        public.add(
            "/dns-query",
            {"GET": self.get, "POST": self.post},
            public=True,
            operations={"GET": _GET, "POST": _POST},
        )
        public.add("/resolve", {"GET": self.resolve}, public=True, operations={"GET": _RESOLVE})

    async def get(self, request: Request, _rest: str) -> web.StreamResponse:
        """A message in `dns`, or a question in words."""
        parameters = query_of(request, _WIRE_QUERY | _WORDS)
        if "dns" not in parameters:
            return await self._in_words(request, parameters)
        if "name" in parameters:
            raise HttpError(400, "bad_query", "give dns or name, not both")
        message = _from_base64url(parameters["dns"])
        return await self._answer(request, message, (DNS_MESSAGE, DNS_JSON, JSON))

    async def post(self, request: Request, _rest: str) -> web.StreamResponse:
        """A message as the body."""
        query_of(request, _WORDS)
        media_type = request.headers.get("Content-Type", "").partition(";")[0].strip().lower()
        if media_type != DNS_MESSAGE:
            raise HttpError(
                415, "content_type", f"the body must be {DNS_MESSAGE}", headers={"Accept-Post": DNS_MESSAGE}
            )
        message = await read_body(request, DNS_TCP_MESSAGE_BYTES)
        return await self._answer(request, message, (DNS_MESSAGE, DNS_JSON, JSON))

    async def resolve(self, request: Request, _rest: str) -> web.StreamResponse:
        """A question in words."""
        return await self._in_words(request, query_of(request, _WORDS))

    async def _in_words(self, request: Request, parameters: dict[str, bytes]) -> web.StreamResponse:
        given = _text(parameters, "ct")
        content_type = _CONTENT_TYPES.get(given) if given else None
        if given and content_type is None:
            raise HttpError(400, "bad_query", f"ct is one of {', '.join(_CONTENT_TYPES)}")
        message = query_in_words(parameters)
        return await self._answer(
            request, message, (content_type,) if content_type else (JSON, DNS_JSON, DNS_MESSAGE)
        )

    async def _answer(self, request: Request, message: bytes, offers: tuple[str, ...]) -> web.StreamResponse:
        """Answer in the first of the media types in `offers`, unless `Accept` prefers another of them."""
        media_type = offers[0] if len(offers) == 1 else preferred(request.headers.get("Accept"), offers)
        if media_type is None:
            raise HttpError(406, "not_acceptable", f"the answer can be {', '.join(offers)}")
        headers = freshness_headers(self._proposer)
        peer = (self._client.of(request), 0)
        reply = await self._answers.answer_in_time(message, packed_address(peer), peer)
        if reply is None:
            raise HttpError(400, "bad_message", "the message is not a DNS query")
        headers["Cache-Control"] = _cache_control(reply)
        headers["Vary"] = "Accept"
        if media_type == DNS_MESSAGE:
            headers["Content-Type"] = DNS_MESSAGE
            return web.Response(body=reply, headers=headers)
        headers["Content-Type"] = media_type
        return json_response(json_of(reply), headers=headers)


def _text(parameters: dict[str, bytes], name: str) -> str:
    return parameters.get(name, b"").decode("utf-8", "replace")


def _from_base64url(text_untrusted: bytes) -> bytes:
    """A message from the URL (RFC 8484 §6). Padding is not sent there, but does no harm."""
    text = text_untrusted.rstrip(b"=")
    if not text or not _BASE64URL.fullmatch(text) or len(text) % 4 == 1:
        raise HttpError(400, "bad_query", "dns is not a message in base64url")
    try:
        return base64.urlsafe_b64decode(text + b"=" * (-len(text) % 4))
    except binascii.Error:
        raise HttpError(400, "bad_query", "dns is not a message in base64url") from None


def query_in_words(parameters: dict[str, bytes]) -> bytes:
    """The query that `name`, `type`, `do` and `cd` ask for. Raises `HttpError` 400."""
    if "name" not in parameters:
        raise HttpError(400, "bad_query", "the query has neither dns nor name")
    try:
        name = name_from_text(_text(parameters, "name"))
    except DnsWireError as error:
        raise HttpError(400, "bad_name", str(error)) from None
    qtype = _qtype(_text(parameters, "type") or "A")
    flags = _QUERY_FLAGS_CD if _flag(parameters, "cd") else 0
    dnssec_ok = 0x8000 if _flag(parameters, "do") else 0
    header = bytes((0, 0, FLAG_RD, flags)) + (1).to_bytes(2, "big") + bytes(5) + b"\x01"
    question = name + qtype.to_bytes(2, "big") + b"\x00\x01"
    # EDNS with the largest size, so that nothing is left out.
    opt = b"\x00" + OPT.to_bytes(2, "big") + b"\xff\xff" + dnssec_ok.to_bytes(4, "big") + b"\x00\x00"
    return header + question + opt


def _qtype(text: str) -> int:
    digits = _META_TYPE.fullmatch(text.upper())
    number = int(digits.group(1)) if digits else 0
    if 1 <= number <= 65_535:
        return number
    if text.upper() in ("ANY", "*"):
        return _ANY_QTYPE
    try:
        return type_number(text)
    except InputError:
        raise HttpError(400, "bad_type", f"unknown record type {text[:40]!r}") from None


def _flag(parameters: dict[str, bytes], name: str) -> bool:
    text = _text(parameters, name).lower()
    if name in parameters and text not in ("", "0", "1", "false", "true"):
        raise HttpError(400, "bad_query", f"{name} is true or false")
    return name in parameters and text in ("", "1", "true")


def _cache_control(reply: bytes) -> str:
    """How long HTTP may keep the answer (RFC 8484 §5.1): as long as the record that expires first; what
    isn't there, as long as RFC 2308 §5 lets it be remembered; a failure, not at all."""
    rcode = reply[3] & 0x0F
    questions, answers, authority, _ = section_counts(reply)
    if rcode not in (Rcode.NOERROR, Rcode.NXDOMAIN):
        return "no-store"
    offset = skip_questions(reply, questions)
    least: int | None = None
    for index in range(answers + authority):
        record = read_record(reply, offset)
        offset = record.rdata_end
        if index < answers:
            least = record.ttl if least is None else min(least, record.ttl)
        elif record.rrtype == _SOA:
            minimum = int.from_bytes(reply[record.rdata_end - 4 : record.rdata_end], "big")
            negative = min(record.ttl, minimum)
            least = negative if least is None else min(least, negative)
    return "no-store" if least is None else f"max-age={min(least, DNS_CACHEABLE_S)}"
