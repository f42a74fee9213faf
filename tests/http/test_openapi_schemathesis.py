"""A real node asked what its OpenAPI document says can be asked, and what it says can't: every answer is
one the document describes, none is a server error, and the node is as well as before."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import requests
import schemathesis
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis.errors import Unsatisfiable
from schemathesis import GenerationMode
from schemathesis.checks import not_a_server_error
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    response_schema_conformance,
    status_code_conformance,
)

from aspen.config import ClusterBootstrapConfig
from aspen.node import bootstrap_node

CHECKS = [
    not_a_server_error,
    status_code_conformance,
    content_type_conformance,
    response_schema_conformance,
]
EXAMPLES = 4  # of each operation, good ones and bad ones
LEFT_OUT = r"watch|/v1/cluster/(?!status)"
"""Streams that don't end, and what would take the node out of its cluster of one."""


@schemathesis.serializer("application/dns-message")
def octets(_context: object, value: object) -> object:
    """As they are: the library doesn't know the type."""
    return getattr(value, "data", value)


@contextmanager
def node(folder: Path) -> Iterator[str]:
    """A node in a thread of its own; the URL of its listener, which serves all routes."""
    started, stop = threading.Event(), asyncio.Event()
    addresses: list[tuple[str, int]] = []
    loops: list[asyncio.AbstractEventLoop] = []

    async def live() -> None:
        config = ClusterBootstrapConfig(
            node_id=1,
            data_dir=folder / "node",
            cookie="schemathesis-cookie-of-a-test",
            init=True,
            profile="lan",  # type: ignore[arg-type]  # plain strings will do
            http_addr="127.0.0.1:0",
            dns_port=0,
            quic_port=0,
        )
        async with await bootstrap_node(config) as one:
            addresses.append(one.http.address)
            loops.append(asyncio.get_running_loop())
            started.set()
            await stop.wait()

    thread = threading.Thread(target=asyncio.run, args=(live(),), daemon=True)
    thread.start()
    assert started.wait(20), "the node did not start"
    url = f"http://{addresses[0][0]}:{addresses[0][1]}"
    deadline = time.monotonic() + 20
    while requests.get(f"{url}/readyz", timeout=5).status_code != 200:
        assert time.monotonic() < deadline, "the node did not become ready"
        time.sleep(0.02)
    yield url
    loops[0].call_soon_threadsafe(stop.set)
    thread.join(20)
    assert not thread.is_alive()


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # of what the library stands on
# It compares the state of `random` around a draw, and the node's thread uses `random` meanwhile.
@pytest.mark.filterwarnings("ignore::hypothesis.errors.HypothesisDeprecationWarning")
def test_every_answer_is_one_the_document_describes(tmp_path: Path) -> None:
    with node(tmp_path) as url, requests.Session() as session:
        schema = schemathesis.openapi.from_url(f"{url}/openapi.json").exclude(path_regex=LEFT_OUT)
        asked = 0
        for found in schema.get_all_operations():
            operation = found.ok()
            for mode in (GenerationMode.POSITIVE, GenerationMode.NEGATIVE):

                @given(case=operation.as_strategy(generation_mode=mode))
                @settings(
                    max_examples=EXAMPLES,
                    deadline=None,
                    database=None,
                    derandomize=True,
                    phases=[Phase.generate],
                    suppress_health_check=list(HealthCheck),
                )
                def ask(case: schemathesis.Case) -> None:
                    nonlocal asked
                    asked += 1
                    case.call_and_validate(session=session, checks=CHECKS, timeout=10)

                try:
                    ask()
                except Unsatisfiable:  # an operation that takes nothing can't be asked wrongly
                    assert mode is GenerationMode.NEGATIVE
        assert asked > 150
        assert session.get(f"{url}/healthz", timeout=10).status_code == 200
