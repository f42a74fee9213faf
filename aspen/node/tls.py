"""The encrypted part of a node, put together: its certificate, DNS over TLS and over QUIC."""

from __future__ import annotations

from pathlib import Path
from typing import Final

import blake3

from aspen.config import CertMode, ClusterBootstrapConfig, HttpsConfig
from aspen.dns.lookup import View
from aspen.dns.sockets import adopt_udp, bind_tcp, bind_udp
from aspen.dns.stream import Answers, Defer, Padding, TcpServer
from aspen.dns.tally import ResponseTally
from aspen.errors import ConfigError
from aspen.identity import Cookies, Identity
from aspen.slow import SlowLog
from aspen.state.ports import Proposer
from aspen.state.settings import LmdbSettings
from aspen.systemd import NO_SOCKETS, GivenSockets
from aspen.tls.acme import AcmeDuty
from aspen.tls.certificates import Certificates
from aspen.tls.doq import DoqServer
from aspen.tls.listener import TlsListener
from aspen.tls.sealed import Box
from aspen.tls.shared import Shared
from aspen.tls.sources import Files, SelfSigned

_RESET_CONTEXT: Final = "aspen 2026 doq reset identity v1"
_DOT: Final = "dot"  # RFC 7858's registered ALPN


def open_certificates(
    config: ClusterBootstrapConfig,
    https: HttpsConfig,
    data_dir: Path,
    settings: LmdbSettings,
    cookies: Cookies,
) -> Certificates:
    """The certificate that the configuration asks for. Raises `ConfigError`."""
    if https.mode is CertMode.MANUAL:
        assert https.cert_file is not None  # `validate` has seen to it
        assert https.key_file is not None
        return Certificates(Files(Path(https.cert_file), Path(https.key_file)))
    self_signed = SelfSigned(data_dir / "tls", https.domains or _own_names(config))
    if https.mode is CertMode.LETS_ENCRYPT:
        return Certificates(Shared(settings, Box(cookies), self_signed))
    return Certificates(self_signed)


def acme_duty(
    config: ClusterBootstrapConfig, proposer: Proposer, settings: LmdbSettings, cookies: Cookies
) -> AcmeDuty | None:
    """What the leader does for the cluster's certificate, if an ACME authority is to issue it."""
    https = config.dns_server.https_config
    if https is None or https.mode is not CertMode.LETS_ENCRYPT:
        return None
    return AcmeDuty(https, proposer, settings, Box(cookies))


def _own_names(config: ClusterBootstrapConfig) -> list[str]:
    """What a client may call this node by, if nobody gave it a name."""
    given = [config.https_host, config.encrypted_dns_host]
    return ["localhost", "127.0.0.1", "::1", *(host for host in given if host not in ("", "0.0.0.0", "::"))]  # noqa: S104


class EncryptedDns:
    """DNS over TLS and DNS over QUIC."""

    def __init__(
        self,
        config: ClusterBootstrapConfig,
        https: HttpsConfig,
        certificates: Certificates,
        identity: Identity,
        sockets: GivenSockets = NO_SOCKETS,
    ) -> None:
        """`sockets` serve instead of those configured."""
        # A key of its own: were it the endpoint's, this port could be asked for the tokens that end the
        # connections between nodes (RFC 9000 §21.11).
        seed = blake3.blake3(identity.seed, derive_key_context=_RESET_CONTEXT).digest()
        self._reset_identity = Identity.from_seed(seed)
        self._host = config.encrypted_dns_host
        self._https = https
        self._certificates = certificates
        self._sockets = sockets
        self._slow = SlowLog(config.slow_operation_ms)
        self._dot: TcpServer | None = None
        self._listener: TlsListener | None = None
        self.dot_address: tuple[str, int] | None = None
        """None if DoT is switched off."""
        self._doq: DoqServer | None = None
        self.doq_address: tuple[str, int] | None = None
        """None if DoQ is switched off."""
        self.tallies: dict[str, ResponseTally] = {}
        """By transport: those that are switched on."""

    async def start(self, view: View, defer: Defer) -> None:
        """`defer` is TCP's. Raises `ConfigError` for a port that can't be had."""
        if self._https.enable_dot:
            self._start_dot(view, defer)
        if self._https.enable_doq:
            self._start_doq(view, defer)

    def _start_dot(self, view: View, defer: Defer) -> None:
        try:
            sock = self._sockets.stream("dot") or bind_tcp(self._host, self._https.dot_port)
        except OSError as error:
            raise ConfigError(f"DoT can't bind {self._host}:{self._https.dot_port}: {error}") from None
        dot = self._dot = TcpServer(view, defer=defer, encrypted=True)
        self.tallies["tls"] = dot.tally
        dot.slow = self._slow
        context = self._certificates.context
        # Clients of RFC 7858 need name no ALPN; DNS is all that is spoken here.
        self._listener = TlsListener(lambda: context(_DOT), lambda _alpn: dot.new_connection())
        self.dot_address = self._listener.start(sock)

    def _start_doq(self, view: View, defer: Defer) -> None:
        try:
            given = self._sockets.datagram("doq")
            (sock,) = adopt_udp(given, 1) if given else bind_udp(self._host, self._https.doq_port, 1)
        except OSError as error:
            raise ConfigError(f"DoQ can't bind {self._host}:{self._https.doq_port}: {error}") from None
        answers = Answers(view, Padding.EDNS, defer=defer)
        self.tallies["quic"] = answers.tally
        answers.slow = self._slow
        self._doq = DoqServer(answers, self._certificates, self._reset_identity)
        self.doq_address = self._doq.start(sock)

    async def close(self) -> None:
        if self._doq is not None:
            self._doq.close()
        if self._listener is not None:
            await self._listener.close()
        if self._dot is not None:
            await self._dot.close()
