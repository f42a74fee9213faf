// The page around the views: where one is (the part of the URL behind #), the header, the keyboard.

import { askAgain, hasToken, onToken, useToken } from "./api.js";
import { failed, h, say, setText, show } from "./dom.js";
import { ago, keyPath, keyQuery, keyTyped } from "./format.js";
import * as keys from "./keys.js";
import { live } from "./live.js";
import * as overview from "./overview.js";
import * as packets from "./packets.js";
import * as peers from "./peers.js";
import * as zones from "./zones.js";

const VIEWS = { "": overview, zones, packets, keys, peers };
const SHORTCUTS = [
  ["/", "Go to the look-up"],
  ["1 … 5", "Overview, Zones, Packets, Keys, Peers"],
  ["↑ ↓", "Move in a list; Enter opens"],
  ["← →", "Move between tabs, or through a plot’s values"],
  ["t", "Light, dark, or as the system is"],
  ["?", "This list"],
];

const main = document.getElementById("main");
const banner = document.getElementById("banner");
const lookup = document.getElementById("lookup");
const lookupText = document.getElementById("lookup-text");
let leaving = new AbortController();

// --- where one is ---

function go(hash) {
  if (location.hash === hash) open();
  else location.hash = hash;
}

function place() {
  const [path, query = ""] = location.hash.replace(/^#\/?/, "").split("?");
  const [name, ...rest] = path.split("/");
  return { name, rest: rest.join("/"), query: new URLSearchParams(query), escaped: query };
}

function open(first = false) {
  leaving.abort();
  leaving = new AbortController();
  const { name, ...where } = place();
  const view = VIEWS[name];
  for (const link of document.querySelectorAll("#nav a")) {
    if (link.dataset.view === name) link.setAttribute("aria-current", "page");
    else link.removeAttribute("aria-current");
  }
  if (!view) {
    show(
      main,
      h("h1", { tabindex: "-1" }, "There is no such view"),
      h("p", null, h("a", { href: "#/" }, "Overview")),
    );
    return;
  }
  main.className = `view-${name || "overview"}`;
  try {
    view.mount(main, { signal: leaving.signal, go, ...where });
  } catch (error) {
    show(main, h("h1", { tabindex: "-1" }, view.title), failed("This address can’t be read", error));
  }
  entitle();
  if (first === true) return;
  window.scrollTo(0, 0);
  main.querySelector("h1")?.focus({ preventScroll: true });
}

function entitle() {
  const view = VIEWS[place().name];
  const node = live.status ? ` · node ${live.status.node_id}` : "";
  document.title = `${view?.title ?? "Not found"}${node} · Aspen`;
}

// --- the header ---

function navigation() {
  const links = Object.entries(VIEWS).map(([name, view]) =>
    h("a", { href: name === "keys" ? "#/keys/" : `#/${name}`, "data-view": name }, view.title),
  );
  show(document.getElementById("nav"), links);
}

const health = h("a", { class: "pulse", href: "#/" }, "…");
const themes = h("button", { type: "button", class: "tool", onclick: turnTheme });
const help = h(
  "button",
  { type: "button", class: "tool", "aria-label": "Keyboard shortcuts", onclick: shortcuts },
  "?",
);
const token = h(
  "button",
  { type: "button", class: "tool", hidden: true, onclick: () => (useToken(null), live.now()) },
  "Forget token",
);

function theme() {
  return document.documentElement.dataset.theme ?? "auto";
}

function turnTheme() {
  const next = { auto: "light", light: "dark", dark: "auto" }[theme()];
  if (next === "auto") delete document.documentElement.dataset.theme;
  else document.documentElement.dataset.theme = next;
  try {
    if (next === "auto") localStorage.removeItem("aspen-theme");
    else localStorage.setItem("aspen-theme", next);
  } catch {
    // It lasts as long as the page.
  }
  nameTheme();
  say(`Theme: ${themes.textContent}`);
}

function nameTheme() {
  const name = { auto: "Auto", light: "Light", dark: "Dark" }[theme()];
  setText(themes, name);
  themes.setAttribute("aria-label", `Theme: ${name.toLowerCase()}. Change`);
}

function shortcuts() {
  const dialog = h(
    "dialog",
    { class: "dialog", "aria-label": "Keyboard shortcuts" },
    h("h2", null, "Keyboard"),
    h(
      "dl",
      { class: "keys-list" },
      SHORTCUTS.map(([key, what]) => h("div", null, h("dt", null, h("kbd", null, key)), h("dd", null, what))),
    ),
    h(
      "form",
      { method: "dialog" },
      h("p", { class: "buttons" }, h("button", { type: "submit", class: "primary" }, "Close")),
    ),
  );
  document.body.append(dialog);
  dialog.addEventListener("close", () => dialog.remove());
  dialog.showModal();
}

// --- how the node is ---

let told = null;

function pulse() {
  const { status, health: state, error } = live;
  token.hidden = !hasToken();
  if (error) {
    const since = live.answeredAt ? ` Figures are those of ${ago(Date.now() - live.answeredAt)}.` : "";
    const wants = error.status === 401;
    const advice = wants
      ? ""
      : error.status === 0
        ? " Is it running? It is asked again every two seconds."
        : "";
    if (banner.dataset.text !== error.reason) {
      banner.dataset.text = error.reason;
      show(
        banner,
        h(
          "span",
          null,
          `${wants ? "This node wants its admin token." : `${error.reason[0].toUpperCase()}${error.reason.slice(1)}.`}${advice}`,
        ),
        h("span", { class: "since" }),
        wants ? h("button", { type: "button", onclick: signIn }, "Enter the token") : null,
      );
    }
    setText(banner.querySelector(".since"), since);
  } else banner.dataset.text = "";
  banner.hidden = !error;
  document.body.classList.toggle("cut-off", Boolean(error));
  if (!status) return;
  const word = error ? "unreachable" : (state?.status ?? "–");
  setText(health, `node ${status.node_id} · ${word}`);
  health.className = `pulse ${error ? "bad" : ({ healthy: "well", degraded: "warn", unhealthy: "bad" }[word] ?? "")}`;
  setText(
    document.getElementById("foot"),
    `Aspen ${status.version} · this page shows node ${status.node_id} alone, and what it knows of the others`,
  );
  const news = `${word}, ${status.leader_id ? `node ${status.leader_id} leads` : "no leader"}`;
  if (told !== null && told !== news) say(news);
  told = news;
  entitle();
}

function signIn() {
  askAgain();
  banner.dataset.text = "";
  live.now();
  open(true);
}

// --- look-up ---

/** Where what was typed leads: `[title, hash]`. */
function destination(text) {
  const wanted = text.trim();
  if (!wanted) return null;
  const key = packets.keyIn(wanted);
  if (key) return ["packet", `#/packets/${key}`];
  if (/^[\w*-]+(\.[\w*-]+)*\.?$/.test(wanted) && wanted.includes("."))
    return ["zone", `#/zones?q=${encodeURIComponent(wanted)}`];
  const typed = keyTyped(wanted);
  return ["key", `#/keys/${keyPath(typed.slice(0, typed.lastIndexOf("/") + 1))}?key=${keyQuery(typed)}`];
}

function hint() {
  const found = destination(lookupText.value);
  const place = document.getElementById("lookup-hint");
  place.hidden = !found;
  if (found)
    setText(
      place,
      {
        packet: "Enter: the packet of this key",
        zone: "Enter: zones of this name",
        key: "Enter: this key of the key-value store",
      }[found[0]],
    );
}

lookup.addEventListener("submit", (event) => {
  event.preventDefault();
  const found = destination(lookupText.value);
  if (!found) return;
  lookupText.value = "";
  hint();
  go(found[1]);
});
lookupText.addEventListener("input", hint);
lookupText.addEventListener("blur", () => (document.getElementById("lookup-hint").hidden = true));
lookupText.addEventListener("focus", hint);

// --- the keyboard ---

document.addEventListener("keydown", (event) => {
  const typing = event.target.closest("input, select, textarea, dialog");
  if (event.key === "Escape" && event.target === lookupText) main.focus();
  if (typing || event.ctrlKey || event.metaKey || event.altKey) return;
  const view = Object.keys(VIEWS)["12345".indexOf(event.key)];
  if (event.key === "/") {
    event.preventDefault();
    lookupText.focus();
  } else if (event.key === "?") shortcuts();
  else if (event.key === "t") turnTheme();
  else if (view !== undefined && event.key.length === 1) go(`#/${view}${view === "keys" ? "/" : ""}`);
});

document.getElementById("skip").addEventListener("click", (event) => {
  event.preventDefault();
  main.focus();
  main.scrollIntoView();
});

navigation();
nameTheme();
show(document.getElementById("tools"), health, token, themes, help);
onToken(() => (token.hidden = !hasToken()));
window.addEventListener("hashchange", open);
live.follow(pulse);
live.start();
open(true);
