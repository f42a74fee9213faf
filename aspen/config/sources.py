"""Where settings come from: defaults < what was learnt when joining < environment < TOML < flags.

Each source becomes a flat table, dotted setting name → (value, where it was written), checked on
its own: an unknown name or a value of the wrong type is a `ConfigError` that names the source.
A later source overrides a setting under all of its names (`dns_port`, `dns_server.dns_port` and
`dns_server.port` are one), and only then is the configuration built.

Environment: `ASPEN_NODE_ID`, `ASPEN_IROH_ENABLE_MDNS`, `ASPEN_DNS_SERVER_ORIGINS` (lists are
separated by commas).
"""

from __future__ import annotations

import tomllib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import msgspec

from aspen.config.checks import check
from aspen.config.cluster import (
    SECRET_SETTINGS,
    TIMINGS,
    ClusterBootstrapConfig,
    DnsServerConfig,
    HttpsConfig,
    IrohConfig,
    expected,
    setting_types,
)
from aspen.config.joined import JOINED_FILE, LEARNT, with_joined
from aspen.config.pkarr import PkarrConfig
from aspen.errors import ConfigError
from aspen.limits import SECRET_FILE_BYTES

PREFIX: Final = "ASPEN_"
CONFIG_VARIABLE: Final = "ASPEN_CONFIG"
# Variables of the same prefix that are not a node's settings: the client's, and those of tests.
_OTHER_VARIABLES: Final = frozenset({"ASPEN_ADDR", "ASPEN_TRACEBACK", CONFIG_VARIABLE})
_OTHER_PREFIXES: Final = ("ASPEN_TEST_", "ASPEN_BENCH_", "ASPEN_DEV_")

# Names of one and the same setting: setting one in a later source replaces the others.
_SPELLINGS: Final = (
    frozenset({"dns_port", "dns_server.dns_port", "dns_server.port"}),
    frozenset({"http_addr", "dns_server.http_addr"}),
    frozenset({"dns_server.origin", "dns_server.origins"}),
    frozenset({"ticket", "iroh.gossip_ticket"}),
)

OTHER_SPELLINGS: Final = frozenset(
    {
        "dns_server.dns_port",
        "dns_server.port",
        "dns_server.http_addr",
        "dns_server.origin",
        "iroh.gossip_ticket",
    }
)
"""Of those, the ones that are not the setting's first name."""

# Two ways to give one secret: of one source, only one; a later source's replaces the other.
_SECRET_FILES: Final = {
    "cookie": ("cookie_file", "cookie_accepted"),
    "admin_token": ("admin_token_file", "admin_token_accepted"),
}

_CARGO: Final = (
    "that is a Cargo.toml: Aspen has no features to choose and no crates to add, its DNS server is always "
    "built in; write [dns_server] with enable = true, origin and dns_port"
)
ELSEWHERE: Final = {
    "dependencies": _CARGO,
    "dev-dependencies": _CARGO,
    "features": _CARGO,
    "package": _CARGO,
    "workspace": _CARGO,
    "http": 'write http_addr = "host:port"',
    "https": "write [dns_server.https_config]",
    "dns": "write [dns_server] with dns_port, host and origins",
    "metrics_addr": "/metrics is one of the admin routes; write admin_addr and admin_token",
    "mainline": "write [dns_server] with enable_dht_fallback and dht_bootstrap_nodes",
    "pkarr_put_rate_limit": "write [pkarr] with puts_per_address, puts_per_key and puts_in_all",
    "zone_store": "write [pkarr] with retention_secs, max_packets and max_mib",
}
"""Names of neighbouring configurations → what to write here."""

NODE_DEFAULTS: Final = {"dns_server.workers": 1}
"""What a server has by default and an embedded node hasn't."""

# Flags not named after their setting.
_FLAG_NAMES: Final = {
    "dns_server.origins": "origin",
    "iroh.enable_gossip": "disable-gossip",
    "iroh.enable_mdns": "disable-mdns",
}

Layer = dict[str, tuple[Any, str]]
"""Dotted setting name → value, and the source it came from."""

Problems = list[tuple[str, str]]
"""What is wrong, each with the setting that is left out for it (empty: none)."""


