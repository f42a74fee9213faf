"""nsupdate and dig, ISC's own tools, change and read a zone of ours (RFC 2136, RFC 8945)."""

from __future__ import annotations

import base64
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import dns.message
import dns.query
import dns.rcode
import pytest
from processes import wait_until
from secondaries import HOST, KEY_ARGUMENT, KEYRING, ZONE, ZonePrimary, nsupdate, serial_at
from zone_primary import KEY_NAME

needs_nsupdate = pytest.mark.skipif(
    shutil.which("nsupdate") is None or shutil.which("dig") is None,
    reason="nsupdate and dig are not installed",
)
pytestmark = needs_nsupdate


@pytest.fixture(scope="module")
def primary(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ZonePrimary]:
    primary = ZonePrimary(tmp_path_factory.mktemp("primary") / "node", 10)
    try:
        primary.start()
        wait_until(lambda: serial_at(primary.port), "the primary answers", 20)
        yield primary
    finally:
        primary.stop()


def texts(port: int, name: str, rrtype: str, *, tcp: bool = False) -> tuple[int, list[str]]:
    """RCODE and the RDATAs of an answer."""
    query = dns.message.make_query(f"{name}.{ZONE}", rrtype)
    ask = dns.query.tcp if tcp else dns.query.udp
    reply = ask(query, HOST, port=port, timeout=5)
    return reply.rcode(), sorted(rdata.to_text() for rrset in reply.answer for rdata in rrset)


@pytest.mark.parametrize("options", [(), ("-v",)], ids=["udp", "tcp"])
def test_what_is_added_is_there_and_what_is_deleted_gone(
    primary: ZonePrimary, options: tuple[str, ...]
) -> None:
    name = "over-" + ("tcp" if options else "udp")
    done = nsupdate(
        primary.port,
        f"add {name}.{ZONE} A 192.0.2.1\nadd {name}.{ZONE} A 192.0.2.2\nadd {name}.{ZONE} MX 5 www",
        *options,
    )
    assert done.returncode == 0, done.stderr
    assert texts(primary.port, name, "A") == (dns.rcode.NOERROR, ["192.0.2.1", "192.0.2.2"])
    assert nsupdate(primary.port, f"del {name}.{ZONE} A 192.0.2.1", *options).returncode == 0
    assert texts(primary.port, name, "A", tcp=True)[1] == ["192.0.2.2"]
    assert nsupdate(primary.port, f"del {name}.{ZONE} MX", *options).returncode == 0
    assert texts(primary.port, name, "MX")[1] == []
    assert nsupdate(primary.port, f"del {name}.{ZONE}", *options).returncode == 0
    # The wildcard of the zone takes over where the name is no more.
    assert texts(primary.port, name, "TXT")[1] == ['"wild" "card"']


@pytest.mark.parametrize(
    ("prerequisite", "rcode"),
    [
        (f"yxdomain nobody.{ZONE}", "NXDOMAIN"),
        (f"nxdomain www.{ZONE}", "YXDOMAIN"),
        (f"nxrrset www.{ZONE} A", "YXRRSET"),
        (f"yxrrset www.{ZONE} TXT", "NXRRSET"),
        (f"yxrrset www.{ZONE} A 192.0.2.99", "NXRRSET"),
        ("yxdomain www.elsewhere.example.", "NOTZONE"),
    ],
)
def test_a_prerequisite_that_fails_has_its_rcode_and_nothing_is_changed_section_3_2(
    primary: ZonePrimary, prerequisite: str, rcode: str
) -> None:
    before = serial_at(primary.port)
    done = nsupdate(primary.port, f"prereq {prerequisite}\nadd failed.{ZONE} A 192.0.2.1\ndel www.{ZONE}")
    assert done.returncode == 2
    assert f"update failed: {rcode}" in done.stderr
    assert serial_at(primary.port) == before
    assert texts(primary.port, "www", "A")[1] == ["192.0.2.80"]


def test_prerequisites_that_hold_let_the_update_pass(primary: ZonePrimary) -> None:
    done = nsupdate(
        primary.port,
        f"prereq yxrrset www.{ZONE} A 192.0.2.80\nprereq nxdomain passed.{ZONE}\n"
        f"prereq yxrrset www.{ZONE} AAAA\nprereq nxrrset www.{ZONE} MX\nadd passed.{ZONE} A 192.0.2.3",
    )
    assert done.returncode == 0, done.stderr
    assert texts(primary.port, "passed", "A")[1] == ["192.0.2.3"]


