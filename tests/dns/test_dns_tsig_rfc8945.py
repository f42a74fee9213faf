"""TSIG (RFC 8945), judged by dnspython's own: what it signs we believe, what we sign it believes."""

from __future__ import annotations

import dns.exception
import dns.message
import dns.name
import dns.rcode
import dns.rdatatype
import dns.renderer
import dns.tsig
import pytest
from hypothesis import given
from hypothesis import strategies as st

from aspen.dns.name import name_from_text
from aspen.dns.tsig import (
    ALGORITHMS,
    AnswerVerifier,
    Refusal,
    Signer,
    TsigError,
    TsigKey,
    read_tsig,
    unsigned_form,
    verify_request,
)
from aspen.dns.wire import Rcode
from aspen.errors import DnsWireError

NOW_S = 1_700_000_000
KEY = TsigKey(name_from_text("transfer.example."), ALGORITHMS["hmac-sha256"], bytes(range(32)))
KEYS = {KEY.name: KEY}


def theirs(key: TsigKey = KEY, name: str | None = None) -> dns.tsig.Key:
    text = name or dns.name.from_wire(key.name, 0)[0].to_text()
    return dns.tsig.Key(text, key.secret, key.algorithm.text + ".")


def signed_query(key: TsigKey = KEY, **options: object) -> bytes:
    """A query signed by dnspython at `NOW_S`."""
    query = dns.message.make_query("zone.example.", "SOA", **options)  # type: ignore[arg-type]
    query.use_tsig(theirs(key))
    with At(NOW_S):
        return query.to_wire()


class At:
    """dnspython's clock stands still."""

    def __init__(self, now_s: int) -> None:
        self._now_s = now_s

    def __enter__(self) -> None:
        self._before = dns.message.time
        dns.message.time = self  # type: ignore[assignment]

    def __exit__(self, *_: object) -> None:
        dns.message.time = self._before

    def time(self) -> int:
        return self._now_s


def tsig_of(message: bytes):  # type: ignore[no-untyped-def]
    tsig = read_tsig(message)
    assert tsig is not None
    return tsig


def reply_to(query: bytes, rcode: int = 0) -> bytes:
    """An unsigned reply with the question, as the pipeline would make it."""
    tsig = tsig_of(query)
    message = dns.message.make_response(dns.message.from_wire(unsigned_form(query, tsig)))
    message.set_rcode(rcode)
    return message.to_wire()


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_a_request_signed_by_dnspython_is_believed_and_our_answer_believed_by_it(algorithm: str) -> None:
    key = KEY._replace(algorithm=ALGORITHMS[algorithm])
    query = signed_query(key=key, use_edns=0)
    signer = verify_request(query, tsig_of(query), {key.name: key}, NOW_S + 300)
    assert isinstance(signer, Signer)
    answer = signer.sign(reply_to(query), NOW_S)
    with At(NOW_S):
        message = dns.message.from_wire(answer, keyring=theirs(key), request_mac=tsig_of(query).mac)
    assert message.had_tsig
    assert message.keyname.to_text() == "transfer.example."
    assert len(answer) - len(reply_to(query)) <= signer.room


def test_the_key_name_and_algorithm_are_compared_without_case_section_4_2() -> None:
    query = dns.message.make_query("zone.example.", "SOA")
    query.use_tsig(theirs(name="TRANSFER.Example."))
    with At(NOW_S):
        wire = query.to_wire()
    assert isinstance(verify_request(wire, tsig_of(wire), KEYS, NOW_S), Signer)


def test_an_id_changed_on_the_way_does_not_matter_section_4_2_original_id() -> None:
    query = signed_query()
    forwarded = b"\x12\x34" + query[2:]
    assert isinstance(verify_request(forwarded, tsig_of(forwarded), KEYS, NOW_S), Signer)


