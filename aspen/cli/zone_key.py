"""`aspen zone key`: the TSIG keys that sign transfers, updates and NOTIFY.

A secret is made up by the node and printed once, or read from standard input; never an argument,
which other users of the machine could see.
"""

from __future__ import annotations

import base64
import binascii
import sys
from typing import Annotated, Any, Literal

import typer

from aspen.cli.common import Addrs, Json, Token, local, new_app, print_json, print_table, talk
from aspen.errors import InputError
from aspen.limits import TSIG_SECRET_BYTES

app = new_app("TSIG keys, for transfers, updates and NOTIFY.")

Name = Annotated[str, typer.Argument(help="The key's name, a domain name.", metavar="NAME")]


@app.command()
def add(
    name: Name,
    algorithm: Annotated[
        Literal["hmac-sha256", "hmac-sha384", "hmac-sha512"], typer.Option(help="The hash to sign with.")
    ] = "hmac-sha256",
    stdin: Annotated[
        bool, typer.Option("--secret-stdin", help="Read the secret from standard input, in base64.")
    ] = False,
    replace: Annotated[bool, typer.Option("--replace", help="Exchange a key that is there.")] = False,
    as_json: Json = False,
    addr: Addrs = None,
    token: Token = None,
) -> None:
    """Add a key. Prints it as a clause for BIND's tools (nsupdate -k, dig -k) if the secret is new."""
    secret = local(as_json, _read_secret) if stdin else None
    added = talk(
        addr, token, as_json, lambda client: client.tsig_key_put(name, algorithm, secret, replace=replace)
    )
    if as_json:
        print_json(added)
    elif "secret" in added:
        print(
            f'key "{added["name"]}" {{\n\talgorithm {added["algorithm"]};\n\tsecret "{added["secret"]}";\n}};'
        )
    else:
        print(f"added {added['name']} ({added['algorithm']})")


@app.command("list")
def list_keys(as_json: Json = False, addr: Addrs = None, token: Token = None) -> None:
    """List the keys by name, without their secrets."""
    keys: list[dict[str, Any]] = talk(addr, token, as_json, lambda client: client.tsig_keys())
    if as_json:
        print_json({"keys": keys})
    else:
        print_table(None, ("key", "algorithm"), [(key["name"], key["algorithm"]) for key in keys])


@app.command()
def remove(name: Name, as_json: Json = False, addr: Addrs = None, token: Token = None) -> None:
    """Remove a key: what is signed with it is refused from now on. Exits 3 if there is none."""
    removed = talk(addr, token, as_json, lambda client: client.tsig_key_delete(name))
    if as_json:
        print_json(removed)
    else:
        print(f"removed {removed['name']}")


def _read_secret() -> str:
    """Raises `InputError`, without the secret."""
    text = "".join(sys.stdin.read(4 * TSIG_SECRET_BYTES).split())
    try:
        base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError):
        raise InputError("the secret on standard input is not base64") from None
    if not text:
        raise InputError("there is no secret on standard input")
    return text
