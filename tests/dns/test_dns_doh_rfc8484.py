"""DNS over HTTPS: RFC 8484 (messages), and questions and answers as JSON."""

from __future__ import annotations

import asyncio
import base64
import random
import shutil
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import aiohttp
import dns.flags
import dns.message
import dns.rcode
import pytest

sys.path.insert(0, str(Path(__file__).parent))

from encrypted import V4_AND_V6, ca_file, client_context, run, self_signed

from aspen.dns.stream import Answers, Padding
from aspen.http.doh import DohRoutes
from aspen.http.negotiation import preferred
from aspen.http.server import Https, HttpServer
from aspen.state.ports import Freshness

RECORDS = """
@ 300 A 192.0.2.1
@ 120 A 192.0.2.2
www 60 CNAME KEY.
mail 90 MX 10 mx.KEY.
txt 30 TXT "two words" "and \\"quotes\\""
_http._tcp 60 SRV 0 5 80 host.example.
odd 60 TYPE65280 \\# 3 abcdef
""" + "\n".join(f'big 30 TXT "{number}{"x" * 200}"' for number in range(4))

MESSAGE = "application/dns-message"


class Fresh:
    def freshness(self) -> Freshness:
        return Freshness(applied_index=42, leader_id=1, last_contact_ms=7)


class Doh:
    def __init__(self, server: HttpServer, session: aiohttp.ClientSession, folder: Path) -> None:
        self.server, self.session, self.folder = server, session, folder
        self.plain = f"http://127.0.0.1:{server.address[1]}"
        assert server.https_address is not None
        self.port = server.https_address[1]
        self.url = f"https://localhost:{self.port}/dns-query"

    async def ask(self, method: str, path: str, *, body: bytes | None = None, **headers: str) -> Any:
        """Status, headers, body."""
        sent = {name.replace("_", "-"): value for name, value in headers.items()}
        sent.setdefault("Accept", "")
        if not sent["Accept"]:
            del sent["Accept"]
        async with self.session.request(
            method, self.plain + path, data=body, headers=sent, skip_auto_headers=["Accept", "Content-Type"]
        ) as response:
            return response.status, response.headers, await response.read()

    async def json(self, question: str) -> Any:
        status, headers, body = await self.ask("GET", f"/resolve?{question}")
        assert status == 200, body
        assert headers["Content-Type"] == "application/json"
        import json

        return json.loads(body)


@pytest.fixture
async def doh(serve: Any, tmp_path: Path) -> AsyncIterator[Doh]:
    certificates = self_signed(tmp_path)
    https = Https(("::", 0), certificates.context)
    server = HttpServer(listen=("127.0.0.1", 0), https=https)
    routes = DohRoutes(Answers(serve(RECORDS).view, Padding.ASKED), Fresh())  # type: ignore[arg-type]  # enough
    routes.add_routes(server.public)
    await server.start()
    # Compressed answers are what a browser asks for; the raw bytes are what is tested.
    async with aiohttp.ClientSession(auto_decompress=False) as session:
        yield Doh(server, session, tmp_path)
    await server.close()


def in_url(message: bytes) -> str:
    return "/dns-query?dns=" + base64.urlsafe_b64encode(message).rstrip(b"=").decode()


# --- messages -----------------------------------------------------------------------------------


@pytest.mark.parametrize("accept", ["", "*/*", MESSAGE, "application/*", "text/html, */*;q=0.1"])
async def test_rfc8484_4_1_a_message_in_the_url(doh: Doh, z32: str, accept: str) -> None:
    query = dns.message.make_query(f"{z32}.aspen.local", "A", id=0)
    status, headers, body = await doh.ask("GET", in_url(query.to_wire()), Accept=accept)
    assert (status, headers["Content-Type"]) == (200, MESSAGE)
    reply = dns.message.from_wire(body)
    assert query.is_response(reply)
    assert reply.id == 0
    assert reply.flags & dns.flags.AA
    assert headers["Access-Control-Allow-Origin"] == "*"
    assert (headers["Aspen-Applied-Index"], headers["Aspen-Last-Contact-Ms"]) == ("42", "7")