def test_one_change_outside_the_zone_and_none_is_made(primary: ZonePrimary) -> None:
    before = serial_at(primary.port)
    done = nsupdate(primary.port, f"add inside.{ZONE} A 192.0.2.1\nadd www.elsewhere.example. A 192.0.2.1")
    assert "NOTZONE" in done.stderr
    assert serial_at(primary.port) == before


def test_what_rfc_2136_says_to_ignore_is_ignored_section_3_4_2(primary: ZonePrimary) -> None:
    before = serial_at(primary.port)
    done = nsupdate(
        primary.port,
        f"add alias.{ZONE} A 192.0.2.1\nadd www.{ZONE} CNAME elsewhere.example.\n"
        f"del {ZONE} SOA\ndel {ZONE} NS",
    )
    assert done.returncode == 0, done.stderr
    assert serial_at(primary.port) == before
    assert texts(primary.port, "alias", "CNAME")[1] == [f"www.{ZONE}"]


def test_an_update_as_long_as_a_message_is_one_change(primary: ZonePrimary) -> None:
    before = serial_at(primary.port)
    assert before is not None
    lines = "\n".join(f"add many-{i}.{ZONE} A 192.0.2.1" for i in range(1_200))
    done = nsupdate(primary.port, lines, "-v")
    assert done.returncode == 0, done.stderr
    assert serial_at(primary.port) == before + 1
    assert texts(primary.port, "many-1199", "A")[1] == ["192.0.2.1"]


def test_badkey_and_badsig_change_nothing_rfc8945_5_2(primary: ZonePrimary) -> None:
    before = serial_at(primary.port)
    wrong = base64.b64encode(b"some other secret, of 32 octets.").decode()
    for key, complaint in (
        (f"hmac-sha256:nobody.:{wrong}", "BADKEY"),
        (f"hmac-sha256:{KEY_NAME}:{wrong}", "BADSIG"),
    ):
        done = nsupdate(primary.port, f"add wrong.{ZONE} A 192.0.2.1", key=key)
        assert done.returncode == 2
        assert complaint in done.stderr + done.stdout, done.stderr
    done = nsupdate(primary.port, f"add wrong.{ZONE} A 192.0.2.1", key=None)
    assert "REFUSED" in done.stderr
    assert serial_at(primary.port) == before


@pytest.mark.parametrize("shift_s", [-600, 600])
def test_badtime_is_told_where_the_clocks_differ_rfc8945_5_2_3(tmp_path: Path, shift_s: int) -> None:
    primary = ZonePrimary(tmp_path / "node", 1)
    try:
        primary.start(clock_shift_s=shift_s)
        before = wait_until(lambda: serial_at(primary.port), "the primary answers", 20)
        done = nsupdate(primary.port, f"add late.{ZONE} A 192.0.2.1")
        assert done.returncode == 2
        assert "BADTIME" in done.stderr + done.stdout, done.stderr
        assert serial_at(primary.port) == before
    finally:
        primary.stop()


def test_a_signed_question_is_answered_signed_rfc8945_5_3(primary: ZonePrimary) -> None:
    query = dns.message.make_query(f"www.{ZONE}", "A", use_edns=0)
    query.use_tsig(KEYRING)
    for ask in (dns.query.udp, dns.query.tcp):
        reply = ask(query, HOST, port=primary.port, timeout=5)
        assert reply.had_tsig
        assert reply.rcode() == dns.rcode.NOERROR


def dig(port: int, *arguments: str) -> str:
    command = ["dig", f"@{HOST}", "-p", str(port), "+time=5", "+tries=1", *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=20, check=False).stdout


def test_dig_transfers_by_axfr_and_ixfr_with_a_key(primary: ZonePrimary) -> None:
    serial = serial_at(primary.port)
    assert serial is not None
    assert nsupdate(primary.port, f"add ixfr-{serial}.{ZONE} A 192.0.2.1").returncode == 0
    for held, count in ((serial, 5), (serial + 1, 1)):
        answer = dig(primary.port, "-y", KEY_ARGUMENT, ZONE, f"IXFR={held}", "+noall", "+answer")
        assert len([line for line in answer.splitlines() if line and line[0] != ";"]) == count, answer
    whole = dig(primary.port, "-y", KEY_ARGUMENT, ZONE, "AXFR")
    assert "XFR size" in whole
    assert "TSIG" in whole
    wrong = dig(primary.port, "-y", KEY_ARGUMENT[:-4] + "AAA=", ZONE, "AXFR")
    assert "Transfer failed" in wrong
