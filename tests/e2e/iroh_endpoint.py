"""One real iroh endpoint, from PyPI's `iroh`, relays disabled: a program that tests start and read.

    python iroh_endpoint.py serve <key file>      listen; answer one connection; end
    python iroh_endpoint.py connect <endpoint id> connect by id alone, say something; end

It prints one JSON document a line. `js/iroh_endpoint.mjs` is the same with npm's package.
"""

from __future__ import annotations

import asyncio
import json
import sys
from pathlib import Path
from typing import Any

import iroh

ALPN = b"aspen-e2e/1"
BIND = "127.0.0.1:0"
SIZE_LIMIT = 1_000
CONNECT_S = 20


def say(**facts: Any) -> None:
    print(json.dumps(facts), flush=True)


def read_key(key_file: str) -> bytes:
    return bytes.fromhex(Path(key_file).read_text())


def options(secret_key: bytes | None = None) -> iroh.EndpointOptions:
    """As an application has it by default (names are looked up in DNS), but without relays."""
    return iroh.EndpointOptions(
        preset=iroh.preset_n0_disable_relay(), bind_addr=BIND, secret_key=secret_key, alpns=[ALPN]
    )


async def serve(key_file: str) -> None:
    endpoint = await iroh.Endpoint.bind(options(read_key(key_file)))
    bound = next(address for address in endpoint.bound_sockets() if address.startswith("127."))
    say(id=str(endpoint.id()), bound=bound)
    incoming = await endpoint.accept_next()
    assert incoming is not None
    connection = await (await incoming.accept()).connect()
    stream = await connection.accept_bi()
    heard = await stream.recv().read_to_end(SIZE_LIMIT)
    await stream.send().write_all(b"heard: " + heard)
    await stream.send().finish()
    say(heard=heard.decode(), remote=str(connection.remote_id()))
    await connection.closed()
    await endpoint.close()


async def connect(endpoint_id: str) -> None:
    endpoint = await iroh.Endpoint.bind(options())
    address = iroh.EndpointAddr(
        iroh.EndpointId.from_string(endpoint_id), None, []
    )  # the id, and nothing else
    try:
        connection = await asyncio.wait_for(endpoint.connect(address, ALPN), CONNECT_S)
    except iroh.IrohError as error:
        say(error=error.message())
    else:
        stream = await connection.open_bi()
        await stream.send().write_all(b"by id alone")
        await stream.send().finish()
        answer = await stream.recv().read_to_end(SIZE_LIMIT)
        say(
            id=str(endpoint.id()),
            remote=str(connection.remote_id()),
            answer=answer.decode(),
            paths=[path.remote_addr for path in connection.paths()],
        )
        connection.close(0, b"done")
    await endpoint.close()


async def main(role: str, argument: str) -> None:
    iroh.iroh_ffi.uniffi_set_event_loop(asyncio.get_running_loop())
    await {"serve": serve, "connect": connect}[role](argument)


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1], sys.argv[2]))
