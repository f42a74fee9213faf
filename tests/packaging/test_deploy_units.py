"""Units, the files around them, and `make install`: as systemd's own tools judge them."""

from __future__ import annotations

import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from booted import REPOSITORY, SYSTEM_PYTHON, make

from aspen.config.sources import load_config
from aspen.identity import Identity
from aspen.systemd import SOCKET_NAMES

SYSTEMD = REPOSITORY / "deploy" / "systemd"
UNITS = sorted(path.name for path in (*SYSTEMD.glob("*.service"), *SYSTEMD.glob("*.socket")))
EXPOSURE = 2.0
needs_analyze = pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="no systemd-analyze")


def analyze(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        ["systemd-analyze", *arguments], capture_output=True, text=True, timeout=60, check=False
    )


def settings_of(unit: str) -> dict[str, list[str]]:
    """Setting → its values; comments and sections left out."""
    found: dict[str, list[str]] = {}
    for line in (SYSTEMD / unit).read_text().splitlines():
        name, equals, value = line.partition("=")
        if equals and not line.startswith(("#", "[")):
            found.setdefault(name, []).append(value)
    return found


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """All that `make install` puts beside the program."""
    root = tmp_path_factory.mktemp("root")
    done = subprocess.run(
        [REPOSITORY / "deploy" / "install.sh", "files"],
        env={"DESTDIR": str(root), "PATH": "/usr/bin:/bin"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    for program in ("usr/local/bin/aspen", "bin/kill"):
        (root / program).parent.mkdir(parents=True, exist_ok=True)
        (root / program).write_text("#!/bin/sh\n")
        (root / program).chmod(0o755)
    return root


@needs_analyze
@pytest.mark.parametrize("unit", UNITS)
def test_systemd_finds_no_fault_with_a_unit(unit: str, root: Path) -> None:
    path = f"/usr/local/lib/systemd/system/{unit}".replace("@.", "@one.")
    if "@" in unit:
        (root / path[1:]).symlink_to(unit)
    done = analyze("verify", "--root", str(root), "--man=no", "--recursive-errors=no", path)
    if "@" in unit:
        (root / path[1:]).unlink()
    ours = [line for line in done.stderr.splitlines() if "aspen" in line]
    assert ours == []


@needs_analyze
@pytest.mark.parametrize("unit", ["aspen.service", "aspen@.service"])
def test_services_are_walled_in(unit: str) -> None:
    done = analyze("security", "--offline=true", f"--threshold={EXPOSURE * 10:.0f}", str(SYSTEMD / unit))
    level = re.search(r"exposure level for \S+: ([\d.]+)", done.stdout)
    assert level is not None, done.stdout + done.stderr
    assert float(level[1]) <= EXPOSURE


def test_an_instance_differs_by_its_name_alone() -> None:
    def body(unit: str) -> str:
        text = (SYSTEMD / unit).read_text()
        return text[text.index("[Unit]") :]

    expected = (
        body("aspen.service")
        .replace("/etc/aspen/aspen.", "/etc/aspen/%i.")
        .replace("/var/lib/aspen", "/var/lib/aspen/%i")
        .replace("StateDirectory=aspen\n", "StateDirectory=aspen/%i\n")
        .replace("Description=Aspen:", "Description=Aspen node %i:")
    )
    assert body("aspen@.service") == expected


def test_what_the_service_promises() -> None:
    service = settings_of("aspen.service")
    assert service["Type"] == ["notify"]
    assert service["CapabilityBoundingSet"] == service["AmbientCapabilities"] == ["CAP_NET_BIND_SERVICE"]
    assert int(service["WatchdogSec"][0]) > 0
    assert service["Restart"] == ["always"]
    assert service["RestartPreventExitStatus"] == ["2"]
    assert service["EnvironmentFile"] == ["-/etc/aspen/aspen.env"]
    assert int(service["LimitNOFILE"][0]) >= 65_536


def test_every_socket_has_a_name_that_the_node_knows() -> None:
    names = [settings_of(unit)["FileDescriptorName"] for unit in UNITS if unit.endswith(".socket")]
    assert sorted(name for (name,) in names) == sorted({"dns", "https", "dot", "doq"})
    assert {name for (name,) in names} <= set(SOCKET_NAMES)
    assert settings_of("aspen-dns.socket")["ListenDatagram"] == ["53"]
    assert settings_of("aspen-dns.socket")["ListenStream"] == ["53"]


def test_the_example_settings_are_valid_and_so_is_what_is_commented_out(tmp_path: Path) -> None:
    environment = {"ASPEN_COOKIE": "0f" * 32}
    example = SYSTEMD / "aspen.toml"
    loaded = load_config(config_file=example, environment=environment, flags={})
    assert loaded.validate() == []
    shown = re.sub(r"^# (?=\[[a-z_.]+\]$|[a-z_]+ = )", "", example.read_text(), flags=re.MULTILINE)
    everything = tmp_path / "all.toml"
    everything.write_text(shown.replace("<endpoint id>", Identity.generate().z32))
    config = load_config(config_file=everything, environment=environment, flags={}).config
    config.validate()
    assert config.init
    assert config.dns_server.https_config is not None
    assert config.dns_server.https_config.domains == ["dns.example.com"]


@pytest.mark.skipif(shutil.which("systemd-sysusers") is None, reason="no systemd-sysusers")
def test_the_user_is_made_and_owns_the_state(root: Path) -> None:
    """In a root of its own, as a package's installation does it."""
    done = subprocess.run(
        ["systemd-sysusers", f"--root={root}", "aspen.conf"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    (user,) = [line for line in (root / "etc/passwd").read_text().splitlines() if line.startswith("aspen:")]
    assert user.endswith(":/var/lib/aspen:/usr/sbin/nologin")
    assert 0 < int(user.split(":")[2]) < 1_000


def test_the_pages_come_with_their_pictures(root: Path) -> None:
    doc = root / "usr/local/share/doc/aspen"
    pictures = [
        (page.parent / target)
        for page in doc.rglob("*.md")
        for target in re.findall(r"!\[[^]]*\]\(([^)]+)\)", page.read_text("utf-8"))
    ]
    assert len(pictures) > 2
    assert [picture for picture in pictures if not picture.is_file()] == []


def test_settings_that_are_there_stay(root: Path) -> None:
    settings = root / "etc/aspen/aspen.toml"
    settings.write_text("node_id = 7\n")
    environment = {"DESTDIR": str(root), "PATH": "/usr/bin:/bin"}
    subprocess.run([REPOSITORY / "deploy" / "install.sh", "files"], env=environment, check=True)
    assert settings.read_text() == "node_id = 7\n"
    assert oct((root / "etc/aspen/aspen.env").stat().st_mode & 0o777) == "0o640"


def test_another_prefix_is_in_the_units(tmp_path: Path) -> None:
    environment = {"DESTDIR": str(tmp_path), "PREFIX": "/opt/aspen", "PATH": "/usr/bin:/bin"}
    subprocess.run([REPOSITORY / "deploy" / "install.sh", "files"], env=environment, check=True)
    unit = (tmp_path / "opt/aspen/lib/systemd/system/aspen.service").read_text()
    assert "ExecStart=/opt/aspen/bin/aspen node run" in unit
    assert "/usr/local" not in unit


def test_uninstall_leaves_settings_and_data(root: Path) -> None:
    state = root / "var/lib/aspen/state-1"
    state.mkdir(parents=True)
    done = make("uninstall", f"DESTDIR={root}")
    assert done.returncode == 0, done.stderr
    left = {path.relative_to(root).parts[0] for path in root.rglob("*aspen*") if path.is_file()}
    assert left == {"etc"}
    assert state.is_dir()
    assert "still there" in done.stdout


def test_a_python_that_the_service_could_not_read_is_refused(tmp_path: Path) -> None:
    home = tmp_path / "bin"
    home.mkdir()
    python = home / "python3"
    python.write_text(
        f'#!/bin/sh\ncase "$2" in *base_prefix*) echo /home/me/python;; *) exec {SYSTEM_PYTHON} "$@";; esac\n'
    )
    python.chmod(0o755)
    done = make("install", f"DESTDIR={tmp_path}", f"PYTHON={python}")
    assert done.returncode != 0
    assert "sees nothing of /root and /home" in done.stderr
