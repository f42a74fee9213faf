"""`aspen pkarr`: deleting, other relays than the node's, DNS, and packets explained field by field."""

from __future__ import annotations

import json
import os
import random
import socket
import stat
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import dns.message
import dns.rrset
import pytest
from typer.testing import Result

from aspen.identity import Identity
from aspen.pkarr.explain import explain
from aspen.pkarr.packet import SignedPacket
from aspen.pkarr.records import build_message

Aspen = Callable[..., Result]
ALICE = Identity.from_seed(bytes(range(32)))
RECORD = '_iroh TXT "addr=192.0.2.1:7300"'
NOW_US = 1_700_000_000_000_000


def packet(*records: str, at_us: int = NOW_US) -> SignedPacket:
    return SignedPacket.sign(ALICE, build_message(ALICE.endpoint_id, records or [RECORD]), at_us)


@pytest.fixture
def key(tmp_path: Path) -> str:
    file = tmp_path / "alice.key"
    ALICE.save(file)
    return str(file)


# --- delete -----------------------------------------------------------------------------------


def test_delete_publishes_a_signed_packet_without_records(aspen: Aspen, node: Any, key: str) -> None:
    aspen("pkarr", "publish", "--key", key, RECORD, "--addr", node.url)
    before = SignedPacket.parse(ALICE.endpoint_id, node.packets[ALICE.z32])
    result = aspen("pkarr", "delete", "--key", key, "--addr", node.url)
    assert result.exit_code == 0
    assert result.stdout == f"{ALICE.z32} has no records any more\n"
    deleted = SignedPacket.parse(ALICE.endpoint_id, node.packets[ALICE.z32])
    assert deleted.message == build_message(ALICE.endpoint_id, [])
    assert deleted.more_recent_than(before)
    said = json.loads(aspen("pkarr", "delete", "--key", key, "--addr", node.url, "--json").stdout)
    assert said["deleted"] is True


def test_delete_never_makes_a_key(aspen: Aspen, node: Any, tmp_path: Path) -> None:
    result = aspen("pkarr", "delete", "--key", str(tmp_path / "absent"), "--addr", node.url)
    assert result.exit_code == 2
    assert not (tmp_path / "absent").exists()


def test_a_key_file_is_for_its_owner_alone_whatever_the_umask(aspen: Aspen, tmp_path: Path) -> None:
    before = os.umask(0)
    try:
        aspen("pkarr", "keygen", str(tmp_path / "a.key"))
        aspen("pkarr", "publish", "--key", str(tmp_path / "b.key"), RECORD, "--out", str(tmp_path / "packet"))
    finally:
        os.umask(before)
    for name in ("a.key", "b.key"):
        assert stat.S_IMODE((tmp_path / name).stat().st_mode) == 0o600


# --- other relays -----------------------------------------------------------------------------


def test_publish_and_resolve_by_relays(aspen: Aspen, node: Any, key: str) -> None:
    relay = f"{node.url}/pkarr"
    result = aspen("pkarr", "publish", "--key", key, RECORD, "--relay", relay)
    assert result.exit_code == 0
    assert result.stdout == f"{ALICE.z32}\n{relay}: published\n"
    found = aspen("pkarr", "resolve", ALICE.z32, "--relay", relay)
    assert f"by {relay}" in found.stdout.splitlines()[0]
    assert found.stdout.splitlines()[1:] == [f'_iroh.{ALICE.z32}. 30 IN TXT "addr=192.0.2.1:7300"']


def test_one_of_two_relays_is_away(aspen: Aspen, node: Any, key: str) -> None:
    relays = ("--relay", f"{node.url}/pkarr", "--relay", "http://127.0.0.1:9/pkarr")
    result = aspen("pkarr", "publish", "--key", key, RECORD, *relays, "--json")
    assert result.exit_code == 1  # not everywhere
    places = json.loads(result.stdout)["places"]
    assert [each["published"] for each in places] == [True, False]
    assert "gave no answer" in places[1]["reason"]
    found = aspen("pkarr", "resolve", ALICE.z32, *relays)
    assert found.exit_code == 0
    assert "gave no answer" in found.stderr


