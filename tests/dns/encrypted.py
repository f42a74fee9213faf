"""Certificates for tests, and what asks over TLS and QUIC."""

from __future__ import annotations

import asyncio
import ssl
import time
from pathlib import Path

from aspen.tls.certificates import Certificates
from aspen.tls.sources import SelfSigned

SECONDS = 30.0
V4_AND_V6 = ["127.0.0.1", "::1"]


def self_signed(directory: Path) -> Certificates:
    return Certificates(SelfSigned(directory / "tls", ["localhost", "127.0.0.1", "::1"]), wall_s=time.time)


def ca_file(directory: Path) -> str:
    return str(directory / "tls" / "self-signed.pem")


def client_context(directory: Path, *alpn: str) -> ssl.SSLContext:
    """Verifies, as a client should."""
    context = ssl.create_default_context(cafile=ca_file(directory))
    if alpn:
        context.set_alpn_protocols(list(alpn))
    return context


async def run(*command: str) -> str:
    """What a command prints; it must succeed."""
    process = await asyncio.create_subprocess_exec(
        *command, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT
    )
    async with asyncio.timeout(SECONDS):
        output, _ = await process.communicate()
    text = output.decode(errors="replace")
    assert process.returncode == 0, text
    return text
