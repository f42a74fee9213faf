"""The dashboard's files: what they are served with, to whom, and that they ask nobody else for anything."""

from __future__ import annotations

import re
from importlib.resources import files
from pathlib import Path

import pytest
from http_fakes import Client, Serve

from aspen.http.ui import POLICY, UiRoutes

TOKEN = "a token of tests"
FOLDER = files("aspen") / "ui"
NAMES = sorted(entry.name for entry in FOLDER.iterdir())


async def test_every_file_is_served_under_the_policy_with_its_type_and_tag(client: Client) -> None:
    types = {"html": "text/html", "css": "text/css", "js": "text/javascript", "svg": "image/svg+xml"}
    for name in NAMES:
        answer = await client.get(f"/ui/{name}")
        assert answer.status == 200
        assert answer.body == (FOLDER / name).read_bytes()
        assert answer.headers["content-type"].startswith(types[name.rpartition(".")[2]])
        assert answer.headers["content-security-policy"] == POLICY
        assert answer.headers["x-content-type-options"] == "nosniff"
        assert answer.headers["referrer-policy"] == "no-referrer"
        assert answer.headers["cache-control"] == "no-cache"
        assert "access-control-allow-origin" not in answer.headers
        again = await client.get(f"/ui/{name}", If_None_Match=f'W/"other", {answer.headers["etag"]}')
        assert (again.status, again.body, again.headers["etag"]) == (304, b"", answer.headers["etag"])


async def test_the_page_is_the_folder_and_links_to_it_lead_there(client: Client) -> None:
    moved = await client.get("/ui")
    assert (moved.status, moved.headers["location"]) == (308, "ui/")
    page = await client.get("/ui/")
    assert page.body == (FOLDER / "index.html").read_bytes()
    head = await client.request("HEAD", "/ui/")
    assert (head.status, head.body, head.headers["etag"]) == (200, b"", page.headers["etag"])


def test_the_policy_lets_nothing_in_from_elsewhere_and_nothing_inline() -> None:
    rules = dict(rule.split(" ", 1) for rule in POLICY.split("; "))
    assert rules["default-src"] == "'none'"
    assert {rules[name] for name in ("script-src", "style-src", "connect-src")} == {"'self'"}
    assert rules["frame-ancestors"] == rules["form-action"] == rules["base-uri"] == "'none'"
    assert "unsafe" not in POLICY
    assert rules["require-trusted-types-for"] == "'script'"


@pytest.mark.parametrize("name", NAMES)
def test_no_file_names_another_host_or_makes_markup_of_text(name: str) -> None:
    text = (FOLDER / name).read_text()
    hosts = set(re.findall(r"(?:https?:)?//([\w.-]+\.\w+)", text))
    assert hosts <= {"www.w3.org", "relay.example"}, "a namespace, and an example that is shown"
    for word in ("innerHTML", "outerHTML", "insertAdjacentHTML", "document.write", "eval(", "new Function"):
        assert word not in text
    if name.endswith(".html"):
        assert not re.search(r"\sstyle=|<style|\son\w+=|<script>", text)


@pytest.mark.parametrize(
    "path", ["/ui/nothing.js", "/ui/../admin.py", "/ui/%2e%2e/limits.py", "/ui/a/b", "/ui//"]
)
async def test_what_the_dashboard_does_not_carry_is_not_found(client: Client, path: str) -> None:
    assert (await client.get(path)).error == (404, "not_found")


async def test_it_takes_no_parameters_and_no_other_methods(client: Client) -> None:
    assert (await client.get("/ui/?token=secret")).error == (400, "bad_query")
    assert (await client.put("/ui/app.js", b"x")).error == (405, "method_not_allowed")


async def test_a_page_needs_no_token_and_may_be_linked_to_but_what_it_asks_for_does(serve: Serve) -> None:
    server = await serve(admin_token=TOKEN)
    client = Client(server.address)
    assert (await client.get("/ui/", Sec_Fetch_Site="cross-site", Sec_Fetch_Mode="navigate")).status == 200
    assert (await client.get("/v1/cluster/status")).error == (401, "unauthorized")
    assert (await client.get("/metrics")).error == (401, "unauthorized")


async def test_without_a_token_it_answers_to_loopback_names_alone(client: Client) -> None:
    assert (await client.get("/ui/", Host="aspen.example")).error == (403, "forbidden_host")
    assert (await client.get("/ui/", Host="localhost")).status == 200


async def test_a_listener_open_to_the_network_has_no_dashboard(serve: Serve) -> None:
    server = await serve(listen=("0.0.0.0", 0), admin_listen=("127.0.0.1", 0))
    assert (await Client(("127.0.0.1", server.address[1])).get("/ui/")).error == (404, "not_found")
    assert server.admin_address is not None
    assert (await Client(server.admin_address).get("/ui/")).status == 200


def test_nothing_lies_in_the_folder_that_is_not_served() -> None:
    assert UiRoutes().names == NAMES


def test_every_metric_that_the_dashboard_reads_is_one_a_node_exports() -> None:
    told = (Path(__file__).parents[2] / "docs" / "metrics.md").read_text()
    read = {
        re.sub(r"_(count|bucket)$", "", name)
        for file in NAMES
        for name in re.findall(r"aspen_[a-z_]+", (FOLDER / file).read_text())
    }
    assert len(read) > 10
    assert {name for name in read if f"`{name}`" not in told} == set()