def test_nothing_found_is_3_and_nobody_asked_is_4(aspen: Aspen, node: Any) -> None:
    assert aspen("pkarr", "resolve", ALICE.z32, "--relay", f"{node.url}/pkarr").exit_code == 3
    assert aspen("pkarr", "resolve", ALICE.z32, "--relay", "http://127.0.0.1:9").exit_code == 4


def test_a_relay_that_answers_with_another_keys_packet_is_not_believed(aspen: Aspen, node: Any) -> None:
    bob = Identity.from_seed(bytes(32))
    node.packets[ALICE.z32] = SignedPacket.sign(bob, build_message(bob.endpoint_id, [RECORD]), NOW_US).payload
    result = aspen("pkarr", "resolve", ALICE.z32, "--relay", f"{node.url}/pkarr")
    assert result.exit_code == 4
    assert "signature" in result.stderr


@pytest.mark.parametrize("url", ["ftp://example.com", "nonsense", "https://example.com/?a=b", ""])
def test_what_is_no_relay_is_said(aspen: Aspen, key: str, url: str) -> None:
    result = aspen("pkarr", "publish", "--key", key, RECORD, "--relay", url)
    assert result.exit_code == 2
    assert "not the URL of a pkarr relay" in result.stderr


def test_a_key_in_hexadecimal_is_one_too(aspen: Aspen, node: Any) -> None:
    node.packets[ALICE.z32] = packet().payload
    assert aspen("pkarr", "resolve", ALICE.endpoint_id.hex(), "--addr", node.url).exit_code == 0
    assert aspen("pkarr", "resolve", "f" * 63, "--addr", node.url).exit_code == 2


# --- DNS --------------------------------------------------------------------------------------


def bound_alike() -> tuple[socket.socket, socket.socket]:
    """A UDP and a TCP socket on one port: what is free for the one, somebody may have for the other."""
    while True:
        udp, tcp = socket.socket(type=socket.SOCK_DGRAM), socket.socket()
        udp.bind(("127.0.0.1", 0))
        try:
            tcp.bind(udp.getsockname())
        except OSError:
            udp.close()
            tcp.close()
        else:
            return udp, tcp


@contextmanager
def dns_server(*, texts: list[str], truncate: bool = False) -> Iterator[str]:
    """A name server that knows one name; with `truncate`, by TCP only."""

    def answer(query_bytes: bytes, *, by_udp: bool) -> bytes:
        query = dns.message.from_wire(query_bytes)
        response = dns.message.make_response(query)
        if by_udp and truncate:
            response.flags |= dns.flags.TC
        elif query.question[0].name.to_text() == f"_iroh.{ALICE.z32}.keys.test." and texts:
            quoted = [f'"{text}"' for text in texts]
            response.answer.append(dns.rrset.from_text(query.question[0].name, 30, "IN", "TXT", *quoted))
        return response.to_wire()

    def serve_udp() -> None:
        while not ended.is_set():
            try:
                query, client = udp.recvfrom(4096)
            except TimeoutError:
                continue
            udp.sendto(b"xx" + query[2:], client)  # not the answer: another id
            udp.sendto(answer(query, by_udp=True), client)

    def serve_tcp() -> None:
        while not ended.is_set():
            try:
                connection, _ = tcp.accept()
            except TimeoutError:
                continue
            with connection:
                length = int.from_bytes(connection.recv(2), "big")
                reply = answer(connection.recv(length), by_udp=False)
                connection.sendall(len(reply).to_bytes(2, "big") + reply)

    ended = threading.Event()
    udp, tcp = bound_alike()
    with udp, tcp:
        port = udp.getsockname()[1]
        tcp.listen()
        udp.settimeout(0.05)
        tcp.settimeout(0.05)
        threads = [threading.Thread(target=serve) for serve in (serve_udp, serve_tcp)]
        for thread in threads:
            thread.start()
        try:
            yield f"127.0.0.1:{port}"
        finally:
            ended.set()
            for thread in threads:
                thread.join()


