"""DNS cookies: RFC 7873's rules, RFC 9018's vectors, and what dig, kdig and dnspython make of ours."""

from __future__ import annotations

import ipaddress
import shutil
import socket
import struct
import subprocess
from collections.abc import AsyncIterator
from typing import Any

import dns.edns
import dns.flags
import dns.message
import dns.name
import dns.opcode
import dns.rcode
import pytest
from hypothesis import given
from hypothesis import strategies as st
from nacl.bindings import crypto_shorthash_siphash24

from aspen.dns.cookies import (
    COOKIE_OPTION,
    CookieMaker,
    CookieSecrets,
    Standing,
    add_cookie,
    answer_with_cookie,
    split_cookie,
)
from aspen.dns.origin import CookiePolicy
from aspen.dns.respond import Transport, respond
from aspen.dns.sockets import bind_udp
from aspen.dns.stream import Answers
from aspen.dns.udp import InProcessUdp
from aspen.dns.udp_answers import Counter, UdpAnswers
from aspen.errors import DnsWireError
from aspen.limits import DNS_UDP_EDNS_BYTES

SECRET = bytes.fromhex("e5e973e5a6b2a43f48e7dc849e37bfcf")
OLD, NEW = (
    bytes.fromhex("dd3bdf9344b678b185a6f5cb60fca715"),
    bytes.fromhex("445536bcd2513298075a5d379663c962"),
)
CLIENT = bytes.fromhex("2464c4abcf10c957")
ADDRESS = ipaddress.ip_address("198.51.100.100").packed
NOW = 1_559_731_985


def maker(current: bytes = SECRET, previous: bytes = b"") -> CookieMaker:
    return CookieMaker(CookieSecrets(current, bytes(16), previous))


def query_with(name: str, cookie: bytes | None, *more: dns.edns.Option, **options: Any) -> bytes:
    """A query whose cookie comes last, as dig writes it."""
    edns: list[dns.edns.Option] = [*more]
    if cookie is not None:
        edns.append(dns.edns.GenericOption(COOKIE_OPTION, cookie))
    return dns.message.make_query(
        name, options.pop("rrtype", "TXT"), use_edns=0, options=edns, **options
    ).to_wire()


def cookie_of(reply: bytes) -> bytes:
    """Client and server cookie of a reply; empty without."""
    for option in dns.message.from_wire(reply).options:
        if option.otype == COOKIE_OPTION:
            return option.to_wire() or b""
    return b""


# --- RFC 9018, appendix A --------------------------------------------------------------------------


def test_a1_a_client_learns_a_new_server_cookie() -> None:
    assert maker().make(CLIENT, ADDRESS, NOW).hex() == "010000005cf79f111f8130c3eee29480"


def test_a2_the_same_client_renews_its_cookie_after_forty_minutes() -> None:
    learned = bytes.fromhex("010000005cf79f111f8130c3eee29480")
    standing, server = maker().judge(CLIENT, learned, ADDRESS, 1_559_734_385)
    assert (standing, server.hex()) == (Standing.GOOD, "010000005cf7a871d4a564a1442aca77")


def test_a3_reserved_octets_are_under_the_mac_and_not_repeated() -> None:
    client, learned = bytes.fromhex("fc93fc62807ddb86"), bytes.fromhex("01abcdef5cf78f71a314227b6679ebf5")
    address = ipaddress.ip_address("203.0.113.203").packed
    standing, server = maker().judge(client, learned, address, 1_559_727_985)
    assert standing is Standing.GOOD
    assert server[:4] == b"\x01\x00\x00\x00"
    # The example's own moment is almost two hours later: the cookie has had its time (§4.3).
    standing, server = maker().judge(client, learned, address, 1_559_734_700)
    assert (standing, server.hex()) == (Standing.BAD, "010000005cf7a9acf73a7810aca2381e")


def test_a4_a_cookie_of_the_previous_secret_is_good_and_replaced() -> None:
    client, learned = bytes.fromhex("22681ab97d52c298"), bytes.fromhex("010000005cf7c57926556bd0934c72f8")
    address = ipaddress.ip_address("2001:db8:220:1:59de:d0f4:8769:82b8").packed
    standing, server = maker(NEW, OLD).judge(client, learned, address, 1_559_741_961)
    assert (standing, server.hex()) == (Standing.GOOD, "010000005cf7c609a6bb79d16625507a")