async def test_rfc8484_4_1_a_message_as_the_body(doh: Doh, z32: str) -> None:
    query = dns.message.make_query(f"big.{z32}.aspen.local", "TXT", id=0)
    status, headers, body = await doh.ask(
        "POST", "/dns-query", body=query.to_wire(), Content_Type=MESSAGE, Accept=MESSAGE
    )
    assert (status, headers["Content-Type"]) == (200, MESSAGE)
    reply = dns.message.from_wire(body)
    assert query.is_response(reply)
    assert len(reply.answer[0]) == 4
    assert not reply.flags & dns.flags.TC  # more than 512 octets, and nothing is left out
    assert len(body) > 512


async def test_rfc8484_5_1_the_cache_keeps_it_as_long_as_the_shortest_ttl(doh: Doh, z32: str) -> None:
    for name, rrtype, kept in (
        (f"{z32}.aspen.local", "A", "max-age=120"),  # one RRset of several TTLs has the least
        (f"www.{z32}.aspen.local", "A", "max-age=60"),  # the CNAME before the addresses
        (f"nope.{z32}.aspen.local", "A", "max-age=60"),  # RFC 2308 §5: the SOA's minimum
        (f"www.{z32}.aspen.local", "MX", "max-age=60"),
        ("www.example.com", "A", "no-store"),  # REFUSED
    ):
        query = dns.message.make_query(name, rrtype, id=0)
        status, headers, body = await doh.ask("GET", in_url(query.to_wire()))
        assert (status, headers["Cache-Control"]) == (200, kept), dns.message.from_wire(body)


async def test_rfc8484_4_2_1_what_dns_says_is_200(doh: Doh, z32: str) -> None:
    for name, rcode in ((f"nope.{z32}.aspen.local", dns.rcode.NXDOMAIN), ("a.example", dns.rcode.REFUSED)):
        status, _, body = await doh.ask("GET", in_url(dns.message.make_query(name, "A").to_wire()))
        assert status == 200
        assert dns.message.from_wire(body).rcode() == rcode
    malformed = dns.message.make_query(f"{z32}.aspen.local", "A").to_wire() + b"x"
    status, _, body = await doh.ask("POST", "/dns-query", body=malformed, Content_Type=MESSAGE)
    assert (status, body[3] & 0x0F) == (200, dns.rcode.FORMERR)


async def test_rfc8467_padding_is_answered_with_padding(doh: Doh, z32: str) -> None:
    query = dns.message.make_query(f"{z32}.aspen.local", "A", use_edns=0, pad=128)
    _, _, body = await doh.ask("POST", "/dns-query", body=query.to_wire(), Content_Type=MESSAGE)
    assert len(body) == 468


async def test_head_has_the_headers_of_get(doh: Doh, z32: str) -> None:
    path = in_url(dns.message.make_query(f"{z32}.aspen.local", "A", id=0).to_wire())
    _, of_get, body = await doh.ask("GET", path)
    status, of_head, nothing = await doh.ask("HEAD", path)
    assert (status, nothing) == (200, b"")
    for name in ("Content-Type", "Cache-Control", "Content-Length"):
        assert of_head[name] == of_get[name]
    assert int(of_get["Content-Length"]) == len(body)


async def test_padding_of_base64url_does_no_harm(doh: Doh, z32: str) -> None:
    wire = dns.message.make_query(f"{z32}.aspen.local", "A", id=0).to_wire()
    padded = "/dns-query?dns=" + base64.urlsafe_b64encode(wire + b"").decode()
    status, _, _ = await doh.ask("GET", padded.replace("=", "%3D").replace("dns%3D", "dns="))
    assert status == 200


async def refused(doh: Doh, method: str, path: str, **more: Any) -> tuple[int, str]:
    import json

    status, headers, body = await doh.ask(method, path, **more)
    assert headers["Content-Type"] == "application/json"
    said = json.loads(body)
    assert said["reason"]
    return status, said["error"]


