"""`aspen kv lease`: times to live that keys share."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from aspen.cli.common import (
    Addrs,
    Consistency,
    Json,
    Token,
    json_bytes,
    new_app,
    print_json,
    print_table,
    talk_to_any,
    text_or_escaped,
)

if TYPE_CHECKING:
    from aspen.client import LeaseInfo
    from aspen.client.kv import KvCalls

app = new_app("Leases: keys attached to one are deleted when it ends.")

Id = Annotated[int, typer.Argument(min=1, help="The lease.", metavar="LEASE")]


@app.command()
def grant(
    ttl: Annotated[float, typer.Argument(min=1, max=31_536_000, metavar="SECONDS", help="Its time to live.")],
    once: Annotated[str | None, typer.Option(metavar="ID", help="Idempotency key.")] = None,
    as_json: Json = False,
    addr: Addrs = None,
    token: Token = None,
) -> None:
    """Make a lease and print its number."""
    granted = talk_to_any(
        addr, token, as_json, lambda client: client.lease_grant(round(ttl * 1_000), once=once)
    )
    print_json({"lease": granted.lease, "ttl_ms": granted.ttl_ms}) if as_json else print(granted.lease)


@app.command("keep-alive")
def keep_alive(
    lease: Id,
    forever: Annotated[bool, typer.Option("--forever", help="Go on, until interrupted.")] = False,
    as_json: Json = False,
    addr: Addrs = None,
    token: Token = None,
) -> None:
    """Begin the lease's time anew."""

    import asyncio

    async def action(client: KvCalls) -> LeaseInfo:
        while True:
            renewed = await client.lease_keep_alive(lease)
            if not forever:
                return renewed
            await asyncio.sleep(renewed.ttl_ms / 3_000)

    renewed = talk_to_any(addr, token, as_json, action)
    if as_json:
        print_json({"lease": renewed.lease, "ttl_ms": renewed.ttl_ms})
    else:
        print(f"renewed for {renewed.ttl_ms / 1_000:g} s")


@app.command()
def revoke(lease: Id, as_json: Json = False, addr: Addrs = None, token: Token = None) -> None:
    """End the lease and delete its keys."""
    written = talk_to_any(addr, token, as_json, lambda client: client.lease_revoke(lease))
    if as_json:
        print_json({"lease": lease, "deleted": written.changed, "revision": written.revision})
    else:
        print(f"revoked; {written.changed} keys deleted")


@app.command()
def show(
    lease: Id,
    consistency: Consistency = "consistent",
    as_json: Json = False,
    addr: Addrs = None,
    token: Token = None,
) -> None:
    """Show the lease and its first keys."""
    found = talk_to_any(addr, token, as_json, lambda client: client.lease_get(lease, consistency))
    if as_json:
        attached = [json_bytes("key", key) for key in found.attached]
        print_json({**_json(found), "attached": attached})
    else:
        print(f"lease {found.lease}: {_times(found)}, {found.keys} keys")
        for key in found.attached:
            print(f"  {text_or_escaped(key)}")


@app.command("list")
def list_(
    consistency: Consistency = "consistent",
    as_json: Json = False,
    addr: Addrs = None,
    token: Token = None,
) -> None:
    """List all leases."""

    async def action(client: KvCalls) -> list[LeaseInfo]:
        found: list[LeaseInfo] = []
        while True:
            after = found[-1].lease if found else 0
            page = await client.leases(after=after, consistency=consistency)
            found += page.leases
            if not page.more:
                return found

    found = talk_to_any(addr, token, as_json, action)
    if as_json:
        print_json({"leases": [_json(one) for one in found]})
        return
    rows = [
        (str(one.lease), f"{one.ttl_ms / 1_000:g}", f"{one.remaining_ms / 1_000:.1f}", str(one.keys))
        for one in found
    ]
    print_table(None, ("lease", "ttl s", "left s", "keys"), rows)


def _json(lease: LeaseInfo) -> dict[str, int]:
    return {
        "lease": lease.lease,
        "ttl_ms": lease.ttl_ms,
        "remaining_ms": lease.remaining_ms,
        "keys": lease.keys,
    }


def _times(lease: LeaseInfo) -> str:
    return f"{lease.ttl_ms / 1_000:g} s to live, about {lease.remaining_ms / 1_000:.1f} s left"
