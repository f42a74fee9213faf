"""Datagrams under unknown keys, answered by the node process once elsewhere has been asked.

A worker passes on what it can't answer: what needs more than the replica, and names under keys that it
doesn't know. The latter are answered here as a worker would have, cookies included, by records that say what
elsewhere said; the rest is for `otherwise`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

from aspen.dns.cookies import CookieMaker
from aspen.dns.fallback import answering, is_foreign
from aspen.dns.fast import ID_BYTES
from aspen.dns.forward import Answer, needs_node
from aspen.dns.lookup import View
from aspen.dns.origin import DnsSettings
from aspen.dns.padding import opt_rdata
from aspen.dns.respond import Transport, size_limit
from aspen.dns.stream import Defer, Send
from aspen.dns.udp_answers import UdpAnswers
from aspen.dns.wire import EDE_OPTION, option, parse_query
from aspen.limits import DNS_TCP_MESSAGE_BYTES

_OTHER: Final = 0
_FOREIGN: Final = option(EDE_OPTION, _OTHER.to_bytes(2, "big") + b"from the DHT, not replicated")


def _room(query: bytes) -> int:
    """What a client takes by datagram."""
    return size_limit(parse_query(query).edns, Transport.UDP)


def waiting_stream(stream: Defer) -> Defer:
    """What answers messages of connections by and by, made to wait for unknown keys too."""

    async def waiting(message_untrusted: bytes, client: Any, send: Send) -> None:
        async def send_marked(reply: bytes) -> None:
            await send(marked(reply, DNS_TCP_MESSAGE_BYTES) if is_foreign() else reply)

        # An unknown key shows before anything is sent.
        await answering(lambda: stream(message_untrusted, client, send_marked))

    return waiting


def marked(reply: bytes, limit: int) -> bytes:
    """Our own reply with an EDE that says whose word it is (RFC 8914 §4.1); as it was if it has no OPT
    record, if a signature stands behind that, or if there is no room."""
    place = opt_rdata(reply)
    if place is None or place[1] != len(reply) or len(reply) + len(_FOREIGN) > limit:
        return reply
    start, end = place
    return reply[: start - 2] + (end - start + len(_FOREIGN)).to_bytes(2, "big") + reply[start:] + _FOREIGN


class WaitingAnswers:
    """Answers datagrams that were passed on (`forward.Answer` is its `datagram`)."""

    def __init__(
        self,
        view: View,
        settings: DnsSettings,
        cookies: Callable[[], CookieMaker | None],
        otherwise: Answer,
    ) -> None:
        """`view` is over `FallbackRecords`."""
        self._answers = UdpAnswers(view, policy=settings.cookies, caching=False, stride=1, waiting=True)
        self._cookies = cookies
        self._maker: CookieMaker | None = None
        self._otherwise = otherwise

    def replace_view(self, view: View) -> None:
        """Answer from another view from now on."""
        self._answers.replace_view(view)

    async def datagram(self, query_untrusted: bytes, client: Any) -> bytes | None:
        """The reply; None for what must not be answered."""

        async def once() -> bytes | None:
            answers = self._answers
            if not needs_node(query_untrusted):
                self._take_up_cookies()
                reply = answers.reply_to(query_untrusted, client[0])
                if reply is not None:
                    reply = query_untrusted[:ID_BYTES] + reply
                    return marked(reply, _room(query_untrusted)) if is_foreign() else reply
                if not answers.must_pass_on:
                    return None
            return await self._otherwise(query_untrusted, client)

        return await answering(once)

    def _take_up_cookies(self) -> None:
        maker = self._cookies()
        if maker is not self._maker:
            self._maker = maker
            self._answers.use_cookies(maker)