async def test_what_is_no_question_is_told_why(doh: Doh, z32: str) -> None:
    good = dns.message.make_query(f"{z32}.aspen.local", "A").to_wire()
    answer = bytearray(good)
    answer[2] |= 0x80
    assert await refused(doh, "GET", "/dns-query") == (400, "bad_query")
    assert await refused(doh, "GET", "/dns-query?dns=") == (400, "bad_query")
    assert await refused(doh, "GET", "/dns-query?dns=a+b/c") == (400, "bad_query")
    assert await refused(doh, "GET", "/dns-query?dns=AAAAA") == (400, "bad_query")
    assert await refused(doh, "GET", "/dns-query?dns=AAAA&name=a") == (400, "bad_query")
    assert await refused(doh, "GET", "/dns-query?DNS=AAAA") == (400, "bad_query")
    assert await refused(doh, "GET", in_url(b"short")) == (400, "bad_message")
    assert await refused(doh, "GET", in_url(bytes(answer))) == (400, "bad_message")
    assert await refused(doh, "GET", in_url(good), Accept="text/html") == (406, "not_acceptable")
    assert await refused(doh, "GET", in_url(good), Accept=f"{MESSAGE};q=0, text/*") == (406, "not_acceptable")
    assert await refused(doh, "PUT", "/dns-query", body=good) == (405, "method_not_allowed")
    assert await refused(doh, "POST", "/resolve?name=a", body=good) == (405, "method_not_allowed")
    post = {"method": "POST", "path": "/dns-query"}
    assert await refused(doh, **post, body=good) == (415, "content_type")
    assert await refused(doh, **post, body=good, Content_Type="text/plain") == (415, "content_type")
    assert await refused(doh, **post, body=b"", Content_Type=MESSAGE) == (400, "bad_message")
    assert await refused(doh, **post, body=bytes(65_536), Content_Type=MESSAGE) == (413, "too_large")
    assert await refused(doh, **post, body=good, Content_Type=MESSAGE, Content_Encoding="gzip") == (
        415,
        "content_encoding",
    )


async def test_a_preflight_is_answered(doh: Doh) -> None:
    status, headers, _ = await doh.ask("OPTIONS", "/dns-query", Origin="https://page.example")
    assert status == 204
    assert headers["Access-Control-Allow-Methods"] == "GET, HEAD, OPTIONS, POST"
    assert headers["Access-Control-Allow-Headers"] == "*"


async def test_garbage_never_fails_the_server(doh: Doh) -> None:
    generator = random.Random(8484)
    for _ in range(60):
        garbage = generator.randbytes(generator.randrange(0, 80))
        status, _, _ = await doh.ask("POST", "/dns-query", body=garbage, Content_Type=MESSAGE)
        assert status in (200, 400)
        text = "".join(chr(generator.randrange(33, 127)) for _ in range(20)).replace("#", "_")
        status, _, _ = await doh.ask("GET", f"/dns-query?name={text.replace('%', '%25')}")
        assert status in (200, 400)


# --- JSON -----------------------------------------------------------------------------------------


async def test_json_has_absolute_names_with_their_dots(doh: Doh, z32: str) -> None:
    said = await doh.json(f"name=www.{z32}.aspen.local&type=A")
    key = f"{z32}.aspen.local."
    assert {name: said[name] for name in ("Status", "TC", "RD", "RA", "AA", "AD", "CD")} == {
        "Status": 0,
        "TC": False,
        "RD": True,
        "RA": False,
        "AA": True,
        "AD": False,
        "CD": False,
    }
    assert said["Question"] == [{"name": f"www.{key}", "type": 1}]
    assert said["Answer"] == [
        {"name": f"www.{key}", "type": 5, "TTL": 60, "data": key},
        {"name": key, "type": 1, "TTL": 120, "data": "192.0.2.1"},
        {"name": key, "type": 1, "TTL": 120, "data": "192.0.2.2"},
    ]
    assert "Authority" not in said