@given(st.binary(max_size=64), st.binary(min_size=16, max_size=16))
def test_the_mac_is_siphash_2_4_as_pynacl_has_it(text: bytes, secret: bytes) -> None:
    """We call libsodium below PyNaCl's public binding: here is to be seen if that moves."""
    assert maker()._siphash24(text, secret) == crypto_shorthash_siphash24(text, secret)


# --- making and judging ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("age", "standing", "same"),
    [
        (0, Standing.GOOD, True),
        (1_799, Standing.GOOD, True),
        (1_800, Standing.GOOD, False),
        (3_600, Standing.GOOD, False),
        (3_601, Standing.BAD, False),
        (-300, Standing.GOOD, True),
        (-301, Standing.BAD, False),
    ],
)
def test_a_cookie_is_good_for_an_hour_and_renewed_after_half_of_it(
    age: int, standing: Standing, same: bool
) -> None:
    server = maker().make(CLIENT, ADDRESS, NOW - age)
    judged, renewed = maker().judge(CLIENT, server, ADDRESS, NOW)
    assert judged is standing
    assert (renewed == server) is same


@given(st.integers(0, 15), st.integers(1, 255))
def test_a_cookie_with_any_octet_changed_is_bad(at: int, flip: int) -> None:
    server = bytearray(maker().make(CLIENT, ADDRESS, NOW))
    server[at] ^= flip
    assert maker().judge(CLIENT, bytes(server), ADDRESS, NOW)[0] is Standing.BAD


def test_a_cookie_is_bound_to_address_and_client_cookie() -> None:
    server = maker().make(CLIENT, ADDRESS, NOW)
    assert maker().judge(CLIENT, server, bytes(4), NOW)[0] is Standing.BAD
    assert maker().judge(bytes(8), server, ADDRESS, NOW)[0] is Standing.BAD
    assert maker(OLD).judge(CLIENT, server, ADDRESS, NOW)[0] is Standing.BAD


def test_members_a_whole_roll_apart_agree() -> None:
    before = CookieSecrets(OLD, NEW)
    after = before.rolled(SECRET, 1)
    made = CookieMaker(after).make(CLIENT, ADDRESS, NOW)
    assert CookieMaker(before).judge(CLIENT, made, ADDRESS, NOW)[0] is Standing.GOOD
    made = CookieMaker(before).make(CLIENT, ADDRESS, NOW)
    assert CookieMaker(after).judge(CLIENT, made, ADDRESS, NOW)[0] is Standing.GOOD


def test_time_passes_2106() -> None:
    server = maker().make(CLIENT, ADDRESS, 2**32 - 10)
    assert maker().judge(CLIENT, server, ADDRESS, 2**32 + 10)[0] is Standing.GOOD


# --- replies ---------------------------------------------------------------------------------------


def ask(served: Any, query: bytes, **options: Any) -> tuple[bytes, Standing | None]:
    def answer(plain: bytes) -> bytes | None:
        return respond(plain, served.view, Transport.UDP)

    reply, standing = answer_with_cookie(
        query, ADDRESS, NOW, maker(), answer, limit=DNS_UDP_EDNS_BYTES, **options
    )
    assert reply is not None
    return reply, standing


def test_a_client_cookie_gets_a_server_cookie_and_the_answer(served: Any, z32: str) -> None:
    name = f"_iroh.{z32}.aspen.local"
    reply, standing = ask(served, query_with(name, CLIENT))
    assert standing is Standing.NEW
    assert cookie_of(reply) == CLIENT + maker().make(CLIENT, ADDRESS, NOW)
    assert len(dns.message.from_wire(reply).answer[0]) == 2
    plain = dns.message.from_wire(served.ask_wire(query_with(name, None)))
    assert dns.message.from_wire(reply).answer == plain.answer


def test_a_good_cookie_is_echoed(served: Any, z32: str) -> None:
    cookie = CLIENT + maker().make(CLIENT, ADDRESS, NOW - 60)
    reply, standing = ask(served, query_with(f"{z32}.aspen.local", cookie, rrtype="A"))
    assert (standing, cookie_of(reply)) == (Standing.GOOD, cookie)


def test_a_bad_cookie_is_treated_as_absent(served: Any, z32: str) -> None:
    """RFC 7873 §5.2.4, §5.2.3: answered, with a good cookie for next time."""
    reply, standing = ask(served, query_with(f"{z32}.aspen.local", CLIENT + bytes(24), rrtype="A"))
    assert standing is Standing.BAD
    assert dns.message.from_wire(reply).rcode() == dns.rcode.NOERROR
    assert cookie_of(reply) == CLIENT + maker().make(CLIENT, ADDRESS, NOW)