@dataclass(frozen=True, slots=True)
class LoadedConfig:
    """A configuration, and which source each given setting came from."""

    config: ClusterBootstrapConfig
    sources: dict[str, str]

    def origin(self, path: str) -> str:
        """Where the value of a setting comes from: what was written, or what it follows from."""
        if path in self.sources:
            return self.sources[path]
        for spellings in _SPELLINGS:
            if path in spellings:
                for other in sorted(spellings & self.sources.keys()):
                    return f"{self.sources[other]}, as {other}"
        for secret, (file, accepted) in _SECRET_FILES.items():
            if path in (secret, accepted) and getattr(self.config, file) is not None:
                return f"{file} {getattr(self.config, file)}"
        if path in TIMINGS and "profile" in self.sources:
            return f"profile {self.config.profile} ({self.sources['profile']})"
        return "default"

    def validate(self) -> list[str]:
        """As `ClusterBootstrapConfig.validate`; settings written down warn at their default too."""
        return check(self.config, frozenset(self.sources))


def load_config(
    *,
    config_file: Path | None,
    environment: Mapping[str, str],
    flags: Mapping[str, Any],
    defaults: Mapping[str, Any] | None = None,
    problems: Problems | None = None,
) -> LoadedConfig:
    """Build a configuration from its sources. Raises `ConfigError`; does not validate.

    `flags` and `defaults` map dotted setting names to values; a flag that is None was not given. With a list
    for `problems`, what can't be read is told there and left out, and only what leaves nothing to look at
    is raised.
    """
    wrong: Problems = [] if problems is None else problems
    if config_file is None and environment.get(CONFIG_VARIABLE):
        config_file = Path(environment[CONFIG_VARIABLE])
    merged: Layer = {}
    for layer in (
        {name: (value, "default") for name, value in (defaults or {}).items()},
        _read_environment(environment, wrong),
        _read_toml(config_file, wrong) if config_file is not None else {},
        _read_flags(flags, wrong),
    ):
        for secret, (file, accepted) in _SECRET_FILES.items():
            if secret in layer and file in layer:
                wrong.append((secret, f"{layer[file][1]}: give {secret} or {file}, not both"))
                del layer[secret]
            if secret in layer or file in layer:
                for other in {secret, file, accepted} - layer.keys():
                    merged.pop(other, None)
        for spellings in _SPELLINGS:
            if spellings & layer.keys():
                wrong += _disagreements(layer, spellings)
                for other in spellings - layer.keys():
                    merged.pop(other, None)
        merged |= layer
    if wrong and problems is None:
        raise ConfigError(*(text for _setting, text in wrong))
    values = {name: value for name, (value, _source) in merged.items()}
    sources = {name: source for name, (_value, source) in merged.items() if source != "default"}
    config = with_secret_files(_build(values))
    joined = with_joined(config)
    for name in LEARNT:
        if getattr(joined, name) != getattr(config, name):
            sources[name] = str(joined.data_path / JOINED_FILE)
    return LoadedConfig(joined, sources)


def with_secret_files(config: ClusterBootstrapConfig) -> ClusterBootstrapConfig:
    """The same with its cookie and token as their files have them now. Raises `ConfigError`."""
    changes: dict[str, Any] = {}
    for secret, (file_setting, accepted) in _SECRET_FILES.items():
        file = getattr(config, file_setting)
        if file is not None:
            changes[secret], *others = read_secrets(file_setting, Path(file))
            changes[accepted] = list(dict.fromkeys([*getattr(config, accepted), *others]))
    return config.replace(**changes) if changes else config


def read_secrets(setting: str, file: Path) -> list[str]:
    """A file's lines: the secret in use, then those accepted beside it. Raises `ConfigError`."""
    try:
        with file.open("rb") as opened:
            data = opened.read(SECRET_FILE_BYTES + 1)
        text = data.decode()
    except OSError as error:
        raise ConfigError(f"{setting}: can't read {file}: {error.strerror}") from None
    except UnicodeDecodeError:
        raise ConfigError(f"{setting}: {file} is not UTF-8 text") from None
    if len(data) > SECRET_FILE_BYTES:
        raise ConfigError(f"{setting}: {file} is longer than {SECRET_FILE_BYTES} bytes")
    secrets = [line.strip() for line in text.splitlines() if line.strip()]
    if not secrets:
        raise ConfigError(f"{setting}: {file} is empty")
    return secrets


