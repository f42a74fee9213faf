"""The dashboard in a real browser, over real nodes: it shows what the API says, and changes as that does."""

from __future__ import annotations

import base64
import json
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import quote

import browser as browsers
import npm
import pytest
from clients import sign
from cluster import Cluster, NodeProcess, https_settings, running
from playwright.sync_api import Browser, Page, expect

AXE = "axe-core@4.10.3"
TOKEN = "a token that only tests know"
SCRIPT = "<script>document.title = 'run'</script>"
VIEWS = ("", "zones", "packets", "keys/", "peers")

expect.set_options(timeout=browsers.PATIENCE_MS)


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with browsers.chromium() as one:
        yield one


@pytest.fixture(scope="module")
def three(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    """Three nodes in no hurry to elect another leader: a browser that starts takes the whole machine."""
    with running(tmp_path_factory.mktemp("ui"), 3, profile="default") as cluster:
        yield cluster


def ui(node: NodeProcess, view: str = "") -> str:
    return f"{node.addr}/ui/#/{view}"


@contextmanager
def guarded(folder: Path) -> Iterator[NodeProcess]:
    """A node whose admin routes want the token."""
    node = NodeProcess(1, folder)
    node.init = True
    node.settings = {"ASPEN_ADMIN_TOKEN": TOKEN}
    https_settings(node)
    node.start()
    try:
        node.wait_ready()
        yield node
    finally:
        node.end_whatever_is_left()


def put(node: NodeProcess, key: str, value: bytes) -> None:
    assert node.request("PUT", f"/v1/kv/{quote(key, safe='')}", value).status == 200


def zone(node: NodeProcess, name: str, *records: tuple[str, str, str]) -> None:
    """A zone with records of `(name, type, data)`, made anew."""
    node.request("DELETE", f"/v1/zones/{name}")
    made = node.request("POST", "/v1/zones", json.dumps({"name": name, "nameservers": ["ns1"]}).encode())
    assert made.status == 201, made.body
    if not records:
        return
    changes = [
        {"op": "add", "name": owner, "type": kind, "ttl": 300, "data": [data]}
        for owner, kind, data in records
    ]
    answer = node.request("POST", f"/v1/zones/{name}/records", json.dumps({"changes": changes}).encode())
    assert answer.status == 200, answer.body


def cells(page: Page, caption: str) -> list[list[str]]:
    """The texts of a table, row by row."""
    read = "(rows) => rows.map((row) => [...row.cells].map((cell) => cell.innerText.trim()))"
    found: list[list[str]] = page.get_by_role("table", name=caption).locator("tbody tr").evaluate_all(read)
    return found


# --- what each view shows ---------------------------------------------------------------------------


def test_the_leaders_page_shows_the_cluster_as_the_api_has_it(browser: Browser, three: Cluster) -> None:
    leader = three.leader()
    with browsers.opened(browser, ui(leader)) as page:
        expect(page.locator(".verdict")).to_contain_text(f"Node {leader.node_id} (this one) leads")
        expect(page.locator(".map .leader .number")).to_have_text(str(leader.node_id))
        assert page.locator(".map .node").count() == 3
        expect(page.locator(".map .edge text").first).to_have_text("in step")
        status: dict[str, Any] = leader.status() or {}
        table = cells(page, "Members of the cluster")
        assert [int(row[0].split()[0]) for row in table] == [
            member["node_id"] for member in status["members"]
        ]
        assert [row[2] for row in table] == ["0", "0", "0"]
        assert [row[-1] for row in table] == [member["endpoint_id"] for member in status["members"]]
        assert {row[5] for row in table if "this node" not in row[0]} == {"direct"}
        expect(page.locator(".facts")).to_contain_text(f"port {leader.dns_port}")
        expect(page.locator(".pulse")).to_have_text(f"node {leader.node_id} · healthy")
        # Queries come: the plot's figure rises, and the table counts them by transport.
        for _ in range(40):
            leader.dig("nothing.aspen.local.")
        rate = page.locator(".figure", has_text="DNS answers per second").locator(".plot-now")
        expect(rate).not_to_have_text("0")
        udp = page.get_by_role("row", name="udp").locator("td")
        expect(udp.nth(2)).not_to_have_text("0")
        plot = page.get_by_role("img", name="DNS answers per second")
        plot.focus()
        page.keyboard.press("Home")
        expect(page.locator(".plot-reading").first).to_contain_text("s ago:")


def test_a_followers_page_says_what_only_the_leader_knows(browser: Browser, three: Cluster) -> None:
    follower, leader = three.followers()[0], three.leader()
    with browsers.opened(browser, ui(follower)) as page:
        expect(page.locator("p.note").first).to_contain_text(
            f"the dashboard of node {leader.node_id} shows them"
        )
        expect(page.locator(".map .leader .number")).to_have_text(str(leader.node_id))
        expect(page.locator(".map .own .number")).to_have_text(str(follower.node_id))


def test_zones_and_their_records(browser: Browser, single: Cluster) -> None:
    node = single.nodes[0]
    zone(
        node,
        "ui.example.",
        ("www", "A", "192.0.2.1"),
        ("www", "A", "192.0.2.2"),
        ("evil", "TXT", f'"{SCRIPT}"'),
    )
    zone(node, "other.example.")
    with browsers.opened(browser, ui(node, "zones")) as page:
        expect(page.get_by_role("link", name="ui.example.")).to_be_visible()
        told = {each["name"]: each for each in node.request("GET", "/v1/zones").json["zones"]}
        for name, state, serial, records, reads, _ in cells(page, "Zones"):
            assert (state, int(serial), int(records)) == (
                "enabled",
                told[name]["serial"],
                told[name]["records"],
            )
            assert reads == told[name]["settings"]["consistency"]
        page.get_by_label("Filter, or a name").fill("ui.")
        expect(page.get_by_role("link", name="other.example.")).to_be_hidden()
        page.get_by_label("Filter, or a name").fill("deep.below.ui.example")
        page.keyboard.press("Enter")
        expect(page.get_by_role("heading", level=1)).to_have_text("ui.example.")
        data = page.get_by_role("table", name="Records of ui.example.").locator("tbody tr")
        expect(data).to_have_count(told["ui.example."]["records"])
        expect(data.filter(has_text="evil")).to_contain_text(SCRIPT)
        assert page.locator("td script").count() == 0
        page.get_by_label("Name", exact=True).fill("www")
        page.keyboard.press("Enter")
        expect(data).to_have_count(2)
        assert [row[3] for row in cells(page, "Records of ui.example.")] == ["192.0.2.1", "192.0.2.2"]
        page.get_by_label("Type").select_option("MX")
        expect(page.get_by_text("No such records")).to_be_visible()
        with page.expect_download() as download:
            page.get_by_role("button", name="Download as a master file").click()
        saved = Path(download.value.path()).read_text()
        assert saved == node.request("GET", "/v1/zones/ui.example./export").body.decode()


def test_a_packet_is_decoded_and_its_signature_told(browser: Browser, single: Cluster) -> None:
    node = single.nodes[0]
    packet = sign("relay=https://ui.example./", more=("@ A 192.0.2.7", "note TXT \\<b\\>bold\\</b\\>"))
    assert node.put(packet).status == 204
    with browsers.opened(browser, ui(node, "packets")) as page:
        field = page.get_by_label("Public key", exact=True)
        field.fill("too short")
        page.keyboard.press("Enter")
        expect(page.get_by_role("alert").filter(has_text="52 characters")).to_be_visible()
        field.fill(f"_iroh.{packet.z32.upper()}.aspen.local")
        page.keyboard.press("Enter")
        expect(page.get_by_text("verified with this key")).to_be_visible()
        info = node.request("GET", f"/v1/packets/{packet.z32}").json
        facts = page.locator(".packet-facts")
        expect(facts).to_contain_text(f"{len(packet.payload)} of 1,072 octets")
        expect(facts).to_contain_text(str(info["timestamp_us"]))
        rows = {(name, kind): data for name, _, _, kind, data in cells(page, "Records of the packet")}
        assert rows == {
            ("_iroh", "TXT"): '"relay=https://ui.example./"',
            ("@", "A"): "192.0.2.7",
            ("note", "TXT"): '"<b>bold</b>"',
        }
        page.get_by_role("tab", name="Fields").click()
        assert cells(page, "Fields of the payload")[0][:3] == ["0–63", "64", "signature"]
        page.get_by_role("tab", name="Octets").click()
        with page.expect_download() as download:
            page.get_by_role("button", name="Download the payload").click()
        assert Path(download.value.path()).read_bytes() == packet.payload
        # Another packet comes in: the list of changes shows it by itself.
        other = sign("relay=https://later.example./")
        assert node.put(other).status == 204
        expect(page.get_by_role("link", name=other.z32)).to_be_visible()
        assert node.request("DELETE", f"/v1/packets/{packet.z32}").status == 204
        page.get_by_role("button", name="Look up").click()
        expect(facts).to_contain_text("An operator deleted it")
        field.fill("y" * 52)
        page.keyboard.press("Enter")
        expect(page.get_by_text("Nothing is stored under this key").last).to_be_visible()


def test_keys_are_browsed_and_change_as_they_are_written(browser: Browser, single: Cluster) -> None:
    node = single.nodes[0]
    for key, value in {
        "shop/apples": b"12",
        "shop/fruit/pears": b"3",
        "shop/settings": b'{"open": true, "name": "<img src=x onerror=alert(1)>"}',
        "shop/\x00\xff": bytes(range(256)),
    }.items():
        path = quote(key.encode("latin-1"), safe="")
        assert node.request("PUT", f"/v1/kv/{path}", value).status == 200
    with browsers.opened(browser, ui(node, "keys/")) as page:
        page.get_by_role("link", name="shop/", exact=True).click()
        listing = page.get_by_role("table", name="Keys")
        expect(listing.locator("tbody tr")).to_have_count(4)
        assert [row[0] for row in cells(page, "Keys")] == ["\\x00\\xff", "apples", "fruit/", "settings"]
        listing.get_by_role("link", name="settings").click()
        detail = page.get_by_role("region", name="Value", exact=True)
        expect(detail.locator("pre")).to_contain_text('"name": "<img src=x onerror=alert(1)>"')
        assert page.locator("pre img").count() == 0
        listing.get_by_role("link", name="\\x00\\xff").click()
        expect(detail.locator("pre")).to_contain_text("00f0  f0 f1")
        page.reload()
        expect(detail.locator("pre")).to_contain_text("00f0  f0 f1")
        listing.get_by_role("link", name="apples").click()
        expect(detail.locator("pre")).to_have_text("12")
        entry = node.request("GET", "/v1/kv/shop%2Fapples").json
        assert base64.b64decode(entry["value"]) == b"12"
        expect(detail).to_contain_text(f"revision {entry['mod_revision']:,}")
        # Written by somebody else: value, list and changes follow without a reload.
        put(node, "shop/apples", b"13")
        expect(detail.locator("pre")).to_have_text("13")
        put(node, "shop/zucchini", SCRIPT.encode())
        expect(listing.get_by_role("link", name="zucchini")).to_be_visible()
        changes = page.get_by_role("table", name="Changes")
        expect(changes.locator("tbody tr").first).to_contain_text("shop/zucchini")
        assert node.request("DELETE", "/v1/kv/shop%2Fzucchini").status == 200
        expect(listing.get_by_role("link", name="zucchini")).to_be_hidden()
        expect(changes.locator("tbody tr").first).to_contain_text("delete")
        detail.get_by_role("button", name="The value before").click()
        expect(detail.locator("pre")).to_have_text("12")
        page.reload()
        expect(page.get_by_role("region", name="Value", exact=True).locator("pre")).to_have_text("13")
        put(node, "größe/grün", b"no ASCII")
        page.get_by_role("searchbox", name="Look up").fill("größe/grün")
        page.keyboard.press("Enter")
        expect(page.get_by_role("region", name="Value", exact=True).locator("pre")).to_have_text("no ASCII")
        put(node, "..", b"a key that is no way up")
        page.goto(ui(node, "keys/?key=.."))
        expect(page.get_by_role("region", name="Value", exact=True).locator("pre")).to_have_text(
            "a key that is no way up"
        )


def test_a_folder_of_many_keys_costs_a_few_requests(browser: Browser, single: Cluster) -> None:
    node = single.nodes[0]
    pairs = [
        {"key": base64.b64encode(b"many/%d/%04d" % (folder, key)).decode(), "value": ""}
        for folder in range(3)
        for key in range(300)
    ]
    for start in range(0, len(pairs), 100):
        body = json.dumps({"pairs": pairs[start : start + 100]}).encode()
        assert node.request("POST", "/v1/kv", body).status == 200
    with browsers.opened(browser, ui(node)) as page:
        asked: list[str] = []
        page.on("request", lambda request: asked.append(request.url) if "/v1/kv?" in request.url else None)
        page.goto(ui(node, "keys/many/"))
        expect(page.get_by_role("table", name="Keys").locator("tbody tr")).to_have_count(3)
        assert len(asked) <= 4
        page.goto(ui(node, "keys/many/1/"))
        expect(page.get_by_role("table", name="Keys").locator("tbody tr")).to_have_count(200)
        page.get_by_role("button", name="More keys").click()
        expect(page.get_by_role("table", name="Keys").locator("tbody tr")).to_have_count(300)


def test_peers_are_those_of_the_api(browser: Browser, three: Cluster) -> None:
    node = three.nodes[0]
    with browsers.opened(browser, ui(node, "peers")) as page:
        rows = page.get_by_role("table", name="Peers").locator("tbody tr")
        for other in three.nodes[1:]:  # nodes of other tests may be known, too
            expect(rows.filter(has_text=other.identity.z32)).to_contain_text("direct")
        told = {peer["endpoint_id"]: peer for peer in node.request("GET", "/v1/peers").json["peers"]}
        members = {other.identity.z32 for other in three.nodes[1:]}
        for row in cells(page, "Peers"):
            if row[1] not in members:
                continue
            peer = told[row[1]]
            assert int(row[0]) == peer["node_id"]
            assert row[2] == peer["path"] == "direct"
            assert row[4] in {connection["address"] for connection in peer["connections"]}
            assert {"gossip", "raft"} <= set(row[5].split(", "))
        page.get_by_label("Filter").fill(three.nodes[1].identity.z32)
        expect(rows).to_have_count(1)


# --- who may look, and what may go wrong ------------------------------------------------------------


def test_a_dead_follower_shows_on_the_leaders_page(browser: Browser, three: Cluster) -> None:
    leader, killed = three.leader(), three.followers()[0]
    with browsers.opened(browser, ui(leader)) as page:
        expect(page.locator(".map .edge text").first).to_have_text("in step")
        killed.kill()
        expect(page.locator(".map .edge.bad text")).to_have_text("silent")
        row = page.get_by_role("table", name="Members").locator("tr", has_text="no connection")
        expect(row.locator("td").first).to_have_text(str(killed.node_id))
        expect(page.locator(".verdict")).to_contain_text("1 without a connection")
        for number in range(7):
            put(leader, f"lag/{number}", b"more for it to catch up with")
        metrics = leader.request("GET", "/metrics").body.decode()
        lag = re.search(rf'^aspen_raft_peer_lag_entries{{peer="{killed.node_id}"}} (\d+)', metrics, re.M)
        assert lag is not None
        assert int(lag[1]) >= 7
        expect(row.locator("td").nth(2)).to_have_text(lag[1])
        killed.start()
        expect(page.locator(".map .edge.bad")).to_have_count(0)


def test_a_node_with_a_token_asks_for_it_and_it_is_in_no_url(browser: Browser, tmp_path: Path) -> None:
    with guarded(tmp_path / "node") as node:
        with browsers.opened(browser, ui(node)) as page:
            urls: list[str] = []
            page.on("request", lambda request: urls.append(request.url))
            dialog = page.get_by_role("dialog")
            expect(dialog.get_by_label("Token", exact=True)).to_be_focused()
            page.keyboard.press("Escape")
            expect(page.locator("#banner")).to_contain_text("wants its admin token")
            page.get_by_role("button", name="Enter the token").click()
            page.keyboard.type("a wrong one")
            page.keyboard.press("Enter")
            expect(dialog.get_by_role("alert")).to_contain_text("not this node’s")
            page.keyboard.type(TOKEN)
            page.keyboard.press("Enter")
            expect(page.locator(".verdict")).to_contain_text("leads")
            page.reload()  # it was not to be remembered
            dialog.get_by_label("Token", exact=True).fill(TOKEN)
            dialog.get_by_label("Remember").check()
            page.keyboard.press("Enter")
            expect(page.locator(".verdict")).to_contain_text("leads")
            page.reload()
            expect(page.locator(".verdict")).to_contain_text("leads")
            assert dialog.count() == 0
            # A stream carries the token too: fetch reads it, since EventSource could not.
            page.goto(ui(node, "keys/"))
            expect(page.locator(".live.on")).to_be_visible()
            headers = {"Authorization": f"Bearer {TOKEN}"}
            assert node.request("PUT", "/v1/kv/fresh", b"1", headers).status == 200
            expect(page.get_by_role("table", name="Keys").get_by_role("link", name="fresh")).to_be_visible()
            page.get_by_role("button", name="Forget token").click()
            expect(dialog).to_be_visible()
            page.keyboard.press("Escape")
            assert not [url for url in urls if "token" in url.replace("token.js", "") or quote(TOKEN) in url]
            assert page.evaluate("[localStorage.length, sessionStorage.length]") == [0, 0]
            page.get_by_role("button", name="Enter the token").wait_for()
        secure = f"https://{node.host}:{node.settings['ASPEN_DNS_SERVER_HTTPS_CONFIG_PORT']}/ui/#/keys/"
        with browsers.opened(browser, secure, ignore_https_errors=True) as page:
            page.get_by_role("textbox", name="Token").fill(TOKEN)
            page.keyboard.press("Enter")
            expect(page.locator(".live.on")).to_be_visible()
            assert page.evaluate("performance.getEntriesByType('navigation')[0].nextHopProtocol") == "h2"
        assert TOKEN not in node.log()


def test_a_node_that_is_gone_is_told_of_and_found_again(browser: Browser, tmp_path: Path) -> None:
    with running(tmp_path, 1) as alone:
        node = alone.nodes[0]
        with browsers.opened(browser, ui(node)) as page:
            expect(page.locator(".verdict")).to_contain_text("leads")
            node.kill()
            expect(page.locator("#banner")).to_contain_text("The node can’t be reached")
            expect(page.locator(".pulse")).to_contain_text("unreachable")
            node.start()
            node.wait_ready()
            expect(page.locator("#banner")).to_be_hidden()
            expect(page.locator(".pulse")).to_contain_text("healthy")


def test_what_is_not_the_pages_own_does_not_run(browser: Browser, single: Cluster) -> None:
    context = browser.new_context()
    try:
        page = context.new_page()
        page.goto(ui(single.nodes[0]))
        page.locator(".verdict").wait_for()
        violated = page.evaluate(
            """async () => {
                const seen = [];
                addEventListener("securitypolicyviolation", (event) => seen.push(event.effectiveDirective));
                const script = document.createElement("script");
                try { script.text = "document.title = 'run'"; } catch (error) { seen.push(error.name); }
                try { document.body.innerHTML = "<b>markup</b>"; } catch (error) { seen.push(error.name); }
                await fetch("http://192.0.2.1/").catch(() => {});
                const image = new Image(); image.src = "http://192.0.2.1/a.png";
                await new Promise((resolve) => setTimeout(resolve, 100));
                return seen;
            }"""
        )
        assert violated.count("TypeError") == 2
        assert {"connect-src", "img-src"} <= set(violated)
        assert "Overview" in page.title()
    finally:
        context.close()


# --- for everybody ----------------------------------------------------------------------------------


def focused(page: Page) -> str:
    """The id of what has the focus, or the text of a link or button."""
    return str(
        page.evaluate(
            """() => {
                const one = document.activeElement;
                if (one.id && one.role !== "tab") return one.id;
                return one.matches("a, button") ? one.textContent : one.tagName;
            }"""
        )
    )


def until(page: Page, key: str, wanted: str) -> None:
    """Press a key until what is focused says `wanted`."""
    for _ in range(60):
        if wanted in focused(page):
            return
        page.keyboard.press(key)
    raise AssertionError(f"{key} leads to no {wanted!r}")


@pytest.mark.parametrize("view", ["nowhere", "zones/%E0%A4%A", "packets/%zz", "keys/%zz?key=%ff"])
def test_an_address_that_leads_nowhere_says_so(browser: Browser, single: Cluster, view: str) -> None:
    with browsers.opened(browser, ui(single.nodes[0], view)) as page:
        page.locator("h1").wait_for()
        assert page.locator("main").inner_text().strip()
        page.keyboard.press("1")
        expect(page.get_by_role("heading", level=1)).to_have_text("Overview")


def test_all_of_it_by_keyboard(browser: Browser, single: Cluster) -> None:
    node = single.nodes[0]
    zone(node, "keyboard.example.")
    for key in ("by/hand/1", "by/hand/2"):
        put(node, key, b"typed")
    packet = sign("relay=https://keyboard.example./")
    assert node.put(packet).status == 204
    with browsers.opened(browser, ui(node)) as page:
        page.locator(".verdict").filter(has_text="leads").wait_for()
        press = page.keyboard.press
        press("Tab")
        assert focused(page) == "skip"
        assert page.locator("#skip").bounding_box()["y"] >= 0  # type: ignore[index]
        press("Enter")
        assert focused(page) == "main"
        press("2")
        expect(page.get_by_role("heading", name="Zones", level=1)).to_be_focused()
        expect(page.get_by_role("link", name="keyboard.example.")).to_be_visible()
        until(page, "Tab", "example.")
        first = focused(page)
        press("End")
        press("ArrowUp")
        press("ArrowDown")
        press("Home")
        assert focused(page) == first
        until(page, "ArrowDown", "keyboard.example.")
        outline = page.evaluate("getComputedStyle(document.activeElement).outlineStyle")
        assert outline == "solid"
        press("Enter")
        expect(page.get_by_role("heading", name="keyboard.example.", level=1)).to_be_focused()
        press("/")
        assert focused(page) == "lookup-text"
        page.keyboard.type(packet.z32)
        expect(page.locator("#lookup-hint")).to_contain_text("packet")
        press("Enter")
        expect(page.get_by_role("tab", name="Records")).to_be_visible()
        until(page, "Tab", "Records")
        press("ArrowRight")
        expect(page.get_by_role("tab", name="Fields")).to_be_focused()
        expect(page.get_by_role("tab", name="Fields")).to_have_attribute("aria-selected", "true")
        press("End")
        expect(page.get_by_role("tab", name="Octets")).to_be_focused()
        press("/")
        page.keyboard.type("by/hand/1")
        press("Enter")
        expect(page.get_by_role("region", name="Value", exact=True).locator("pre")).to_have_text("typed")
        expect(page.locator("tr[aria-selected=true]")).to_contain_text("1")
        press("?")
        expect(page.get_by_role("dialog", name="Keyboard shortcuts")).to_be_visible()
        press("Escape")
        expect(page.get_by_role("dialog")).to_have_count(0)
        press("t")
        press("t")
        assert page.locator("html").get_attribute("data-theme") == "dark"


def test_narrow_screens_scroll_one_way_only(browser: Browser, single: Cluster) -> None:
    node = single.nodes[0]
    packet = sign("relay=https://narrow.example./")
    assert node.put(packet).status == 204
    zone(node, "narrow.example.", ("a-rather-long-name-of-a-host-in-here", "TXT", f'"{"long " * 40}"'))
    put(node, "narrow/" + "x" * 200, b"y" * 500)
    views = (
        *VIEWS,
        f"packets/{packet.z32}",
        "zones/narrow.example.",
        f"keys/narrow/?key=narrow%2F{'x' * 200}",
    )
    with browsers.opened(browser, ui(node), viewport={"width": 360, "height": 740}) as page:
        for view in views:
            page.goto(ui(node, view))
            page.locator("h1").wait_for()
            expect(page.locator("[aria-busy=true]")).to_have_count(0)
            page.locator("main table, main .empty").first.wait_for()
            width = page.evaluate("document.documentElement.scrollWidth")
            assert width <= 360, f"{view} is {width} wide"
            nav = page.locator("#nav a").last.bounding_box()
            assert nav is not None
            assert nav["x"] + nav["width"] <= 360


def test_dark_is_dark_and_the_choice_is_kept(browser: Browser, single: Cluster) -> None:
    node = single.nodes[0]

    def brightness(page: Page) -> float:
        colour = page.evaluate("getComputedStyle(document.body).backgroundColor")
        return sum(map(float, colour.removeprefix("rgb(").removesuffix(")").split(","))) / 3

    with browsers.opened(browser, ui(node), color_scheme="dark") as page:
        page.locator("h1").wait_for()
        assert brightness(page) < 40
        page.get_by_role("button", name="Theme: auto").click()
        assert brightness(page) > 220
        page.reload()
        assert brightness(page) > 220
    with browsers.opened(browser, ui(node), color_scheme="light") as page:
        page.locator("h1").wait_for()
        assert brightness(page) > 220


def test_nothing_moves_for_who_wants_it_so(browser: Browser, single: Cluster) -> None:
    moving = """[...document.styleSheets].flatMap((sheet) => [...sheet.cssRules])
        .filter((rule) => rule instanceof CSSStyleRule && (rule.style.animationName || rule.style.transition))
        .map((rule) => rule.selectorText)"""
    with browsers.opened(browser, ui(single.nodes[0]), reduced_motion="reduce") as page:
        assert page.evaluate(moving) == [], "outside of a query for those who don't mind"


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_no_view_breaks_a_rule_of_accessibility(browser: Browser, single: Cluster, scheme: str) -> None:
    axe = (npm.installed(AXE) / "node_modules" / "axe-core" / "axe.min.js").read_text()
    node = single.nodes[0]
    packet = sign("relay=https://axe.example./")
    assert node.put(packet).status == 204
    zone(node, "axe.example.")
    put(node, "axe/key", b'{"a": 1}')
    views = (*VIEWS, f"packets/{packet.z32}", "zones/axe.example.", "keys/axe/?key=axe%2Fkey")
    rules = "" if scheme == "light" else "{runOnly: ['color-contrast']}"  # all that differs
    with browsers.opened(browser, ui(node), color_scheme=scheme) as page:
        page.locator(".verdict").filter(has_text="leads").wait_for()
        page.evaluate(axe)
        for view in views:
            page.goto(ui(node, view))
            expect(page.locator("[aria-busy=true]")).to_have_count(0)
            page.locator("main table, main .empty").first.wait_for()
            broken = page.evaluate(f"axe.run({rules}).then((found) => found.violations)")
            assert [(rule["id"], rule["nodes"][0]["html"]) for rule in broken] == [], view
