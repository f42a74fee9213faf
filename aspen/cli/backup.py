"""`aspen cluster backup|verify|restore|recover`: the state as a file, and what to do after a loss."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import IO, TYPE_CHECKING, Annotated, Any, Final

import typer

from aspen.cli.common import (
    EXIT_CODES,
    Addrs,
    Exit,
    Json,
    Token,
    local,
    print_json,
    print_table,
    talk,
)
from aspen.cli.progress import Advance, progress
from aspen.errors import AspenError, InputError

if TYPE_CHECKING:
    from aspen.client import NodeClient
    from aspen.services.recovery import Survivor
    from aspen.state.backup_format import Decoder

_EXAMPLES: Final = {
    "backup": "Example: aspen cluster backup aspen-2027-01-31.backup",
    "restore": "Example: aspen cluster restore aspen.backup --data-dir /var/lib/aspen --node-id 1",
}
DataDir = Annotated[Path, typer.Option(help="The node's data directory.", metavar="DIR")]


def add_commands(app: typer.Typer) -> None:
    app.command(epilog=f"{_EXAMPLES['backup']}\n\n{EXIT_CODES}")(backup)
    app.command(epilog=EXIT_CODES)(verify)
    app.command(epilog=f"{_EXAMPLES['restore']}\n\n{EXIT_CODES}")(restore)
    app.command(epilog=EXIT_CODES)(recover)


def backup(
    file: Annotated[str, typer.Argument(metavar="FILE|-", help="Where to; - is standard output.")],
    as_json: Json = False,
    addr: Addrs = None,
    token: Token = None,
) -> None:
    """Write all that the node asked holds to a file, while it goes on serving.

    It is of one moment, is checked as it comes, and gets its name when it is whole. It holds the cluster's
    secrets (TSIG keys, lists, sealed certificates): it is readable for its owner only.
    """
    from aspen.state.backup_format import Decoder

    async def action(client: NodeClient) -> Decoder:
        decoder = Decoder()
        with _written(file) as out, _Shown("backed up") as step:
            async for part in client.backup():
                for _ in decoder.feed(part):
                    pass
                out.write(part)
                step(decoder)
            decoder.finish()
        return decoder

    decoder = talk(addr, token, as_json, action)
    if file != "-":
        _tell({"file": file, **_about(decoder)}, as_json)


def verify(
    file: Annotated[Path, typer.Argument(help="A backup.", metavar="FILE")],
    as_json: Json = False,
) -> None:
    """Read all of a backup, and say what is in it, or at which byte it is damaged.

    Exits 1 if it is.
    """
    from aspen.services import restore as offline

    def action() -> Decoder:
        with open(file, "rb") as source, _Shown("verified") as step:
            return offline.verify(source, step)

    _tell({"file": str(file), **_about(local(as_json, action))}, as_json)


def restore(
    file: Annotated[Path, typer.Argument(help="A backup.", metavar="FILE")],
    data_dir: DataDir,
    node_id: Annotated[int, typer.Option(help="Id of the node that is to start there.", min=1)],
    address: Annotated[
        list[str] | None,
        typer.Option(help="QUIC address at which others will reach it; repeat it.", metavar="HOST:PORT"),
    ] = None,
    as_json: Json = False,
) -> None:
    """Make a backup the data directory of a new cluster of one node.

    The directory must not exist, be empty, or hold a node's identity.key and nothing else. The cluster
    gets an id of its own: members of the one that was backed up are strangers to it. Start the node there
    with its usual settings (the same cookie, to unseal certificates), then add others as learners.
    """
    from aspen.cli.start_line import knows_cookie, start_line
    from aspen.config import parse_address
    from aspen.node.identity import IDENTITY_FILE
    from aspen.services import restore as offline

    addresses = local(as_json, lambda: tuple(parse_address("--address", text) for text in address or ()))

    def action() -> offline.Restored:
        with open(file, "rb") as source, _Shown("restored") as step:
            return offline.restore(source, data_dir, node_id, data_dir / IDENTITY_FILE, addresses, step)

    done = local(as_json, action)
    made = {
        "data_dir": str(data_dir),
        "node_id": done.node_id,
        "endpoint_id": _z32(done.endpoint_id),
        "cluster_id": done.cluster_id.hex(),
        "from_cluster_id": done.header.cluster_id.hex(),
        "index": done.header.index,
        "pairs": done.header.pairs_total,
        "start": start_line(node_id, data_dir, addresses),
    }
    if as_json:
        print_json(made)
        return
    print(
        f"restored {done.header.pairs_total} pairs, the state of index {done.header.index}, into {data_dir}"
    )
    print(f"cluster {made['cluster_id']}, with node {node_id} ({made['endpoint_id']}) as its only voter")
    cookie = "" if knows_cookie() else " (ASPEN_COOKIE must hold the old cluster's cookie, or a new one)"
    print(f"start it{cookie}:\n  {made['start']}")


def recover(
    data_dir: DataDir,
    accept_loss: Annotated[
        bool,
        typer.Option("--accept-loss", help="Do it, and give up every write that only the lost members have."),
    ] = False,
    as_json: Json = False,
) -> None:
    """Make a survivor a cluster of its own, when most voters are lost for good.

    Only then: while a majority lives, or can be started again with its data, start it instead, and
    nothing is lost. Stop all survivors first; without --accept-loss this only shows what the node has.
    Recover the one whose log ends with the highest term, and of these the highest index; wipe the data of
    the others and add them again as learners. Lost members must never be started with their old data: they
    are not let in, but several of them may be a majority to each other, and answer beside the new cluster.
    """
    from aspen.services.recovery import StoppedNode

    def action() -> dict[str, Any]:
        with StoppedNode(data_dir) as node:
            told = _survivor(node.survivor)
            if not as_json:
                _print_survivor(node.survivor, told)
            if accept_loss:
                if told["voters"] == [told["node_id"]]:
                    raise AspenError(
                        "this node is the only voter: start it, there is nothing to recover from"
                    )
                told["new_cluster_id"] = node.recover().cluster_id.hex()
            return told

    told = local(as_json, action)
    if as_json:
        print_json({"recovered": accept_loss, **told})
    elif accept_loss:
        print(f"node {told['node_id']} is now cluster {told['new_cluster_id']}, alone. Start it, take a")
        print("backup, wipe the data of all other members (identity.key too), and add them as learners.")
    else:
        print("Nothing was changed. What only the lost members have is given up by a recovery: if that is")
        print("what you want, say --accept-loss.")
    if not accept_loss:
        raise typer.Exit(Exit.FAILED)


# --- what is shown ------------------------------------------------------------------------------


def _about(decoder: Decoder) -> dict[str, Any]:
    header = decoder.header
    if header is None:
        raise InputError("not a backup")  # `finish` has refused it before
    return {
        "bytes": decoder.offset,
        "chunks": decoder.chunks,
        "pairs": decoder.pairs,
        "cluster_id": header.cluster_id.hex(),
        "node_id": header.node_id,
        "index": header.index,
        "term": header.term,
        "revision": header.revision,
        "created_at": _time(header.created_at_ms),
        "aspen_version": header.aspen_version,
        "members": [
            {"node_id": m.node_id, "endpoint_id": _z32(m.endpoint_id), "voter": m.voter}
            for m in header.members
        ],
        "tables": header.pairs,
    }


def _tell(about: dict[str, Any], as_json: bool) -> None:
    if as_json:
        print_json(about)
        return
    members = ", ".join(str(member["node_id"]) for member in about["members"])
    print(
        f"{about['file']}: whole; {about['pairs']} pairs in {about['chunks']} chunks, {about['bytes']} bytes"
    )
    print(f"cluster {about['cluster_id']} (members {members}), as node {about['node_id']} had it")
    position = f"index {about['index']}, term {about['term']}, revision {about['revision']}"
    print(f"at {about['created_at']}: {position}; aspen {about['aspen_version']}")
    print_table(None, ("table", "pairs"), [(name, str(n)) for name, n in about["tables"].items() if n])


def _survivor(survivor: Survivor) -> dict[str, Any]:
    return {
        "node_id": survivor.node_id,
        "cluster_id": survivor.roster.cluster_id.hex(),
        "voters": list(survivor.roster.conf_state.voters),
        "term": survivor.term,
        "last_index": survivor.last_index,
        "last_term": survivor.last_term,
        "commit_index": survivor.commit_index,
        "applied_index": survivor.applied_index,
        "newest_write": _time(survivor.newest_write_ms),
        "disk_written": _time(survivor.disk_written_ms),
    }


def _print_survivor(survivor: Survivor, told: dict[str, Any]) -> None:
    voters = survivor.roster.conf_state.voters
    others = [str(m.node_id) for m in survivor.roster.members if m.node_id != survivor.node_id]
    print(
        f"node {survivor.node_id} of cluster {told['cluster_id']}; voters are {', '.join(map(str, voters))}"
    )
    print(f"its log ends at index {survivor.last_index}, term {survivor.last_term};")
    print(
        f"it knows that entries up to {survivor.commit_index} were committed: those after it are kept as well"
    )
    print(f"newest write here: {told['newest_write']}; last written to disk: {told['disk_written']}")
    if others:
        print(f"a recovery sends away: {', '.join(others)}")


def _time(ms: int) -> str:
    return datetime.fromtimestamp(ms / 1000, UTC).isoformat(timespec="seconds") if ms else "never"


def _z32(key: bytes) -> str:
    from aspen.z32 import encode_key

    return encode_key(key)


# --- files and progress -------------------------------------------------------------------------


@contextmanager
def _written(file: str) -> Iterator[IO[bytes]]:
    """A file that gets its name when the block ends without error, and is on disk then."""
    if file == "-":
        yield sys.stdout.buffer
        sys.stdout.buffer.flush()
        return
    target = Path(file)
    if not target.name:
        raise InputError(f"{file!r} is not the name of a file")
    aside = target.with_name(target.name + ".part")
    descriptor = os.open(aside, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    try:
        with os.fdopen(descriptor, "wb") as out:
            yield out
            out.flush()
            os.fsync(out.fileno())
        os.replace(aside, target)
    except BaseException:
        aside.unlink(missing_ok=True)
        raise


class _Shown:
    """Progress in pairs, as a context manager: how many there are is known once the header was read."""

    def __init__(self, what: str) -> None:
        self._what = what
        self._stack = ExitStack()
        self._advance: Advance | None = None
        self._pairs = 0

    def __enter__(self) -> Callable[[Decoder], None]:
        return self._step

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def _step(self, decoder: Decoder) -> None:
        if decoder.header is None:
            return
        if self._advance is None:
            bar = progress(f"pairs {self._what}:", decoder.header.pairs_total)
            self._advance = self._stack.enter_context(bar)
        self._advance(decoder.pairs - self._pairs, decoder.pairs)
        self._pairs = decoder.pairs