async def test_json_data_is_as_a_master_file_has_it(doh: Doh, z32: str) -> None:
    async def data(name: str, rrtype: str) -> list[str]:
        said = await doh.json(f"name={name}.{z32}.aspen.local.&type={rrtype}")
        return [record["data"] for record in said["Answer"]]

    assert await data("mail", "MX") == [f"10 mx.{z32}.aspen.local."]
    assert await data("txt", "16") == ['"two words" "and \\"quotes\\""']
    assert await data("_http._tcp", "srv") == ["0 5 80 host.example."]
    assert await data("odd", "TYPE65280") == ["\\# 3 abcdef"]
    assert len(await data("big", "TXT")) == 4


async def test_json_of_what_is_not_there(doh: Doh, z32: str) -> None:
    said = await doh.json(f"name=nope.{z32}.aspen.local")
    assert said["Status"] == 3
    assert "Answer" not in said
    (soa,) = said["Authority"]
    assert (soa["name"], soa["type"]) == ("aspen.local.", 6)
    assert soa["data"].startswith("ns1.aspen.local. hostmaster.aspen.local. ")
    said = await doh.json("name=www.example.com")
    assert said["Status"] == 5
    assert said["Comment"].startswith("EDE 20")


async def test_json_flags_are_heeded(doh: Doh, z32: str) -> None:
    name = f"name={z32}.aspen.local"
    for flag in ("do=1", "do=true", "do", "cd=0&do=false"):
        assert (await doh.json(f"{name}&{flag}"))["Status"] == 0
    for bad in ("do=2", "cd=yes", "type=NOSUCH", "type=0", "type=65536", "ct=text/plain", "nosuch=1"):
        assert (await refused(doh, "GET", f"/resolve?{name}&{bad}"))[0] == 400
    assert await refused(doh, "GET", "/resolve?type=A") == (400, "bad_query")
    assert await refused(doh, "GET", "/resolve?name=" + "a" * 64) == (400, "bad_name")
    assert await refused(doh, "GET", "/resolve?name=a..b") == (400, "bad_name")


async def test_accept_settles_the_form_of_the_answer(doh: Doh, z32: str) -> None:
    words = f"?name={z32}.aspen.local&type=A"
    message = in_url(dns.message.make_query(f"{z32}.aspen.local", "A").to_wire())
    for path, accept, answered in (
        (f"/dns-query{words}", "application/dns-json", "application/dns-json"),
        (f"/dns-query{words}", "*/*", "application/json"),
        (f"/dns-query{words}", MESSAGE, MESSAGE),
        (f"/resolve{words}", "application/dns-json", "application/dns-json"),
        (f"/resolve{words}&ct=application/dns-message", "*/*", MESSAGE),
        (message, "application/dns-json", "application/dns-json"),
        (message, f"application/json, {MESSAGE};q=0.9", "application/json"),
    ):
        status, headers, _ = await doh.ask("GET", path, Accept=accept)
        assert (status, headers["Content-Type"]) == (200, answered), (path, accept)
        assert headers["Vary"] == "Accept"


def test_rfc9110_12_5_1_the_most_specific_range_counts() -> None:
    offers = ("a/x", "a/y")
    assert preferred(None, offers) == "a/x"
    assert preferred("  ", offers) == "a/x"
    assert preferred("a/*;q=0.5, a/y;q=0.7", offers) == "a/y"
    assert preferred("a/x;q=0, */*", offers) == "a/y"
    assert preferred("b/*", offers) is None
    assert preferred("a/y;q=nonsense", offers) is None
    assert preferred("A/Y;Q=1", offers) == "a/y"


async def test_a_query_acl_holds_here_too_and_for_whom_a_trusted_proxy_names(serve: Any) -> None:
    from aspen.http.forwarded import ClientAddress, parse_networks

    answers = Answers(serve(RECORDS, query_acl=("192.0.2.0/24",)).view)
    server = HttpServer(listen=("127.0.0.1", 0))
    client = ClientAddress(parse_networks(["127.0.0.1"], "trusted_proxies"))
    DohRoutes(answers, Fresh(), client).add_routes(server.public)  # type: ignore[arg-type]  # enough
    await server.start()
    url = f"http://127.0.0.1:{server.address[1]}/resolve?name=aspen.local&type=SOA"
    async with aiohttp.ClientSession() as session:
        for forwarded, status in ((None, 5), ("192.0.2.7", 0), ("198.51.100.7", 5)):
            headers = {} if forwarded is None else {"X-Forwarded-For": forwarded}
            async with session.get(url, headers=headers) as response:
                assert (await response.json())["Status"] == status
    await server.close()


