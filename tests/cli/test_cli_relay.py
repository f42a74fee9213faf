"""`aspen relay`: who must be told what, and a relay by TLS as a node reaches it."""

from __future__ import annotations

import asyncio
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from typer.testing import Result

from aspen.identity import Identity
from aspen.relay.access import Access
from aspen.relay.hub import RelayLimits
from aspen.relay.standalone import StandaloneRelay
from aspen.tls.certificates import Certificates
from aspen.tls.sources import SelfSigned

Aspen = Callable[..., Result]

# A node's side, in a process of its own: what is trusted is settled when it starts.
CLIENT = """
import asyncio, sys
from aspen.identity import Identity
from aspen.relay.access import parse_relay_url
from aspen.relay.client import RelayClient

async def main():
    done = asyncio.Event()
    url = parse_relay_url("relay_url", sys.argv[1])
    client = RelayClient(url, Identity.generate(), (), lambda *_: None, lambda _: None, done.set)
    client.start()
    while not done.is_set() and not client.problem:
        await asyncio.sleep(0.01)
    print("connected" if client.connected else client.problem)
    await client.stop()

asyncio.run(main())
"""


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ((), "say who may use this relay"),
        (("--allow", "nobody"), "--allow: "),
        (("--open", "--tls-cert", "x.pem"), "--tls-cert and --tls-key belong together"),
        (("--open", "--tls-cert", "absent.pem", "--tls-key", "absent.key"), "absent.pem"),
        (("--open", "--listen", "3340"), "--listen: '3340' is not host:port"),
        (("--cookie-file", "absent"), "--cookie-file: can't read absent"),
    ],
)
def test_usage(
    aspen: Aspen, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, arguments: tuple[str, ...], says: str
) -> None:
    monkeypatch.delenv("ASPEN_COOKIE", raising=False)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("aspen.logs.configure", lambda *_: None)  # would last beyond this test
    result = aspen("relay", *arguments)
    assert result.exit_code == 2
    assert says in result.stderr


def test_a_cookie_from_the_documentation_protects_no_relay(
    aspen: Aspen, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ASPEN_COOKIE", "my-cluster-secret")
    result = aspen("relay")
    assert result.exit_code == 2
    assert "from the documentation" in result.stderr


async def test_a_relay_by_tls_is_used_if_its_certificate_is_trusted(tmp_path: Path) -> None:
    certificates = Certificates(SelfSigned(tmp_path, ["localhost"]))
    relay = StandaloneRelay(Access(open=True), RelayLimits(), certificates)
    await relay.start(("127.0.0.1", 0))
    try:
        url = f"https://localhost:{relay.address[1]}"
        trusted = {"SSL_CERT_FILE": str(tmp_path / "self-signed.pem")}
        assert await _client_says(url, trusted) == "connected"
        assert "CERTIFICATE_VERIFY_FAILED" in await _client_says(url, {})
    finally:
        await relay.close()


async def _client_says(url: str, environment: dict[str, str]) -> str:
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-c", CLIENT, url, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    out, _ = await asyncio.wait_for(process.communicate(), 60)
    return out.decode().splitlines()[-1]  # before it, what it logged


def test_an_endpoint_id_is_allowed_in_either_spelling(monkeypatch: pytest.MonkeyPatch) -> None:
    from aspen.cli.relay import _access

    monkeypatch.delenv("ASPEN_COOKIE", raising=False)
    one, two = Identity.generate(), Identity.generate()
    access = _access(None, [one.z32, two.endpoint_id.hex()], False, None)
    assert access.endpoint_ids == {one.endpoint_id, two.endpoint_id}
    assert not access.wants_key
