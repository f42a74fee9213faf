"""Machines as the documentation has them: a host of the lab whose /etc and /var are its own, too.

There, commands run as they stand: with the ports, addresses and folders that a page names. What they write
into /etc and /var is in memory, and gone with the machine; they are run in a folder of its own, `home`.
"""

from __future__ import annotations

import os
import shlex
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from lab import Host, NotGranted
from processes import end_with_parent, session_members, wait_until

BIN = Path(sys.executable).parent
_ITS_OWN = """
set -e
mkdir -p "$1/memory"
mount -t tmpfs tmpfs "$1/memory"
for folder in etc var; do
  own="$1/memory/$folder"
  mkdir -p "$own/upper" "$own/work"
  mount -t overlay overlay -o "lowerdir=/$folder,upperdir=$own/upper,workdir=$own/work" "/$folder"
done
for name in hosts resolv.conf; do
  rm -f "/etc/$name"
  touch "/etc/$name"
  mount --bind "$1/$name" "/etc/$name"
done
rm -rf /var/lib/aspen /etc/aspen
mkdir -p /var/lib/aspen /etc/aspen /var/backups
echo up
exec cat
"""
"""Waits at its end until this process lets go of it."""


class Running:
    """A command that goes on until it is told to end."""

    def __init__(self, process: subprocess.Popen[bytes], log_path: Path) -> None:
        self.process = process
        self._log_path = log_path

    def log(self) -> str:
        return self._log_path.read_text("utf-8", errors="replace")

    def wait_says(self, text: str, timeout_s: float = 60) -> None:
        def said() -> bool:
            if text in self.log():
                return True
            assert self.process.poll() is None, f"it ended with {self.process.returncode}:\n{self.log()}"
            return False

        try:
            wait_until(said, f"“{text}” is said", timeout_s, 0.05)
        except AssertionError as error:
            error.add_note(self.log()[-4_000:])
            raise

    def stop(self, timeout_s: float = 30) -> None:
        """Ctrl-C: it must end well. (Make ends as one that was interrupted, whatever its command does.)"""
        os.killpg(self.process.pid, signal.SIGINT)
        assert self.process.wait(timeout_s) in (0, -signal.SIGINT), self.log()[-4_000:]

    def kill(self) -> None:
        for pid in {self.process.pid, *session_members(self.process.pid)}:
            try:
                os.kill(pid, signal.SIGKILL)
            except ProcessLookupError:
                pass
        self.process.wait()


class Machine:
    """A host to type commands at. Close it before its lab."""

    def __init__(self, host: Host, **environment: str) -> None:
        self.host = host
        self.home = host.folder / "home"
        self.home.mkdir()
        self.environment = environment
        self._running: list[Running] = []
        own_mounts = ["unshare", "--mount", "--propagation", "private", "sh", "-c", _ITS_OWN, "sh"]
        self._holder = subprocess.Popen(
            ["nsenter", f"--net={host.path}", *own_mounts, str(host.folder)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            preexec_fn=end_with_parent,
        )
        assert self._holder.stdout is not None
        assert self._holder.stderr is not None
        if self._holder.stdout.readline() != b"up\n":
            said = self._holder.stderr.read().decode(errors="replace").strip()
            self.close()
            raise NotGranted(f"no machine with an /etc and /var of its own: {said}")

    def _command(self, script: str) -> list[str]:
        enter = ["nsenter", f"--target={self._holder.pid}", "--net", "--mount"]
        return [*enter, "env", f"--chdir={self.home}", "bash", "-euo", "pipefail", "-c", script]

    def _environment(self, more: dict[str, str]) -> dict[str, str]:
        ours = ("ASPEN_", "PYTEST_")
        inherited = {name: text for name, text in os.environ.items() if not name.startswith(ours)}
        path = f"{self.home}/bin:{BIN}:{os.environ['PATH']}"
        return inherited | {"PATH": path, "PYTHONUNBUFFERED": "1"} | self.environment | more

    def run(self, script: str, *, code: int = 0, timeout_s: float = 120, **environment: str) -> str:
        """Run a block to its end, which must have this exit code; what it printed."""
        done = subprocess.run(
            self._command(script),
            env=self._environment(environment),
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=timeout_s,
            check=False,
        )
        assert done.returncode == code, f"exit code {done.returncode}: {script}\n{done.stdout}\n{done.stderr}"
        return done.stdout

    def start(self, script: str, until: str, **environment: str) -> Running:
        """A command that goes on, once it has said that it is there."""
        log_path = self.home / f"{len(self._running)}.log"
        with log_path.open("wb") as log:
            process = subprocess.Popen(
                self._command(script),
                env=self._environment(environment),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
                preexec_fn=end_with_parent,
            )
        self._running.append(Running(process, log_path))
        self._running[-1].wait_says(until)
        return self._running[-1]

    def write(self, path: str, text: str) -> None:
        """A file there, its owner's alone."""
        self.run(f"umask 077 && printf %s {shlex.quote(text)} > {shlex.quote(path)}")

    def close(self) -> None:
        for running in self._running:
            running.kill()
        self._holder.communicate()


@contextmanager
def machine(host: Host, **environment: str) -> Iterator[Machine]:
    """One for the length of a `with`."""
    made = Machine(host, **environment)
    try:
        yield made
    finally:
        made.close()
