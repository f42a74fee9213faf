"""What the documentation has an operator type, on a machine with systemd that has no Aspen yet."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from pathlib import Path
from subprocess import CalledProcessError

import pytest
from booted import SYSTEM_PYTHON, Machine, booted, wheels, why_not
from processes import wait_until

sys.path.insert(0, str(Path(__file__).parents[1] / "cli"))

from documented import blocks_for

REASON = why_not()
pytestmark = pytest.mark.skipif(bool(REASON), reason=f"no boot of systemd here: {REASON}")

SERVICE = "aspen.service"
COOKIE = "ASPEN_COOKIE=3b0c5c1f6e7d4a9980a7f2e4d6c8b1a0\n"
SETTINGS = "/etc/aspen/aspen.toml"


@pytest.fixture(scope="module")
def bare(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Machine, dict[str, str]]]:
    """A machine without Aspen, and what `make` is told there."""
    work = tmp_path_factory.mktemp("boot")
    try:
        pip_arguments = wheels(work / "first")
    except CalledProcessError:
        pytest.skip("no network to fetch the tools that build the package")
    with booted(work, work / "first") as machine:
        yield machine, {"PYTHON": SYSTEM_PYTHON, "PIP_ARGS": pip_arguments}


def asked(machine: Machine, *arguments: str) -> str:
    return machine.run("dig", "@127.0.0.1", "+short", *arguments, "version.bind", "CH", "TXT").stdout.strip()


def test_installing_as_the_page_says(
    request: pytest.FixtureRequest, bare: tuple[Machine, dict[str, str]]
) -> None:
    machine, environment = bare
    install, enable, sockets = blocks_for(request)["operating.md"]
    assert "Aspen is in /usr/local/lib/aspen" in machine.block(install, **environment)
    settings = machine.do("cat", SETTINGS).replace("# init = true", "init = true")
    settings = settings.replace('# host = "192.0.2.1"', 'host = "127.0.0.1"')
    machine.write(SETTINGS, settings)
    machine.write("/etc/aspen/aspen.env", COOKIE)
    shown = machine.block(enable)
    assert "ready" in shown
    assert "node started" in shown  # in the journal
    assert asked(machine, "-p", "5300") == '"Aspen"'
    machine.write(SETTINGS, f'{settings}\n[dns_server.https_config]\ndomains = ["localhost"]\n')
    machine.block(sockets)
    for how in ("+notcp", "+tcp"):
        assert asked(machine, how) == '"Aspen"'
    machine.do("curl", "--silent", "--insecure", "--fail", "https://127.0.0.1/healthz")
    for unit in (SERVICE, "aspen-dns.socket", "aspen-doq.socket"):
        assert machine.do("systemctl", "is-enabled", unit) == "enabled"


def test_upgrading_as_the_page_says(
    request: pytest.FixtureRequest, bare: tuple[Machine, dict[str, str]]
) -> None:
    """What was installed above is the leader of two; the other member lives on the same machine."""
    machine, environment = bare
    (upgrade,) = blocks_for(request)["upgrading.md"]
    ticket = machine.do("/usr/local/bin/aspen", "cluster", "ticket", "--signed")
    machine.write("/etc/aspen/two.env", f"ASPEN_TICKET={ticket}\n")
    machine.write(
        "/etc/aspen/two.toml",
        'host = "127.0.0.1"\nquic_port = 7302\nhttp_addr = "127.0.0.1:8082"\ndns_server.port = 5302\n',
    )
    machine.do("systemctl", "start", "aspen@two.service")
    wait_until(lambda: "2 voters" in machine.journal(), "the second has its vote", 60, 0.3)
    old_program, old_pid = "/usr/local/lib/aspen/of-before", machine.show(SERVICE, "MainPID")
    machine.do("touch", old_program)
    assert "ready" in machine.block(upgrade, **environment)
    assert machine.show(SERVICE, "MainPID") != old_pid
    assert machine.run("test", "-e", old_program).returncode == 1
    status = json.loads(machine.do("/usr/local/bin/aspen", "cluster", "status", "--json"))
    assert [member["role"] for member in status["members"]] == ["voter", "voter"]
