"""The image, the containers of compose, and the StatefulSet: judged by schemas, and by what they refer to.

No container engine runs here. So that it isn't words alone, the nodes are started as plain processes with the
very variables that their containers would have.
"""

from __future__ import annotations

import fnmatch
import json
import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml
from booted import REPOSITORY
from clients import http_request, sign
from cluster import NodeProcess
from ports import free_port
from processes import wait_until

sys.path.insert(0, str(Path(__file__).parents[1] / "cli"))

from documented import blocks_for

from aspen.config import DEFAULT_DNS_PORT, DEFAULT_QUIC_PORT
from aspen.config.sources import NODE_DEFAULTS, load_config
from aspen.http.health import HealthRoutes
from aspen.http.routing import Router

DOCKERFILE = REPOSITORY / "deploy" / "docker" / "Dockerfile"
COMPOSE = REPOSITORY / "deploy" / "docker" / "compose.yaml"
KUBERNETES = REPOSITORY / "deploy" / "kubernetes" / "aspen.yaml"
ENGINES = Path(__file__).with_name("engines.py")
SECRET = "0f5ac8d1e2b3a49687c5d4e3f2a1b0c9"


def tool(name: str, *arguments: object) -> None:
    """A program from the environment of the tests; fails with what it says."""
    program = Path(sys.executable).with_name(name)
    if not program.exists():
        pytest.skip(f"no {name}")
    done = subprocess.run(
        [program, *map(str, arguments)], capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr


def instructions() -> list[tuple[str, str]]:
    """(instruction, its arguments) of the Dockerfile, lines joined."""
    text = re.sub(r"\\\n\s*", " ", DOCKERFILE.read_text())
    lines = [line for line in text.splitlines() if line and not line.startswith("#")]
    return [(line.split(" ", 1)[0], line.split(" ", 1)[1]) for line in lines]


def image_environment() -> dict[str, str]:
    last = [arguments for instruction, arguments in instructions() if instruction == "ENV"][-1]
    return dict(part.split("=", 1) for part in shlex.split(last))


def compose() -> dict[str, Any]:
    found: dict[str, Any] = yaml.safe_load(COMPOSE.read_text())
    return found


def resources() -> dict[tuple[str, str], dict[str, Any]]:
    """By kind and name."""
    documents = yaml.safe_load_all(KUBERNETES.read_text())
    return {(one["kind"], one["metadata"]["name"]): one for one in documents}


def pod() -> dict[str, Any]:
    found: dict[str, Any] = resources()["StatefulSet", "aspen"]["spec"]["template"]["spec"]
    return found


def container() -> dict[str, Any]:
    (found,) = pod()["containers"]
    return dict(found)


# --- schemas and lint -------------------------------------------------------------------------


def test_the_dockerfile_by_lint() -> None:
    tool("hadolint", "--failure-threshold", "info", DOCKERFILE)


def test_compose_by_its_schema() -> None:
    tool("check-jsonschema", "--builtin-schema", "vendor.compose-spec", COMPOSE)


def test_kubernetes_by_its_schemas() -> None:
    """Strict: a field that Kubernetes doesn't know is an error, too."""
    tool("kubernetes-validate", "--strict", KUBERNETES)


# --- what they refer to -----------------------------------------------------------------------


def variables_of_compose() -> list[dict[str, str]]:
    services = compose()["services"].values()
    return [{**one["environment"], "ASPEN_COOKIE": SECRET} for one in services]


def variables_of_kubernetes() -> dict[str, str]:
    return {one["name"]: one.get("value", SECRET) for one in container()["env"]}


@pytest.mark.parametrize("variables", [*variables_of_compose(), variables_of_kubernetes()])
def test_every_variable_is_a_setting_and_they_make_a_node(variables: dict[str, str]) -> None:
    loaded = load_config(
        config_file=None,
        environment=image_environment() | variables,
        flags={},
        defaults=NODE_DEFAULTS,
    )
    loaded.validate()
    config = loaded.config
    assert config.cookie == SECRET
    assert config.auto_cluster == 3
    assert config.iroh.bootstrap_nodes
    assert str(config.data_path) == "/var/lib/aspen"
    assert config.http_listen == ("0.0.0.0", 8080)
    assert config.admin_listen == ("127.0.0.1", 8081)


def test_the_image_has_what_it_is_built_of_and_no_more() -> None:
    ignored = (REPOSITORY / ".dockerignore").read_text().splitlines()
    kept = {line[1:] for line in ignored if line.startswith("!")}
    copies = [arguments.split() for instruction, arguments in instructions() if instruction == "COPY"]
    sources = {name for copy in copies if not copy[0].startswith("--") for name in copy[:-1]}
    assert sources == kept
    assert all((REPOSITORY / name).exists() for name in sources)
    assert any(fnmatch.fnmatch(".git", line) for line in ignored if not line.startswith(("!", "#")))
    packaged = (REPOSITORY / "pyproject.toml").read_text()
    assert 'readme = "README.md"' in packaged
    assert {"README.md", "LICENSE"} <= sources


def test_the_image_runs_a_node_as_nobody() -> None:
    found = dict(instructions())
    assert json.loads(found["ENTRYPOINT"]) == ["aspen", "node", "run"]
    assert found["USER"] == "10001:10001"
    assert found["VOLUME"] == image_environment()["ASPEN_DATA_DIR"]
    assert set(found["EXPOSE"].split()) == {
        f"{DEFAULT_DNS_PORT}/udp",
        f"{DEFAULT_DNS_PORT}/tcp",
        f"{DEFAULT_QUIC_PORT}/udp",
        "8080/tcp",
    }


def test_the_image_s_own_check_tells_a_node_that_lives_from_one_that_does_not(tmp_path: Path) -> None:
    check = dict(instructions())["HEALTHCHECK"]
    command = json.loads(check[check.index("[") :])
    assert "http://127.0.0.1:8080/healthz" in command[-1]
    program = command[-1].replace(":8080", ":1")
    assert subprocess.run([sys.executable, "-c", program], capture_output=True, check=False).returncode != 0


def routes() -> set[str]:
    router = Router()
    HealthRoutes(None).add_routes(router)  # type: ignore[arg-type] -- only asked for its routes
    return {described.path for described in router.described}


def test_probes_ask_routes_that_there_are() -> None:
    probes = {name: container()[name]["httpGet"] for name in container() if name.endswith("Probe")}
    assert {name: probe["path"] for name, probe in probes.items()} == {
        "startupProbe": "/healthz",
        "livenessProbe": "/healthz",
        "readinessProbe": "/readyz?for=dns",
    }
    assert {probe["path"].partition("?")[0] for probe in probes.values()} <= routes()
    ports = {port["name"] for port in container()["ports"]}
    assert {probe["port"] for probe in probes.values()} <= ports


def test_names_and_ports_of_kubernetes_fit_together() -> None:
    found = resources()
    stateful = found["StatefulSet", "aspen"]["spec"]
    labels = stateful["template"]["metadata"]["labels"]
    assert stateful["selector"]["matchLabels"] == labels
    ports = {port["name"]: (port["containerPort"], port["protocol"]) for port in container()["ports"]}
    assert ports == {
        "dns": (DEFAULT_DNS_PORT, "UDP"),
        "dns-tcp": (DEFAULT_DNS_PORT, "TCP"),
        "quic": (DEFAULT_QUIC_PORT, "UDP"),
        "http": (8080, "TCP"),
    }
    for (kind, _), one in found.items():
        if kind == "Service":
            assert one["spec"]["selector"] == labels
            for port in one["spec"]["ports"]:
                assert ports[port["targetPort"]][1] == port["protocol"]
    headless = found["Service", stateful["serviceName"]]["spec"]
    assert headless["clusterIP"] == "None"
    assert headless["publishNotReadyAddresses"] is True
    assert variables_of_kubernetes()["ASPEN_IROH_BOOTSTRAP_NODES"] == "aspen-peers:7300"
    assert found["PodDisruptionBudget", "aspen"]["spec"]["maxUnavailable"] == 1
    assert stateful["replicas"] == int(variables_of_kubernetes()["ASPEN_AUTO_CLUSTER"])
    (claim,) = stateful["volumeClaimTemplates"]
    mounts = {mount["name"]: mount["mountPath"] for mount in container()["volumeMounts"]}
    assert mounts[claim["metadata"]["name"]] == "/var/lib/aspen"
    # Else Kubernetes adds variables like ASPEN_PORT, which are settings that don't exist.
    assert pod()["enableServiceLinks"] is False


def test_compose_s_nodes_name_each_other() -> None:
    services = compose()["services"]
    assert len(services) == 3
    for service in services.values():
        hosts = service["environment"]["ASPEN_IROH_BOOTSTRAP_NODES"].split(",")
        assert [host.partition(":")[0] for host in hosts] == list(services)
    volumes = [service["volumes"][0].partition(":")[0] for service in services.values()]
    assert sorted(volumes) == sorted(compose()["volumes"])


# --- as processes -----------------------------------------------------------------------------


class Contained(NodeProcess):
    """A node with a container's variables; only what containers have each of their own is told apart here."""

    bootstrap: str
    public_port: int
    variables: dict[str, str]

    def command(self) -> list[str]:
        return [sys.executable, "-m", "aspen.cli.main", "node", "run"]

    def environment(self) -> dict[str, str]:
        inherited = {name: text for name, text in os.environ.items() if not name.startswith("ASPEN_")}
        return (
            inherited
            | image_environment()
            | self.variables
            | {
                "ASPEN_IROH_BOOTSTRAP_NODES": self.bootstrap,
                "ASPEN_DATA_DIR": str(self.data_dir),
                "ASPEN_HOST": self.host,
                "ASPEN_DNS_PORT": str(self.dns_port),
                "ASPEN_QUIC_PORT": str(self.quic_port),
                "ASPEN_HTTP_ADDR": f"0.0.0.0:{self.public_port}",
                "ASPEN_ADMIN_ADDR": f"{self.host}:{self.http_port}",
            }
        )


def type_in(block: str, node: Contained, folder: Path) -> str:
    """A block of docs/operating.md, with stand-ins for the engines; it asks this node in the end."""
    folder.mkdir()
    for name in ("docker", "kubectl"):
        (folder / name).write_text(f'#!/bin/sh\nexec {sys.executable} {ENGINES} {name} "$@"\n')
        (folder / name).chmod(0o755)
    published = {port.split(":")[1] for port in compose()["services"]["aspen-1"]["ports"] if "/udp" in port}
    for port in published:
        block = block.replace(f"-p {port} ", f"-p {node.dns_port} ").replace("@127.0.0.1", f"@{node.host}")
    path = f"{folder}:{Path(sys.executable).parent}:{os.environ['PATH']}"
    engine = {"ENGINE_STATE": str(folder / "state"), "ENGINE_ADDR": node.addr}
    done = subprocess.run(
        ["bash", "-euo", "pipefail", "-c", block],
        cwd=REPOSITORY,
        env=os.environ | {"PATH": path} | engine,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, f"{block}\n{done.stdout}\n{done.stderr}"
    return done.stdout


def test_three_nodes_with_compose_s_variables_are_a_cluster(
    request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    nodes = [Contained(number, tmp_path / f"node-{number}") for number in (1, 2, 3)]
    places = ",".join(f"{node.host}:{node.quic_port}" for node in nodes)
    for node, variables in zip(nodes, variables_of_compose(), strict=True):
        node.bootstrap, node.variables, node.public_port = places, variables, free_port()
    try:
        for node in nodes:
            node.start()
        for node in nodes:
            node.wait_ready(60)
        members = (nodes[0].status() or {})["members"]
        assert [member["role"] for member in members] == ["voter"] * 3
        packet = sign("from=a container")
        assert nodes[0].put(packet).status == 204
        for node in nodes:
            wait_until(lambda node=node: node.resolves(packet), f"{node} answers", 30)  # type: ignore[misc]
            # The port that a container publishes has no admin routes.
            assert http_request(node.public_port, "GET", "/readyz").status == 200
            assert http_request(node.public_port, "GET", "/v1/cluster/status").status == 404
        if shutil.which("dig") and shutil.which("openssl"):
            by_docker, by_kubernetes = blocks_for(request)["operating.md"]
            shown = type_in(by_docker, nodes[0], tmp_path / "docker")
            assert '"Aspen"' in shown
            assert shown.count("voter") == 3
            assert type_in(by_kubernetes, nodes[0], tmp_path / "kubernetes").count("voter") == 3
    finally:
        for node in nodes:
            node.end_whatever_is_left()