@pytest.mark.parametrize("length", [0, 1, 7, 9, 15, 41, 60])
def test_a_malformed_cookie_is_a_format_error(served: Any, z32: str, length: int) -> None:
    """RFC 7873 §5.2.2."""
    reply, _ = ask(served, query_with(f"{z32}.aspen.local", bytes(length)))
    assert reply[3] & 15 == dns.rcode.FORMERR


@pytest.mark.parametrize("policy", [False, True])
def test_required_means_badcookie_for_who_sends_cookies(served: Any, z32: str, policy: bool) -> None:
    name = f"{z32}.aspen.local"
    cookie = CLIENT + maker().make(CLIENT, ADDRESS, NOW)
    expected = dns.rcode.BADCOOKIE if policy else dns.rcode.NOERROR
    for sent in (CLIENT, CLIENT + bytes(16)):
        reply, _ = ask(served, query_with(name, sent, rrtype="A", want_dnssec=True), required=policy)
        message = dns.message.from_wire(reply)
        assert message.rcode() == expected
        assert cookie_of(reply) == cookie
        assert message.ednsflags & dns.flags.DO
        assert bool(message.answer) is not policy
    for sent in (cookie, None):  # §5.2.1: without a cookie, nobody knows that we want one
        reply, _ = ask(served, query_with(name, sent, rrtype="A"), required=policy)
        assert dns.message.from_wire(reply).rcode() == dns.rcode.NOERROR


@pytest.mark.parametrize(("server", "rcode"), [(b"", 0), (bytes(16), 23), (None, 0)])
def test_a_query_without_question_asks_for_the_cookie(served: Any, server: bytes | None, rcode: int) -> None:
    """RFC 7873 §5.4."""
    good = maker().make(CLIENT, ADDRESS, NOW)
    cookie = CLIENT + (good if server is None else server)
    option = struct.pack(">HH", COOKIE_OPTION, len(cookie)) + cookie
    opt = b"\x00\x00\x29\x04\xd0\x00\x00\x00\x00" + len(option).to_bytes(2, "big") + option
    reply, _ = ask(served, b"\x12\x34\x00\x00" + bytes(6) + b"\x00\x01" + opt)
    message = dns.message.from_wire(reply)
    assert (message.id, message.rcode(), message.question) == (0x1234, rcode, [])
    assert cookie_of(reply) == CLIENT + good


def test_without_a_cookie_a_query_without_question_stays_malformed(served: Any) -> None:
    opt = b"\x00\x00\x29\x04\xd0" + bytes(6)
    reply, standing = ask(served, b"\x12\x34\x00\x00" + bytes(6) + b"\x00\x01" + opt)
    assert standing is None
    assert reply[3] & 15 == dns.rcode.FORMERR


def test_badvers_carries_the_cookie(served: Any, z32: str) -> None:
    reply, _ = ask(served, bytes(_with_version(query_with(f"{z32}.aspen.local", CLIENT))))
    assert dns.message.from_wire(reply).rcode() == dns.rcode.BADVERS
    assert cookie_of(reply)[:8] == CLIENT


def _with_version(query: bytes) -> bytearray:
    opt = bytearray(query)
    opt[query.rindex(b"\x00\x00\x29") + 6] = 1
    return opt


def test_a_reply_that_has_no_room_for_the_cookie_is_truncated(serve: Any, z32: str) -> None:
    """§5.2: the cookie is always there; what must give way is the answer."""
    for length in range(150, 256, 3):
        served = serve(f'a 30 TXT "{"x" * length}"\na 30 TXT "{"y" * 200}"')
        name = f"a.{z32}.aspen.local"
        reply, _ = ask(served, query_with(name, CLIENT, payload=512))
        message = dns.message.from_wire(reply)
        assert len(reply) <= 512
        assert cookie_of(reply)[:8] == CLIENT
        plain = dns.message.from_wire(served.ask_wire(query_with(name, None, payload=512)))
        fits = len(plain.to_wire()) + 28 <= 512 and not plain.flags & dns.flags.TC
        assert bool(message.flags & dns.flags.TC) is not fits
        assert bool(message.answer) is fits


def test_signed_messages_keep_their_cookie(z32: str) -> None:
    """Their MAC covers it (RFC 8945 §5.3.1): it is not ours to take off."""
    query = query_with(f"{z32}.aspen.local", CLIENT)
    tsig = b"\x01k\x00\x00\xfa\x00\xff" + bytes(4) + b"\x00\x00"
    signed = query[:10] + b"\x00\x02" + query[12:] + tsig
    assert split_cookie(query) is not None
    assert split_cookie(signed) is None