def _disagreements(layer: Layer, spellings: frozenset[str]) -> Iterator[tuple[str, str]]:
    """One source may give a setting under two names only if it says the same twice; else one is left out."""
    if "dns_server.origins" in spellings:
        return  # these two add up
    first, *others = sorted(spellings & layer.keys())
    for other in others:
        if layer[first][0] != layer[other][0]:
            yield first, f"{layer[other][1]}: {first} and {other} are one setting and disagree"
            del layer[other]


def variable_of(path: str) -> str:
    """The environment variable of a setting."""
    return PREFIX + path.replace(".", "_").upper()


def _read_environment(environment: Mapping[str, str], wrong: Problems) -> Layer:
    """The settings among the environment's `ASPEN_*` variables."""
    names = {variable_of(path): path for path in setting_types()}
    layer: Layer = {}
    for variable, text in sorted(environment.items()):
        if not variable.startswith(PREFIX) or variable in _OTHER_VARIABLES:
            continue
        if variable.startswith(_OTHER_PREFIXES):
            continue
        source = f"environment variable {variable}"
        if variable not in names:
            wrong.append(("", f"{source}: no such setting{_suggestion(variable, names)}"))
            continue
        _take(layer, names[variable], text, source, wrong, is_text=True)
    return layer


def _read_toml(file: Path, wrong: Problems) -> Layer:
    """The settings in a TOML file. Raises `ConfigError` if it is none."""
    try:
        document = tomllib.loads(file.read_text("utf-8"))
    except OSError as error:
        raise ConfigError(f"can't read the configuration file {file}: {error.strerror}") from None
    except UnicodeDecodeError:
        raise ConfigError(f"{file}: not TOML: it is not UTF-8 text") from None
    except tomllib.TOMLDecodeError as error:
        raise ConfigError(f"{file}: not TOML: {error}") from None
    layer: Layer = {}
    _flatten(document, "", str(file), layer, wrong)
    return layer


def _flatten(table: dict[str, Any], prefix: str, source: str, layer: Layer, wrong: Problems) -> None:
    types = setting_types()
    for key, value in table.items():
        path = prefix + key
        if path in types:
            _take(layer, path, value, source, wrong)
        elif any(name.startswith(path + ".") for name in types):
            if isinstance(value, dict):
                _flatten(value, path + ".", source, layer, wrong)
            else:
                wrong.append(("", f"{source}: {path} is a section, not a value"))
        else:
            hint = f"; {ELSEWHERE[path]}" if path in ELSEWHERE else _suggestion(path, types)
            wrong.append(("", f"{source}: no such setting: {path}{hint}"))


def _read_flags(flags: Mapping[str, Any], wrong: Problems) -> Layer:
    layer: Layer = {}
    for path, value in flags.items():
        if value is None:
            continue
        source = "flag --" + _FLAG_NAMES.get(path, path.rpartition(".")[2].replace("_", "-"))
        _take(layer, path, value, source, wrong, is_text=isinstance(value, str))
    return layer


def _take(
    layer: Layer, path: str, value: Any, source: str, wrong: Problems, *, is_text: bool = False
) -> None:
    """Put a value into a layer, if it is of the setting's type; as text it may spell another type."""
    kind = setting_types()[path]
    if is_text and kind == list[str]:
        value = [part.strip() for part in value.split(",") if part.strip()]
    try:
        layer[path] = (msgspec.convert(value, kind, strict=not is_text), source)
    except msgspec.ValidationError:
        shown = "" if path in SECRET_SETTINGS else f"{value!r} is "
        wrong.append((path, f"{source}: {path}: {shown}not {expected(kind)}"))


def _build(values: dict[str, Any]) -> ClusterBootstrapConfig:
    sections: dict[str, dict[str, Any]] = {}
    for path, value in values.items():
        section, _, name = path.rpartition(".")
        sections.setdefault(section, {})[name] = value
    dns_server = sections.get("dns_server", {})
    if "dns_server.https_config" in sections:
        dns_server["https_config"] = HttpsConfig(**sections["dns_server.https_config"])
    return ClusterBootstrapConfig(
        **sections.get("", {}),
        iroh=IrohConfig(**sections.get("iroh", {})),
        dns_server=DnsServerConfig(**dns_server),
        pkarr=PkarrConfig(**sections.get("pkarr", {})),
    )


def _suggestion(name: str, known: Mapping[str, Any]) -> str:
    import difflib  # on the way to an error only

    close = difflib.get_close_matches(name, known, n=1)
    return f" (did you mean {close[0]}?)" if close else ""
