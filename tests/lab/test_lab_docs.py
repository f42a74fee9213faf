"""Blocks of the documentation that want machines of their own, run there as they stand.

Each machine has the ports, addresses and folders that the pages name. What a page leaves to its reader is
done here as a reader would: a `<ticket>` is filled in, and other machines run what the one of the page needs.
"""

from __future__ import annotations

import json
import shlex
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[1] / "cli"))

from documented import blocks_for, filled_in
from lab import Lab
from machines import Machine, machine
from processes import wait_until

COOKIE = "of these machines alone, which nobody guesses"
QUICKLY = {"ASPEN_PROFILE": "lan", "ASPEN_DNS_SERVER_WORKERS": "0"}
STARTED = "node started"
PERCENT = r"\%"


@contextmanager
def on_one_lan(lab: Lab, count: int) -> Iterator[list[Machine]]:
    """Machines from 192.0.2.1 on."""
    lan = lab.network("lan")
    with ExitStack() as stack:
        hosts = [lab.host(f"host-{i}").plug(lan, f"192.0.2.{i}/24") for i in range(1, count + 1)]
        yield [stack.enter_context(machine(host, **QUICKLY)) for host in hosts]


def members(at: Machine) -> list[int]:
    told = json.loads(at.run("aspen cluster status --json"))
    return [member["node_id"] for member in told["members"]]


def voters(at: Machine) -> int:
    """How many a node knows; none before it is one."""
    told = at.run("aspen cluster status --json || true")
    return sum(member["role"] == "voter" for member in json.loads(told or "{}").get("members", ()))


def test_a_cluster_s_life(request: pytest.FixtureRequest, lab: Lab) -> None:
    with on_one_lan(lab, 4) as machines:
        live(blocks_for(request), *machines)


def live(pages: dict[str, list[str]], one: Machine, two: Machine, three: Machine, four: Machine) -> None:
    """Founded, grown, shrunk, given a new key, backed up, lost, recovered, lost again, restored."""
    keygen, node_run, grow, shrink = pages["README.md"]
    (join,) = pages["joining.md"]
    (rotate,) = pages["security.md"]
    nightly, restore, look, recover = pages["backup.md"]
    (doctor,) = pages["operating.md"]

    ids = [each.run(keygen).strip() for each in (one, two, three)]
    nodes = [one.start(filled_in(node_run, endpoint_id=ids[1:]), STARTED, ASPEN_COOKIE=COOKIE)]
    told = [f"--peers {i}@{key}@192.0.2.{i}:7300" for i, key in enumerate(ids, start=1)]
    for i, each in ((2, two), (3, three)):
        others = " ".join(told[: i - 1] + told[i:])
        script = f"aspen node run --node-id {i} --data-dir /var/lib/aspen --host 192.0.2.{i} {others}"
        nodes.append(each.start(script, STARTED, ASPEN_COOKIE=COOKIE))
    one.run("aspen kv put kept 'what matters'")
    assert members(one) == [1, 2, 3]

    # Joining is the same command in the README and on its own page.
    ticket, come_in, check = grow.splitlines()
    assert come_in.startswith(join.rstrip("\n"))
    newcomer = four.start(
        filled_in(join, ticket=one.run(ticket).strip()), "promoted: node 4 is one of 4 voters"
    )
    assert one.run(check).count("alike") == 4
    one.run(shrink)
    newcomer.wait_says("removed")
    assert members(one) == [1, 2, 3]

    assert f"was {ids[1]}" in two.run(rotate)

    # As cron(8) runs it: five fields, then a command for sh(1), in which percent signs are escaped.
    *times, command = nightly.rstrip("\n").split(maxsplit=5)
    assert times == ["0", "3", "*", "*", "*"]
    one.run(f"sh -c {shlex.quote(command.replace(PERCENT, '%'))}")
    (backup,) = one.run("ls /var/backups/aspen-[1-7].backup").split()

    # Two of three are lost for good.
    one.run("aspen kv put newer 'than the backup'")
    for node in nodes[1:]:
        node.kill()
    nodes[0].stop()
    assert "Nothing was changed" in one.run(look, code=1)
    one.run(recover)
    again = "aspen node run --node-id 1 --data-dir /var/lib/aspen --host 192.0.2.1"
    alone = one.start(again, STARTED, ASPEN_COOKIE=COOKIE)
    assert members(one) == [1]
    assert one.run("aspen kv get newer") == "than the backup\n"

    # And a restore, where nothing is left. From another machine, with a token, the doctor looks at it.
    alone.stop()
    one.run(f"rm -rf /var/lib/aspen && cp {backup} aspen.backup")
    there = {"ASPEN_HTTP_ADDR": "192.0.2.1:8080", "ASPEN_ADMIN_TOKEN": "known-elsewhere"}
    one.start(restore, STARTED, ASPEN_COOKIE=COOKIE, **there)
    token = there["ASPEN_ADMIN_TOKEN"]
    elsewhere = f"--addr http://192.0.2.1:8080 --token {token}"
    assert two.run(f"aspen kv get kept {elsewhere}") == "what matters\n"
    two.run(f"aspen kv get newer {elsewhere}", code=3)
    two.write("/etc/aspen/aspen.toml", f'node_id = 2\nhost = "192.0.2.2"\ncookie = "{COOKIE}"\n')
    here, healthy = two.run(filled_in(doctor, token=token)).split("0 problems")[:2]
    assert "UDP 192.0.2.2:7300 is free" in here
    assert "node 1 answers" in healthy


def test_five_machines_found_a_cluster(request: pytest.FixtureRequest, lab: Lab) -> None:
    ((together,),) = blocks_for(request).values()
    with on_one_lan(lab, 5) as machines:
        script = filled_in(together, a_secret_of_your_own=shlex.quote(COOKIE))
        for each in machines:
            each.start(script, "nodes are here")
        wait_until(lambda: voters(machines[0]) == 5, "the five are a cluster", 60, 0.2)