@pytest.mark.parametrize("truncate", [False, True])
def test_resolve_by_dns_is_marked_as_unverified(aspen: Aspen, truncate: bool) -> None:
    texts = ["addr=192.0.2.1:7300", "relay=https://relay.example./", "unknown=1", "addr=nonsense"]
    with dns_server(texts=texts, truncate=truncate) as server:
        result = aspen("pkarr", "resolve", ALICE.z32, "--dns", server, "--origin", "keys.test.")
        asked_json = aspen("pkarr", "resolve", ALICE.z32, "--dns", server, "--origin", "keys.test", "--json")
    assert result.exit_code == 0, result.stderr
    assert "not verified" in result.stdout
    assert result.stdout.splitlines()[1:] == [
        '_iroh TXT "relay=https://relay.example./"',
        '_iroh TXT "addr=192.0.2.1:7300"',
    ]
    said = json.loads(asked_json.stdout)
    assert said["verified"] is False
    assert said["source"] == "dns:keys.test"


def test_a_signed_packet_goes_before_what_dns_says(aspen: Aspen, node: Any) -> None:
    node.packets[ALICE.z32] = packet('_iroh TXT "addr=192.0.2.99:1"').payload
    with dns_server(texts=["addr=192.0.2.1:7300"]) as server:
        options = ("--dns", server, "--origin", "keys.test", "--relay", f"{node.url}/pkarr", "--json")
        said = json.loads(aspen("pkarr", "resolve", ALICE.z32, *options).stdout)
    assert said["verified"] is True
    assert "192.0.2.99" in said["records"][0]


def test_dns_that_knows_nothing_is_3(aspen: Aspen) -> None:
    with dns_server(texts=[]) as server:
        result = aspen("pkarr", "resolve", ALICE.z32, "--dns", server, "--origin", "keys.test")
    assert result.exit_code == 3


@pytest.mark.parametrize("server", ["", ":53", "host:0", "host:70000", "host:x"])
def test_what_is_no_dns_server_is_said(aspen: Aspen, server: str) -> None:
    result = aspen("pkarr", "resolve", ALICE.z32, "--dns", server)
    assert result.exit_code == 2
    assert "not the address of a DNS server" in result.stderr


# --- show -------------------------------------------------------------------------------------


def shown(aspen: Aspen, tmp_path: Path, payload: bytes, *options: str) -> tuple[int, dict[str, Any]]:
    file = tmp_path / "packet"
    file.write_bytes(payload)
    result = aspen("pkarr", "show", str(file), "--json", *options)
    return result.exit_code, json.loads(result.stdout)


def test_show_explains_a_packet_field_by_field(aspen: Aspen, tmp_path: Path) -> None:
    payload = packet(RECORD, "@ 60 A 192.0.2.7").payload
    code, said = shown(aspen, tmp_path, payload)
    assert code == 0
    assert said["valid"] is True
    names = [(each["offset"], each["name"]) for each in said["fields"]]
    assert names[:5] == [
        (0, "signature"),
        (64, "timestamp"),
        (72, "message"),
        (72, "header"),
        (84, "answer 1 of 2"),
    ]
    assert said["fields"][4]["value"] == f'_iroh.{ALICE.z32}. 30 IN TXT "addr=192.0.2.1:7300"'
    assert said["fields"][5]["value"] == f"{ALICE.z32}. 60 IN A 192.0.2.7"
    end = said["fields"][5]
    assert end["offset"] + end["size"] == len(payload)


