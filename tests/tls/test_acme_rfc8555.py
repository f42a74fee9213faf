"""Certificates by ACME (RFC 8555), from Pebble, over settings in memory."""

from __future__ import annotations

import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack
from pathlib import Path

import msgspec
import pytest
from cryptography.hazmat.primitives.asymmetric import ec

sys.path.insert(0, str(Path(__file__).parent))

from pebble import Pebble, needs_pebble, running_pebble

from aspen.config import HttpsConfig
from aspen.errors import CertificateError
from aspen.http.acme_challenge import AcmeChallengeRoutes
from aspen.http.server import HttpServer
from aspen.identity import Cookie, Cookies, fingerprint
from aspen.limits import ACME_RETRY_MAX_MS, ACME_RETRY_MIN_MS
from aspen.state.ports import Consistency, Freshness
from aspen.state.settings import SettingDelete, SettingPut, SettingResult
from aspen.tls.acme import ACCOUNT, CHALLENGE, AcmeDuty
from aspen.tls.certificates import Bundle, Certificates
from aspen.tls.sealed import Box
from aspen.tls.shared import CERTIFICATE, Shared, SharedCertificate, opened
from aspen.tls.sources import SelfSigned, make_self_signed

BOX = Box(Cookies(Cookie("correct horse battery")))


class Cluster:
    """Settings of a cluster: what the leader has, and what the others have heard of."""

    def __init__(self) -> None:
        self.values: dict[str, bytes] = {}
        self.names_ever: set[str] = set()
        self.behind: dict[str, bytes] | None = None
        self.barriers = 0

    async def propose(self, command: object) -> SettingResult:
        if isinstance(command, SettingDelete):
            return SettingResult(self.values.pop(command.name, None) is not None)
        assert isinstance(command, SettingPut)
        self.names_ever.add(command.name)
        if command.only_if_absent and command.name in self.values:
            return SettingResult(False)
        self.values[command.name] = command.value
        return SettingResult(True)

    async def barrier(self, consistency: Consistency) -> None:
        assert consistency is Consistency.CONSISTENT
        self.barriers += 1
        self.behind = None

    def freshness(self) -> Freshness:
        return Freshness(0, 1, 0)

    def get(self, name: str) -> bytes | None:
        return (self.values if self.behind is None else self.behind).get(name)


class Follower:
    """Settings as a node has them that applies nothing until it is asked for a barrier."""

    def __init__(self, cluster: Cluster) -> None:
        self.cluster = cluster
        self.applied: dict[str, bytes] = {}
        self.barriers = 0

    def get(self, name: str) -> bytes | None:
        return self.applied.get(name)

    async def barrier(self, _consistency: Consistency) -> None:
        self.barriers += 1
        self.applied = dict(self.cluster.values)


Node = Callable[[Follower], Awaitable[int]]


@pytest.fixture
async def answering() -> AsyncIterator[Node]:
    """Starts the HTTP listener of a node; its port."""
    async with AsyncExitStack() as stack:

        async def start(follower: Follower) -> int:
            server = HttpServer(listen=("127.0.0.1", 0))
            AcmeChallengeRoutes(follower, follower).add_routes(server.public)  # type: ignore[arg-type]  # enough
            await server.start()
            stack.push_async_callback(server.close)
            return server.address[1]

        yield start


def duty(
    cluster: Cluster, pebble: Pebble, *domains: str, contact: str | None = "ops@example.com"
) -> AcmeDuty:
    https = HttpsConfig(
        cert_mode="lets_encrypt",  # type: ignore[arg-type]  # as TOML has it
        domains=["localhost"],
        acme_directory=pebble.url,
        acme_ca_file=str(pebble.ca_file),
        letsencrypt_contact=contact,
    )
    return AcmeDuty(https, cluster, cluster, BOX)  # type: ignore[arg-type]  # enough


def now_ms() -> int:
    return time.time_ns() // 1_000_000


@needs_pebble
async def test_8_3_the_leader_orders_and_another_node_answers(answering: Node, tmp_path: Path) -> None:
    cluster = Cluster()
    follower = Follower(cluster)
    fallback = SelfSigned(tmp_path / "tls", ["localhost"])
    certificates = Certificates(Shared(follower, BOX, fallback))
    assert certificates.bundle.chain[0].issuer == certificates.bundle.chain[0].subject  # its own, for now
    with running_pebble(tmp_path, await answering(follower)) as pebble:
        first = duty(cluster, pebble)
        await first.run(now_ms(), 0)
        assert first.failures == 0, pebble.log
        assert CERTIFICATE in cluster.values
        assert any(name.startswith(CHALLENGE) for name in cluster.names_ever)
        assert not any(name.startswith(CHALLENGE) for name in cluster.values)  # tidied up
        assert follower.barriers >= 1  # it had not heard of the challenge
        assert b"PRIVATE KEY" not in b"".join(cluster.values.values())
        await follower.barrier(Consistency.CONSISTENT)
        assert certificates.refresh()
        assert certificates.bundle.names == ("localhost",)
        assert "Pebble" in certificates.bundle.chain[0].issuer.rfc4514_string()

        # Nothing is due: nothing happens. The next leader goes on with the same account.
        stored = cluster.values[CERTIFICATE]
        second = duty(cluster, pebble)
        await second.run(now_ms(), 0)
        assert cluster.values[CERTIFICATE] == stored
        bundle = certificates.bundle
        late_ms = int((bundle.not_before_s + 0.7 * (bundle.not_after_s - bundle.not_before_s)) * 1_000)
        await second.run(late_ms, 0)
        assert second.failures == 0, pebble.log
        assert cluster.values[CERTIFICATE] != stored
        await follower.barrier(Consistency.CONSISTENT)
        assert certificates.refresh()
        accounts = [name for name in cluster.values if name.startswith(ACCOUNT)]
        assert len(accounts) == 1
        assert pebble.log.count("There are now 1 accounts in memory") == 1


