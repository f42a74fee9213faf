"""systemd itself as process 1, in namespaces of its own, with Aspen installed."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import sysconfig
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from zipfile import ZipFile

from processes import children, wait_until

HERE = Path(__file__).parent
REPOSITORY = HERE.parents[1]
SYSTEM_PYTHON = "/usr/bin/python3"
CGROUPS = (Path("/sys/fs/cgroup/unified"), Path("/sys/fs/cgroup"))
PACKAGES = "/opt/packages"
"""Where a booted machine has what Aspen depends on."""
SOURCES = "/usr/src/aspen"
"""Where it has this repository."""
NAMESPACES = ("--mount", "--pid", "--fork", "--cgroup", "--net", "--uts", "--ipc", "--kill-child")


def why_not() -> str:
    """What this machine lacks for a boot; empty if nothing."""
    for tool in ("systemd-analyze", "unshare", "nsenter", "dig", "make", "ip"):
        if shutil.which(tool) is None:
            return f"no {tool}"
    if not Path("/lib/systemd/systemd").exists():
        return "no systemd"
    if os.geteuid() != 0:
        return "namespaces need root"
    if _cgroup2() is None:
        return "no cgroup v2 to write to"
    version = subprocess.run(
        [SYSTEM_PYTHON, "-c", "import sys, venv, ensurepip; print(*sys.version_info[:2])"],
        capture_output=True,
        text=True,
        check=False,
    )
    if version.returncode or version.stdout.split() != [str(part) for part in sys.version_info[:2]]:
        return "the system's Python, which a service can read, is not of the version that runs the tests"
    probe = (
        "mount -t tmpfs t /mnt && mkdir /mnt/u /mnt/w /mnt/r && "
        "mount -t overlay o -o lowerdir=/,upperdir=/mnt/u,workdir=/mnt/w /mnt/r"
    )
    may = subprocess.run(["unshare", *NAMESPACES, "sh", "-c", probe], capture_output=True, check=False)
    return "" if may.returncode == 0 else "no right to namespaces or overlays"


def _cgroup2() -> Path | None:
    return next((at for at in CGROUPS if (at / "cgroup.procs").exists() and os.access(at, os.W_OK)), None)


class Machine:
    """A booted system."""

    def __init__(self, pid: int) -> None:
        self._pid = pid

    def run(self, *command: str, timeout_s: float = 60) -> subprocess.CompletedProcess[str]:
        """A command there, whatever it exits with."""
        enter = ["nsenter", "--target", str(self._pid), "--all", "--root", "--wd", "--"]
        return subprocess.run(
            [*enter, *command], capture_output=True, text=True, timeout=timeout_s, check=False
        )

    def do(self, *command: str, timeout_s: float = 60) -> str:
        """A command that must succeed; what it prints."""
        done = self.run(*command, timeout_s=timeout_s)
        assert done.returncode == 0, f"{command}: {done.stdout}{done.stderr}\n{self.journal()}"
        return done.stdout.strip()

    def block(self, script: str, **environment: str) -> str:
        """Commands of the documentation, typed in by root, in a checkout."""
        given = {"PATH": "/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "HOME": "/root", **environment}
        shell = ["env", "-i", f"--chdir={SOURCES}", *(f"{name}={text}" for name, text in given.items())]
        return self.do(*shell, "bash", "-euo", "pipefail", "-c", script, timeout_s=300)

    def show(self, unit: str, what: str) -> str:
        return self.do("systemctl", "show", "--value", "--property", what, unit)

    def journal(self) -> str:
        return self.run("journalctl", "--no-pager", "--output", "cat", "--lines", "60").stdout

    def write(self, path: str, text: str) -> None:
        Path(f"/proc/{self._pid}/root{path}").parent.mkdir(parents=True, exist_ok=True)
        Path(f"/proc/{self._pid}/root{path}").write_text(text)

    def status_of(self, pid: str) -> dict[str, str]:
        """/proc/PID/status of a process there."""
        lines = self.do("cat", f"/proc/{pid}/status").splitlines()
        return {name: value.strip() for name, _, value in (line.partition(":") for line in lines)}


def install(into: Path) -> subprocess.CompletedProcess[str]:
    """`make install` with the dependencies left to `booted`."""
    arguments = [f"DESTDIR={into}", f"PYTHON={SYSTEM_PYTHON}", "PIP_ARGS=--no-deps"]
    return make("install", *arguments)


def make(target: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    command = ["make", "--no-print-directory", "-C", str(REPOSITORY), target, *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)


def wheels(into: Path) -> str:
    """What `make install` needs on a machine without network, which is booted with this folder: `/wheels`.

    In it are the tools that build the package, and a wheel that stands for all that Aspen depends on. Returns
    what pip is to be told.
    """
    folder = into / "wheels"
    pip = [sys.executable, "-m", "pip", "download", "--quiet", "--disable-pip-version-check"]
    constraints = str(REPOSITORY / "constraints.txt")
    subprocess.run([*pip, "--constraint", constraints, "--dest", str(folder), "hatchling"], check=True)
    info = "aspen_test_packages-1.dist-info"
    files = {
        "packages.pth": f"{PACKAGES}\n",
        f"{info}/METADATA": "Metadata-Version: 2.1\nName: aspen-test-packages\nVersion: 1\n",
        f"{info}/WHEEL": "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
        f"{info}/RECORD": f"packages.pth,,\n{info}/METADATA,,\n{info}/WHEEL,,\n{info}/RECORD,,\n",
    }
    with ZipFile(folder / "aspen_test_packages-1-py3-none-any.whl", "w") as wheel:
        for name, text in files.items():
            wheel.writestr(name, text)
    return "--no-deps --no-index --find-links=/wheels aspen-test-packages"


@contextmanager
def booted(work: Path, installed: Path) -> Iterator[Machine]:
    """A machine that runs `test.target`, for the length of a `with`."""
    base = _cgroup2()
    assert base is not None
    group = base / f"aspen-test-{os.getpid()}"
    group.mkdir()
    for site_packages in installed.glob("usr/local/lib/aspen/lib/python3*/site-packages"):
        (site_packages / "packages.pth").write_text(f"{PACKAGES}\n")
    given = [work, installed, sysconfig.get_path("purelib"), REPOSITORY]
    command = ["unshare", *NAMESPACES, str(HERE / "boot.sh"), *map(str, given)]

    def enter_group() -> None:
        (group / "cgroup.procs").write_text(str(os.getpid()))

    log_path = work / "boot.log"
    with open(log_path, "wb") as log:
        process = subprocess.Popen(
            command, stdout=log, stderr=log, stdin=subprocess.DEVNULL, preexec_fn=enter_group
        )
    try:
        (init,) = wait_until(lambda: children(process.pid), "the namespaces are there", 30)
        machine = Machine(init)

        def up() -> bool:
            assert process.poll() is None, f"no boot: {log_path.read_text(errors='replace')}"
            told = machine.run("systemctl", "is-active", "test.target")
            return told.stdout.strip() == "active"

        wait_until(up, "systemd has booted", 60, 0.2)
        yield machine
    finally:
        process.kill()  # process 1 with it, and so all there
        process.wait()
        wait_until(lambda: _removed(group), "its control group is gone", 30, 0.1)


def _removed(group: Path) -> bool:
    for folder in sorted(group.rglob("*/"), reverse=True):
        try:
            folder.rmdir()
        except OSError:
            return False
    try:
        group.rmdir()
    except OSError:
        return False
    return True