def test_other_options_stay_as_they_are(z32: str) -> None:
    other = dns.edns.GenericOption(65_001, b"abc")
    query = query_with("x.aspen.local", CLIENT, other)
    asked = split_cookie(query)
    assert asked is not None
    assert (asked.client, asked.server) == (CLIENT, b"")
    assert asked.plain == query_with("x.aspen.local", None, other, id=int.from_bytes(query[:2], "big"))


@given(st.binary(max_size=120), st.integers(0, 80))
def test_splitting_is_total(garbage: bytes, keep: int) -> None:
    for query in (garbage, query_with("x.aspen.local", CLIENT)[:keep] + garbage):
        try:
            asked = split_cookie(query)
        except DnsWireError:
            continue
        if asked is not None:
            assert len(asked.plain) == len(query) - 4 - len(asked.client) - len(asked.server)


def test_a_reply_without_edns_gets_no_cookie() -> None:
    assert add_cookie(bytes(12), bytes(24), 512) == bytes(12)


# --- through the cache -----------------------------------------------------------------------------


def test_fresh_cookies_are_answered_from_ready_replies(served: Any, z32: str) -> None:
    answers = UdpAnswers(served.view, wall_s=lambda: NOW)
    answers.use_cookies(maker())
    names = [f"_iroh.{z32}.aspen.local", f"nope.{z32}.aspen.local", "aspen.local", "example.com"]
    good = maker().make(CLIENT, ADDRESS, NOW)
    for round_ in range(3):
        for name in names:
            for number in range(4):
                client = bytes((round_, number)) * 4
                for cookie in (client, client + bytes(16), CLIENT + good, client + bytes(20)):
                    query = query_with(name, cookie)
                    reply = answers.reply_to(query, "198.51.100.100")
                    assert reply is not None
                    assert query[:2] + reply == ask(served, query)[0]
    # One look-up for each name; cookies of a length that we don't make take the pipeline.
    assert answers.tally[Counter.MISSES] == len(names) * (1 + 3 * 4)
    assert answers.tally[Counter.HITS] == 3 * 4 * 4 * len(names) - answers.tally[Counter.MISSES]
    assert answers.tally[Counter.COOKIES_GOOD] == 3 * 4 * len(names)


def test_response_codes_beyond_the_header_are_counted_by_their_names(served: Any, z32: str) -> None:
    answers = UdpAnswers(served.view, policy=CookiePolicy.REQUIRED, wall_s=lambda: NOW)
    answers.use_cookies(maker())
    name = f"_iroh.{z32}.aspen.local"
    new_version = dns.message.make_query(name, "TXT", use_edns=1).to_wire()
    status = dns.message.make_query(name, "SOA", use_edns=1)
    status.set_opcode(dns.opcode.STATUS)
    only_cookie = bytearray(query_with(name, CLIENT + bytes(16)))
    end_of_question = 12 + len(dns.name.from_text(name).to_wire()) + 4
    only_cookie[5:6], only_cookie[12:end_of_question] = b"\0", b""
    for query, rcode in [
        (new_version, dns.rcode.BADVERS),
        (new_version, dns.rcode.BADVERS),
        (status.to_wire(), dns.rcode.BADVERS),
        (query_with(name, CLIENT), dns.rcode.BADCOOKIE),
        (bytes(only_cookie), dns.rcode.BADCOOKIE),
        (query_with(name, None), dns.rcode.NOERROR),
        (query_with("example.com", None), dns.rcode.REFUSED),
    ]:
        reply = answers.reply_to(query, "198.51.100.100")
        assert reply is not None
        assert dns.message.from_wire(query[:2] + reply).rcode() == rcode
    totals = answers.totals()
    assert (totals[Counter.BADVERS], totals[Counter.BADCOOKIE]) == (3, 2)
    assert totals[Counter.RCODE_0 : Counter.RCODE_0 + 16] == [1, 0, 0, 0, 0, 1] + [0] * 10
    assert len(answers.cache.plain) + len(answers.cache.errors) == 2

    answers = UdpAnswers(served.view, wall_s=lambda: NOW)  # whoever has a cookie is answered
    answers.use_cookies(maker())
    for _ in range(2):
        answers.reply_to(new_version[:-2] + query_with(name, CLIENT)[-14:], "198.51.100.100")
    assert (answers.tally[Counter.BADVERS], answers.tally[Counter.COOKIES_NEW]) == (2, 2)


