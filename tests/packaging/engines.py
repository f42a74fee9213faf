"""Stand-ins for `docker` and `kubectl`, which don't run where this is tested: `engines.py docker …`.

They know the commands and options that docs/operating.md uses and no others, and refuse what the real ones
would refuse: files, services, pods and images that aren't there, variables that compose requires, a secret
that the pods miss. `exec` runs its command here, beside a node that runs already, whose address is in
`ENGINE_ADDR`; what was done so far is kept in the file `ENGINE_STATE`.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NoReturn

import yaml

STATE = Path(os.environ["ENGINE_STATE"])


def refuse(why: str) -> NoReturn:
    sys.exit(f"stand-in: {why}")


def done() -> list[str]:
    return json.loads(STATE.read_text()) if STATE.exists() else []


def note(what: str) -> None:
    STATE.write_text(json.dumps([*done(), what]))
    print(what)


def parsed(*arguments: tuple[str, dict[str, Any]], given: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(allow_abbrev=False)
    for name, options in arguments:
        parser.add_argument(name, **options)
    return parser.parse_args(given)


def run_there(command: list[str]) -> NoReturn:
    os.environ["ASPEN_ADDR"] = os.environ["ENGINE_ADDR"]
    os.execvp(command[0], command)


def docker_build(given: list[str]) -> None:
    must = {"required": True}
    options = parsed(("--file", must), ("--tag", must), ("context", {}), given=given)
    for line in Path(options.file).read_text().splitlines():
        if line.startswith("COPY ") and "--from" not in line:
            for source in line.split()[1:-1]:
                if not (Path(options.context) / source).exists():
                    refuse(f"COPY {source}: not in {options.context}")
    note(f"image {options.tag}")


def compose() -> dict[str, Any]:
    """compose.yaml of this folder; each command reads it, and wants its variables."""
    text = Path("compose.yaml").read_text()
    for name in re.findall(r"\$\{(\w+):\?", text):
        if not os.environ.get(name):
            refuse(f"required variable {name} is missing a value")
    found: dict[str, Any] = yaml.safe_load(text)["services"]
    return found


def docker_compose_up(given: list[str]) -> None:
    parsed(("--wait", {"action": "store_true", "required": True}), given=given)
    for name, service in compose().items():
        if f"image {service['image']}" not in done():
            refuse(f"{name}: no image {service['image']}")
        note(f"container {name}")


def docker_compose_exec(given: list[str]) -> None:
    service, *command = given
    if service not in compose() or f"container {service}" not in done():
        refuse(f"service {service} is not running")
    run_there(command)


def kubectl_create_secret_generic(given: list[str]) -> None:
    options = parsed(("name", {}), ("--from-literal", {"required": True}), given=given)
    key, _, text = options.from_literal.partition("=")
    if not text:
        refuse("an empty secret")
    note(f"secret {options.name} {key}")


def kubectl_apply(given: list[str]) -> None:
    options = parsed(("--filename", {"required": True}), given=given)
    for one in yaml.safe_load_all(Path(options.filename).read_text()):
        for name, key in secrets_of(one):
            if f"secret {name} {key}" not in done():
                refuse(f"the pods wait for the secret {name} with {key}")
        name = one["metadata"]["name"]
        note(f"{one['kind'].lower()}/{name}")
        for number in range(one["spec"].get("replicas", 0)):
            note(f"pod {name}-{number}")


def secrets_of(part: Any) -> Iterator[tuple[str, str]]:
    if isinstance(part, dict):
        if "secretKeyRef" in part:
            yield part["secretKeyRef"]["name"], part["secretKeyRef"]["key"]
        part = list(part.values())
    for inner in part if isinstance(part, list) else ():
        yield from secrets_of(inner)


def kubectl_rollout_status(given: list[str]) -> None:
    if given != [one for one in given if one in done()]:
        refuse(f"not found: {given}")


def kubectl_exec(given: list[str]) -> None:
    pod, dashes, *command = given
    if f"pod {pod}" not in done() or dashes != "--":
        refuse(f"pods {pod} not found, or no -- before the command")
    run_there(command)


KNOWN: dict[str, Callable[[list[str]], None]] = {
    "docker build": docker_build,
    "docker compose up": docker_compose_up,
    "docker compose exec": docker_compose_exec,
    "kubectl create secret generic": kubectl_create_secret_generic,
    "kubectl apply": kubectl_apply,
    "kubectl rollout status": kubectl_rollout_status,
    "kubectl exec": kubectl_exec,
}


def main() -> None:
    typed = sys.argv[1:]
    for name, command in KNOWN.items():
        words = name.split()
        if typed[: len(words)] == words:
            return command(typed[len(words) :])
    refuse(f"{' '.join(typed)}: not a command of the documentation")


if __name__ == "__main__":
    main()