@given(position=st.integers(2, 400), bit=st.integers(0, 7))
def test_any_other_bit_changed_is_refused(position: int, bit: int) -> None:
    original = dns.message.make_query("zone.example.", "SOA", id=1)
    original.use_tsig(theirs())
    with At(NOW_S):
        query = original.to_wire()
    position = min(position, len(query) - 1)
    changed = query[:position] + bytes((query[position] ^ 1 << bit,)) + query[position + 1 :]
    try:
        tsig = read_tsig(changed)
        verdict = tsig and verify_request(changed, tsig, KEYS, NOW_S)
    except DnsWireError:
        return
    if isinstance(verdict, Signer):
        # The record's own names are folded before they are digested.
        tsig = tsig_of(query)
        assert tsig.start <= position < query.index(tsig.mac)
        assert changed.lower() == query.lower()


def test_an_unknown_key_is_badkey_without_a_mac_section_5_2_1() -> None:
    query = signed_query()
    refusal = verify_request(query, tsig_of(query), {}, NOW_S)
    assert isinstance(refusal, Refusal)
    assert (refusal.error, refusal.rcode) == (TsigError.BADKEY, Rcode.NOTAUTH)
    answer = dns.message.from_wire(refusal.reply(reply_to(query, 9), NOW_S), keyring=False)
    assert answer.rcode() == dns.rcode.NOTAUTH
    assert answer.tsig is not None
    assert (answer.tsig[0].error, answer.tsig[0].mac) == (17, b"")


def test_a_key_of_another_algorithm_is_badkey_section_5_2_1() -> None:
    query = signed_query(key=KEY._replace(algorithm=ALGORITHMS["hmac-sha512"]))
    refusal = verify_request(query, tsig_of(query), KEYS, NOW_S)
    assert isinstance(refusal, Refusal)
    assert refusal.error is TsigError.BADKEY


def test_another_secret_is_badsig_without_a_mac_section_5_2_2() -> None:
    query = signed_query(key=KEY._replace(secret=b"another secret entirely"))
    refusal = verify_request(query, tsig_of(query), KEYS, NOW_S)
    assert isinstance(refusal, Refusal)
    assert refusal.error is TsigError.BADSIG
    with pytest.raises(dns.tsig.PeerBadSignature):
        dns.message.from_wire(
            refusal.reply(reply_to(query, 9), NOW_S), keyring=theirs(), request_mac=tsig_of(query).mac
        )


@pytest.mark.parametrize("off_by_s", [301, -301, 10**6])
def test_a_wrong_time_is_badtime_signed_and_tells_ours_section_5_2_3(off_by_s: int) -> None:
    query = signed_query()
    refusal = verify_request(query, tsig_of(query), KEYS, NOW_S + off_by_s)
    assert isinstance(refusal, Refusal)
    assert refusal.error is TsigError.BADTIME
    answer = refusal.reply(reply_to(query, 9), NOW_S + off_by_s)
    record = tsig_of(answer)
    assert record.time_s == NOW_S, "the client's own time is signed"
    assert int.from_bytes(record.other, "big") == NOW_S + off_by_s
    verifier = AnswerVerifier(KEY, tsig_of(query).mac)
    assert verifier.verify(answer, NOW_S) is TsigError.NONE, "the MAC is good"
    with pytest.raises(dns.tsig.PeerBadTime):
        dns.message.from_wire(answer, keyring=theirs(), request_mac=tsig_of(query).mac)


def test_a_wrong_mac_is_judged_before_a_wrong_time_section_5_2() -> None:
    query = signed_query(key=KEY._replace(secret=b"x"))
    refusal = verify_request(query, tsig_of(query), KEYS, NOW_S + 10_000)
    assert isinstance(refusal, Refusal)
    assert refusal.error is TsigError.BADSIG


def rewritten(query: bytes, mac: bytes) -> bytes:
    """The query with another MAC."""
    tsig = tsig_of(query)
    tail = query[tsig.start :]
    old = len(tsig.mac).to_bytes(2, "big") + tsig.mac
    at_mac = tail.index(old)
    fixed = tail.index(b"\x00\xfa\x00\xff")
    size = int.from_bytes(tail[fixed + 8 : fixed + 10], "big") - len(tsig.mac) + len(mac)
    new = bytearray(tail[:at_mac] + len(mac).to_bytes(2, "big") + mac + tail[at_mac + len(old) :])
    new[fixed + 8 : fixed + 10] = size.to_bytes(2, "big")
    return query[: tsig.start] + bytes(new)