def test_a_changed_packet_takes_its_cookied_replies_with_it(served: Any, z32: str) -> None:
    answers = UdpAnswers(served.view, wall_s=lambda: NOW)
    answers.use_cookies(maker())
    query = query_with(f"t.{z32}.aspen.local", CLIENT)
    before = answers.reply_to(query, "192.0.2.1")
    served.put('t 30 TXT "new"')
    assert answers.reply_to(query, "192.0.2.1") == before
    answers.cache.forget([bytes(range(8))])
    assert answers.reply_to(query, "192.0.2.1") != before


def test_a_cut_off_query_never_answers_for_one_with_a_cookie(served: Any, z32: str) -> None:
    answers = UdpAnswers(served.view, wall_s=lambda: NOW)
    answers.use_cookies(maker())
    query = query_with(f"_iroh.{z32}.aspen.local", CLIENT)
    for _ in range(2):
        cut = answers.reply_to(query[:-8], "192.0.2.1")
        assert cut is not None
        assert cut[1] & 15 == dns.rcode.FORMERR
        whole = answers.reply_to(query, "192.0.2.1")
        assert whole is not None
        assert whole[1] & 15 == dns.rcode.NOERROR


def test_cookies_off_are_an_option_like_any_other(served: Any, z32: str) -> None:
    answers = UdpAnswers(served.view, policy=CookiePolicy.OFF)
    answers.use_cookies(maker())
    query = query_with(f"_iroh.{z32}.aspen.local", CLIENT)
    reply = answers.reply_to(query, "192.0.2.1")
    assert reply is not None
    assert cookie_of(query[:2] + reply) == b""


async def test_over_tcp_cookies_are_answered_too(served: Any, z32: str) -> None:
    server = Answers(served.view)
    query = query_with(f"_iroh.{z32}.aspen.local", CLIENT)
    plain = server.answer(query, ADDRESS)
    assert plain is not None
    assert cookie_of(plain) == b""
    secrets = maker()
    server.cookies = lambda: secrets
    for address in (ADDRESS, bytes(10) + b"\xff\xff" + ADDRESS):
        reply = server.answer(query, address)
        assert reply is not None
        cookie = cookie_of(reply)
        assert cookie[:8] == CLIENT
        now = int.from_bytes(cookie[12:16], "big")
        assert secrets.judge(CLIENT, cookie[8:], ADDRESS, now)[0] is Standing.GOOD


# --- real clients ----------------------------------------------------------------------------------


@pytest.fixture
async def server(replica: Any) -> AsyncIterator[int]:
    sockets = bind_udp("127.0.0.1", 0, 1)
    secrets = maker()
    udp = InProcessUdp(sockets, replica.view(), cookies=lambda: secrets)
    port = sockets[0].getsockname()[1]
    await udp.start()
    yield port
    await udp.close()


async def _run(*command: str) -> str:
    import asyncio

    if shutil.which(command[0]) is None:
        pytest.skip(f"{command[0]} is not installed")
    done = await asyncio.to_thread(
        subprocess.run, command, capture_output=True, text=True, timeout=10, check=False
    )
    return done.stdout


async def test_dig_finds_our_cookie_good(server: int, z32: str) -> None:
    name = f"_iroh.{z32}.aspen.local"
    out = await _run("dig", "@127.0.0.1", "-p", str(server), "+cookie", name, "TXT")
    assert "(good)" in out
    assert "relay=https://relay.example./" in out
    cookie = out.partition("; COOKIE: ")[2].partition(" ")[0]
    again = await _run("dig", "@127.0.0.1", "-p", str(server), f"+cookie={cookie}", name, "TXT")
    assert f"COOKIE: {cookie} (good)" in again


async def test_kdig_gets_a_server_cookie(server: int, z32: str) -> None:
    out = await _run("kdig", "@127.0.0.1", "-p", str(server), "+cookie", f"_iroh.{z32}.aspen.local", "TXT")
    assert "COOKIE" in out
    assert "relay=https://relay.example./" in out


async def test_over_udp_a_mapped_address_has_the_cookie_of_the_ipv4_one() -> None:
    from aspen.dns.sockets import packed_address

    assert packed_address("::ffff:198.51.100.100") == packed_address("198.51.100.100") == ADDRESS
    assert packed_address("2001:db8::1%eth0") == socket.inet_pton(socket.AF_INET6, "2001:db8::1")