@needs_pebble
async def test_what_the_authority_finds_wrong_is_tried_again_later_and_later(
    answering: Node, tmp_path: Path
) -> None:
    cluster = Cluster()
    nobody = Follower(Cluster())  # a node of another cluster answers at the name
    with running_pebble(tmp_path, await answering(nobody)) as pebble:
        failing = duty(cluster, pebble, contact=None)
        at_ms = now_ms()
        await failing.run(at_ms, 0)
        assert failing.failures == 1
        assert CERTIFICATE not in cluster.values
        assert not any(name.startswith(CHALLENGE) for name in cluster.values)
        await failing.run(at_ms + ACME_RETRY_MIN_MS - 1, 0)
        assert failing.failures == 1  # not yet
        await failing.run(at_ms + ACME_RETRY_MIN_MS, 0)
        assert failing.failures == 2
        await failing.run(at_ms + 2 * ACME_RETRY_MIN_MS, 0)
        assert failing.failures == 2


async def test_an_authority_that_is_not_there(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    absent = Pebble("https://127.0.0.1:1/dir", tmp_path / "none.pem", tmp_path / "log")
    (tmp_path / "none.pem").write_bytes(b"")
    failing = duty(Cluster(), absent)
    at_ms = now_ms()
    for expected in range(1, 12):
        await failing.run(at_ms, 0)
        assert failing.failures == expected
        at_ms += ACME_RETRY_MAX_MS
    assert "no certificate" in capsys.readouterr().out


async def test_a_challenge_nobody_set_is_not_found(answering: Node) -> None:
    import aiohttp

    follower = Follower(Cluster())
    port = await answering(follower)
    token = "t" * 43
    async with aiohttp.ClientSession() as session:
        base = f"http://127.0.0.1:{port}/.well-known/acme-challenge/"
        async with session.get(base + token) as response:
            assert response.status == 404
        assert follower.barriers == 1
        for bad in ("", "short", "%2e%2e%2f" * 10, "x" * 129):
            async with session.get(base + bad) as response:
                assert response.status == 404
        assert follower.barriers == 1  # what can't be a token costs nothing
        follower.cluster.values[CHALLENGE + token] = b"answer"
        async with session.get(base + token) as response:
            assert (response.status, await response.read()) == (200, b"answer")


def test_what_is_sealed_opens_under_its_cookie_and_name_only() -> None:
    sealed = BOX.seal("a", b"secret")
    assert BOX.open("a", sealed) == b"secret"
    assert sealed != BOX.seal("a", b"secret")
    assert b"secret" not in sealed
    flipped = bytes((sealed[0] ^ 1,)) + sealed[1:]
    for box, name, value in (
        (Box(Cookies(Cookie("another cookie"))), "a", sealed),
        (BOX, "b", sealed),
        (BOX, "a", flipped),
        (BOX, "a", b""),
        (BOX, "a", sealed[:20]),
    ):
        with pytest.raises(CertificateError, match="another cookie"):
            box.open(name, value)


def test_a_certificate_sealed_by_strangers_changes_nothing(tmp_path: Path) -> None:
    cluster = Cluster()
    cluster.values[CERTIFICATE] = Box(Cookies(Cookie("another cookie"))).seal(CERTIFICATE, b"x")
    certificates = Certificates(Shared(cluster, BOX, SelfSigned(tmp_path, ["localhost"])))
    assert certificates.bundle.names == ("localhost",)
    cluster.values[CERTIFICATE] = BOX.seal(CERTIFICATE, b"not a certificate")
    assert not certificates.refresh()
    assert certificates.bundle.names == ("localhost",)


async def test_while_the_cookie_is_changed_what_the_old_one_sealed_is_sealed_anew() -> None:
    """The certificate is good for long: no authority is asked."""
    private_key = ec.generate_private_key(ec.SECP256R1())
    chain = make_self_signed(private_key, ["localhost"], time.time())
    bundle = Bundle((chain,), private_key)
    old, new = Cookie("correct horse battery"), Cookie("the cookie to come")
    https = HttpsConfig(
        cert_mode="lets_encrypt", domains=["localhost"], acme_directory="https://127.0.0.1:1/"
    )  # type: ignore[arg-type]
    account = ACCOUNT + fingerprint(https.directory_url.encode())
    shared = SharedCertificate(https.directory_url, bundle.chain_pem, bundle.key_pem)
    cluster, cookies = Cluster(), Cookies(old)
    box = Box(cookies)
    cluster.values[CERTIFICATE] = box.seal(CERTIFICATE, msgspec.msgpack.encode(shared))
    cluster.values[account] = box.seal(account, b"the account's key")
    before = dict(cluster.values)
    acme = AcmeDuty(https, cluster, cluster, box)  # type: ignore[arg-type]  # enough
    cookies.change(old, new)  # step 1: nothing to do
    await acme.run(int(time.time() * 1_000), 0)
    assert cluster.values == before
    cookies.change(new, old)  # step 2
    await acme.run(int(time.time() * 1_000), 0)
    cookies.change(new)  # step 3: the old one is gone, and nothing with it
    assert opened(box, cluster.values[CERTIFICATE]) == shared
    assert box.open(account, cluster.values[account]) == b"the account's key"
    with pytest.raises(CertificateError):
        box.open(CERTIFICATE, before[CERTIFICATE])