# --- over TLS, with real clients ------------------------------------------------------------------


@pytest.mark.skipif(shutil.which("curl") is None, reason="curl is not installed")
@pytest.mark.parametrize("host", V4_AND_V6)
async def test_curl_asks_in_every_way(doh: Doh, z32: str, host: str, tmp_path: Path) -> None:
    target = f"localhost:{doh.port}:{host if ':' not in host else f'[{host}]'}"
    curl = ("curl", "-sS", "--fail", "--cacert", ca_file(doh.folder), "--resolve", target)
    wire = dns.message.make_query(f"{z32}.aspen.local", "A", id=0).to_wire()
    query_file, answer_file = tmp_path / "query", tmp_path / "answer"
    query_file.write_bytes(wire)
    for arguments in (
        (f"https://localhost:{doh.port}{in_url(wire)}",),
        ("-H", f"Content-Type: {MESSAGE}", "--data-binary", f"@{query_file}", doh.url),
    ):
        await run(*curl, "-o", str(answer_file), *arguments)
        reply = dns.message.from_wire(answer_file.read_bytes())
        assert {item.to_text() for item in reply.answer[0]} == {"192.0.2.1", "192.0.2.2"}
    text = await run(*curl, "-H", "Accept: application/dns-json", f"{doh.url}?name={z32}.aspen.local&type=A")
    assert '"data":"192.0.2.1"' in text


@pytest.mark.skipif(shutil.which("curl") is None, reason="curl is not installed")
async def test_curl_resolves_a_name_by_us(doh: Doh, z32: str) -> None:
    """curl's own DoH client looks a name up, and then tries the address it was told."""
    process = await asyncio.create_subprocess_exec(
        *("curl", "-sS", "-v", "--doh-url", doh.url, "--doh-insecure", "--connect-timeout", "1"),
        *("--max-time", "3", f"http://{z32}.aspen.local:1/"),
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )
    output, _ = await process.communicate()
    assert b"192.0.2." in output


@pytest.mark.skipif(shutil.which("kdig") is None, reason="kdig is not installed")
@pytest.mark.parametrize("host", V4_AND_V6)
async def test_rfc8484_5_2_kdig_asks_by_http_2(doh: Doh, z32: str, host: str) -> None:
    for way in ("+https", "+https-get"):
        text = await run(
            *("kdig", f"@{host}", "-p", str(doh.port), f"+tls-ca={ca_file(doh.folder)}"),
            *("+tls-hostname=localhost", way, f"{z32}.aspen.local", "A"),
        )
        assert "192.0.2.1" in text
        assert "HTTP/2" in text
        assert "Received 468 B" in text  # padded, since kdig pads


@pytest.mark.skipif(shutil.which("dig") is None, reason="dig is not installed")
@pytest.mark.parametrize("host", V4_AND_V6)
async def test_rfc8484_5_2_dig_asks_by_http_2(doh: Doh, z32: str, host: str) -> None:
    if "+[no]https" not in await run("dig", "-h"):
        pytest.skip("this dig has no +https")
    for way in ("+https", "+https-get"):
        text = await run(
            *("dig", f"@{host}", "-p", str(doh.port), f"+tls-ca={ca_file(doh.folder)}"),
            *("+tls-hostname=localhost", way, "+short", f"www.{z32}.aspen.local", "A"),
        )
        assert "192.0.2.2" in text


async def test_tls_without_http_is_told_so(doh: Doh) -> None:
    reader, writer = await asyncio.open_connection(
        "127.0.0.1", doh.port, ssl=client_context(doh.folder, "http/1.1"), server_hostname="localhost"
    )
    writer.write(b"\x00\x1d\x00\x00\x01\x00\r\n\r\n")
    assert (await reader.read()).startswith(b"HTTP/1.1 400") or (await reader.read()) == b""
    writer.close()
