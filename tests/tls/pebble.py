"""Pebble, Let's Encrypt's own small ACME server, for tests (Debian: pebble)."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from ssl import create_default_context

import pytest
from cryptography.hazmat.primitives.asymmetric import ec

sys.path.insert(0, str(Path(__file__).parents[1] / "e2e"))

from ports import free_port

from aspen.tls.certificates import Bundle, key_pem
from aspen.tls.sources import make_self_signed

needs_pebble = pytest.mark.skipif(shutil.which("pebble") is None, reason="pebble is not installed")
SECONDS = 30.0


class Pebble:
    def __init__(self, url: str, ca_file: Path, log_file: Path) -> None:
        self.url = url
        """Of its directory."""
        self.ca_file = ca_file
        """Whom to trust when speaking to it."""
        self._log_file = log_file

    @property
    def log(self) -> str:
        return self._log_file.read_text(errors="replace")


@contextmanager
def running_pebble(folder: Path, http_port: int, dns_port: int | None = None) -> Iterator[Pebble]:
    """An authority that comes asking at `http_port`, and resolves names by the server at `dns_port`."""
    port = free_port()
    private_key = ec.generate_private_key(ec.SECP256R1())
    certificate_file, key_file = folder / "pebble.pem", folder / "pebble.key"
    certificate = make_self_signed(private_key, ["localhost", "127.0.0.1"], time.time())
    certificate_file.write_bytes(Bundle((certificate,), private_key).chain_pem)
    key_file.write_bytes(key_pem(private_key))
    settings = {
        "pebble": {
            "listenAddress": f"127.0.0.1:{port}",
            "managementListenAddress": "127.0.0.1:0",
            "certificate": str(certificate_file),
            "privateKey": str(key_file),
            "httpPort": http_port,
            "tlsPort": 1,
            "ocspResponderURL": "",
        }
    }
    config_file, log_file = folder / "pebble.json", folder / "pebble.log"
    config_file.write_text(json.dumps(settings))
    command = ["pebble", "-config", str(config_file)]
    if dns_port is not None:
        command += ["-dnsserver", f"127.0.0.1:{dns_port}"]
    environment = os.environ | {"PEBBLE_VA_NOSLEEP": "1", "PEBBLE_WFE_NONCEREJECT": "0"}
    with open(log_file, "wb") as log:
        process = subprocess.Popen(command, env=environment, stdout=log, stderr=log)
    pebble = Pebble(f"https://127.0.0.1:{port}/dir", certificate_file, log_file)
    try:
        _wait(pebble, process)
        yield pebble
    finally:
        process.terminate()
        process.wait(10)


def _wait(pebble: Pebble, process: subprocess.Popen[bytes]) -> None:
    context = create_default_context(cafile=pebble.ca_file)
    deadline = time.monotonic() + SECONDS
    while True:
        try:
            with urllib.request.urlopen(pebble.url, context=context, timeout=2):
                return
        except OSError:
            assert process.poll() is None, pebble.log
            assert time.monotonic() < deadline, pebble.log
            time.sleep(0.02)