def test_show_in_words(aspen: Aspen, tmp_path: Path) -> None:
    file = tmp_path / "packet"
    file.write_bytes(packet().payload)
    result = aspen("pkarr", "show", str(file))
    assert result.exit_code == 0
    assert (
        "   64     8  timestamp: 1700000000000000 microseconds since 1970 (2023-11-14 22:13:20 UTC)"
        in result.stdout
    )
    assert aspen("pkarr", "show", "-", stdin=packet().payload).stdout == result.stdout


def edited(payload: bytes, at: int, octets: bytes) -> bytes:
    return payload[:at] + octets + payload[at + len(octets) :]


PAYLOAD = packet().payload


@pytest.mark.parametrize(
    ("payload", "field", "offset", "problem"),
    [
        (b"x" * 65, "payload", 0, "ends at octet 65, inside the timestamp"),
        (b"x" * 71, "payload", 0, "ends at octet 71, inside the timestamp"),
        (edited(PAYLOAD, 0, b"\0\0"), "signature", 0, "not a signature by the key that the records"),
        (edited(PAYLOAD, 71, b"\1"), "signature", 0, "over this timestamp and message"),
        (edited(PAYLOAD, 64, bytes(8)), "timestamp", 64, "1 to 2^63 - 1"),
        (edited(PAYLOAD, 64, b"\xff" * 8), "timestamp", 64, "1 to 2^63 - 1"),
        (PAYLOAD + bytes(1_000), "message", 72, "more than the 1000 allowed"),
        (PAYLOAD + b"tail", "rest", len(PAYLOAD), "octets after the end"),
        (PAYLOAD[:80], "header", 72, "ends at octet 8, inside its header"),
        (PAYLOAD[:-3], "answer 1 of 1", 84, "past the end"),
        (edited(PAYLOAD, 79, b"\2"), "answer 2 of 2", len(PAYLOAD), "the message ends here"),
        (edited(PAYLOAD, 84, b"\xc0\x0c"), "answer 1 of 1", 84, "pointer"),
        (edited(PAYLOAD, 77, b"\1"), "question 1 of 1", 84, ""),
    ],
)
def test_show_says_what_is_wrong_and_where(
    aspen: Aspen, tmp_path: Path, payload: bytes, field: str, offset: int, problem: str
) -> None:
    code, said = shown(aspen, tmp_path, payload)
    assert code == 1
    assert said["valid"] is False
    found = [each for each in said["fields"] if each["name"] == field]
    assert found, [each["name"] for each in said["fields"]]
    assert found[0]["offset"] == offset
    assert problem in found[0].get("problem", "")


def test_show_with_the_wrong_key_says_so(aspen: Aspen, tmp_path: Path) -> None:
    code, said = shown(aspen, tmp_path, PAYLOAD, "--key", Identity.from_seed(bytes(32)).z32)
    assert code == 1
    assert said["fields"][0]["problem"] == "not a signature by the key over this timestamp and message"
    assert shown(aspen, tmp_path, PAYLOAD, "--key", ALICE.z32)[0] == 0


def test_a_packet_without_records_needs_the_key_to_be_verified(aspen: Aspen, tmp_path: Path) -> None:
    payload = SignedPacket.sign(ALICE, build_message(ALICE.endpoint_id, []), NOW_US).payload
    code, said = shown(aspen, tmp_path, payload)
    assert code == 1
    assert "no key was given" in said["fields"][0]["problem"]
    assert shown(aspen, tmp_path, payload, "--key", ALICE.z32)[0] == 0


def test_explaining_bears_any_octets() -> None:
    chance = random.Random(7)
    for _ in range(300):
        payload = bytearray(PAYLOAD)
        for _ in range(chance.randrange(1, 6)):
            payload[chance.randrange(len(payload))] = chance.randrange(256)
        fields = explain(bytes(payload[: chance.randrange(len(payload) + 1)]))
        assert fields
        assert any(field.problem for field in fields) or bytes(payload) == PAYLOAD
        assert all(0 <= field.offset <= len(payload) for field in fields)