@pytest.mark.parametrize("size", [16, 20, 32])
def test_a_mac_truncated_to_half_or_more_is_good_section_5_2_2_1(size: int) -> None:
    query = signed_query()
    short = rewritten(query, tsig_of(query).mac[:size])
    assert isinstance(verify_request(short, tsig_of(short), KEYS, NOW_S), Signer)


@pytest.mark.parametrize("size", [1, 9, 15, 33, 64])
def test_a_mac_shorter_than_half_or_too_long_is_formerr_section_5_2_2_1(size: int) -> None:
    query = signed_query()
    wrong = rewritten(query, (tsig_of(query).mac * 2)[:size])
    with pytest.raises(DnsWireError) as caught:
        verify_request(wrong, tsig_of(wrong), KEYS, NOW_S)
    assert caught.value.rcode == Rcode.FORMERR


def test_no_mac_at_all_is_badsig() -> None:
    query = signed_query()
    bare = rewritten(query, b"")
    refusal = verify_request(bare, tsig_of(bare), KEYS, NOW_S)
    assert isinstance(refusal, Refusal)
    assert refusal.error is TsigError.BADSIG


def test_tsig_is_one_and_last_section_5_1() -> None:
    query = signed_query()
    record = query[tsig_of(query).start :]
    twice = query[:10] + b"\x00\x02" + query[12:] + record
    with pytest.raises(DnsWireError):
        read_tsig(twice)
    root_a = b"\x00\x00\x01\x00\x01" + bytes(4) + b"\x00\x04" + bytes(4)
    with pytest.raises(DnsWireError):
        read_tsig(query[:10] + b"\x00\x02" + query[12:] + root_a)
    in_authority = query[:8] + b"\x00\x01\x00\x00" + query[12:]
    with pytest.raises(DnsWireError):
        read_tsig(in_authority)


def test_an_answer_of_several_messages_is_a_chain_section_5_3_1() -> None:
    query = signed_query()
    request_mac = tsig_of(query).mac
    signer = verify_request(query, tsig_of(query), KEYS, NOW_S)
    assert isinstance(signer, Signer)
    answers = [signer.sign(reply_to(query), NOW_S + i) for i in range(5)]
    context = None
    verifier = AnswerVerifier(KEY, request_mac)
    for index, answer in enumerate(answers):
        with At(NOW_S):
            message = dns.message.from_wire(
                answer, keyring=theirs(), request_mac=request_mac, tsig_ctx=context, multi=True
            )
        context = message.tsig_ctx
        assert verifier.verify(answer, NOW_S) is TsigError.NONE, index
    assert AnswerVerifier(KEY, request_mac).verify(answers[1], NOW_S) is TsigError.BADSIG


def test_a_request_of_ours_is_believed_by_dnspython_and_its_answer_by_us() -> None:
    query = dns.message.make_query("zone.example.", "SOA")
    signer = Signer(KEY)
    signed = signer.sign(query.to_wire(), NOW_S)
    with At(NOW_S):
        parsed = dns.message.from_wire(signed, keyring=theirs())
        response = dns.message.make_response(parsed)
        wire = response.to_wire()
    verifier = AnswerVerifier(KEY, signer.mac)
    assert verifier.verify(wire, NOW_S) is TsigError.NONE
    assert AnswerVerifier(KEY, signer.mac).verify(wire, NOW_S + 1_000) is TsigError.BADTIME
    assert AnswerVerifier(KEY, bytes(32)).verify(wire, NOW_S) is TsigError.BADSIG
    assert AnswerVerifier(KEY, signer.mac).verify(reply_to(signed), NOW_S) is TsigError.BADSIG, "unsigned"


def test_a_key_never_shows_its_secret() -> None:
    shown = repr(KEY) + str(KEY)
    assert KEY.secret.hex() not in shown
    assert repr(KEY.secret) not in shown


@given(st.binary(max_size=300))
def test_garbage_is_refused_by_one_exception(garbage: bytes) -> None:
    for message in (
        garbage,
        signed_query()[:12] + garbage,
        signed_query()[: tsig_of(signed_query()).start] + garbage,
    ):
        try:
            tsig = read_tsig(message)
            if tsig is not None:
                verify_request(message, tsig, KEYS, NOW_S)
        except DnsWireError:
            pass
