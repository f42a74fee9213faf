"""Servers that people come from, as far as docs/migrating.md asks them.

`python other_servers.py consul FILE` lists keys at `/v1/kv/?recurse`, as Consul's HTTP API is described; the
file has keys and values as JSON. `… pkarr FILE CERTIFICATE` answers `/pkarr/<key>` over HTTPS, as an
iroh-dns-server does; the file is a packet, named by its key.
"""

from __future__ import annotations

import base64
import json
import ssl
import sys
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

KIND, FILE = sys.argv[1], Path(sys.argv[2])


def consul(path: str) -> bytes | None:
    asked = urlsplit(path)
    if asked.path != "/v1/kv/" or "recurse" not in parse_qs(asked.query, keep_blank_values=True):
        return None
    pairs = json.loads(FILE.read_text()).items()
    return json.dumps(
        [
            {
                "LockIndex": 0,
                "Key": key,
                "Flags": 0,
                "Value": base64.b64encode(value.encode()).decode() or None,
                "CreateIndex": index,
                "ModifyIndex": index,
            }
            for index, (key, value) in enumerate(pairs, start=10)
        ]
    ).encode()


def pkarr(path: str) -> bytes | None:
    return FILE.read_bytes() if path == f"/pkarr/{FILE.name}" else None


class Handler(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        body = {"consul": consul, "pkarr": pkarr}[KIND](self.path)
        self.send_response(404 if body is None else 200)
        self.send_header("Content-Length", str(len(body or b"")))
        self.end_headers()
        self.wfile.write(body or b"")


with HTTPServer(("", {"consul": 8500, "pkarr": 443}[KIND]), Handler) as server:
    if KIND == "pkarr":
        context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        context.load_cert_chain(sys.argv[3])
        server.socket = context.wrap_socket(server.socket, server_side=True)
    print("serving", flush=True)
    server.serve_forever()
