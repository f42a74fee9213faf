// The key-value store: folders made of keys' prefixes, values of any octets, and every change as it happens.
// Only reads: to write, there are `aspen kv` and the API.

import { json, watch } from "./api.js";
import { badge, empty, failed, h, roving, row, show, table } from "./dom.js";
import { Feed } from "./feed.js";
import { asText, count, keyOf, keyPath, keyQuery, keyText, keyTyped } from "./format.js";
import { Value } from "./value.js";

export const title = "Keys";

const ROWS = 200; // of a listing, at once
const REQUESTS = 25; // for one listing, at most
const SHOWN = 40; // changes
const [SOON_MS, CALM_MS] = [120, 1_500]; // until the list is read again: after one change, and amid many
const LISTING = [
  ["Key", "mono"],
  ["Changed at", "number"],
  ["Version", "number"],
  ["Lease", "number"],
];
const CHANGES = [["Change"], ["Key", "mono wrap"], ["Revision", "number"]];
const SEPARATORS = ["/", ":", "."];

/** The first key behind all that begin with `prefix`; null if there is none. */
export function behind(prefix) {
  const whole = prefix.replace(/\u00ff+$/, "");
  return whole ? whole.slice(0, -1) + String.fromCharCode(whole.charCodeAt(whole.length - 1) + 1) : null;
}

/** Folders and keys directly under a prefix. What lies in a folder is skipped, not read. */
async function list(prefix, separator, start, signal) {
  const found = new Map();
  const end = behind(prefix);
  let revision;
  let more = true;
  for (let asked = 0; more && found.size < ROWS && asked < REQUESTS; asked++) {
    const range = `start=${keyQuery(start)}${end === null ? "" : `&end=${keyQuery(end)}`}`;
    const page = await json(`/v1/kv?${range}&limit=${ROWS}&keys_only=true&consistency=stale`, { signal });
    revision ??= page.revision;
    for (const entry of page.entries) {
      const key = atob(entry.key);
      const at = separator ? key.indexOf(separator, prefix.length) : -1;
      if (at < 0) found.set(key, { ...entry, key });
      else found.set(key.slice(0, at + 1), { folder: true, key: key.slice(0, at + 1) });
    }
    more = page.more && page.entries.length > 0;
    const last = [...found.values()].at(-1);
    if (more) start = last.folder ? behind(last.key) : `${last.key}\0`;
    if (start === null) more = false;
  }
  return { items: [...found.values()], revision: revision ?? 0, next: more ? start : null };
}

export function mount(root, context) {
  const { query } = context;
  const prefix = keyOf(context.rest ?? "");
  const separator = query.get("by") ?? "/";
  const view = new Browser(prefix, separator, context);
  show(root, view.element);
  // As it stands there: its octets need not be UTF-8, which URLSearchParams would make of them.
  const chosen = /(?:^|&)key=([^&]*)/.exec(context.escaped)?.[1];
  view.begin(chosen === undefined ? null : keyOf(chosen));
}

function link(prefix, separator, key) {
  const asked = [
    separator === "/" ? null : `by=${encodeURIComponent(separator)}`,
    key === undefined ? null : `key=${keyQuery(key)}`,
  ];
  const query = asked.filter(Boolean).join("&");
  return `#/keys/${keyPath(prefix)}${query ? `?${query}` : ""}`;
}

class Browser {
  constructor(prefix, separator, { go, signal }) {
    Object.assign(this, {
      prefix,
      separator,
      signal,
      items: [],
      next: null,
      fresh: new Set(),
      extended: false,
    });
    this.listing = h(
      "div",
      { class: "listing", "aria-busy": "true" },
      h("p", { class: "quiet" }, "Loading keys…"),
    );
    this.value = new Value(signal);
    const nothing = h(
      "p",
      { class: "quiet note" },
      "Changes of keys under this prefix appear here as they happen.",
    );
    this.feed = new Feed("Changes", CHANGES, SHOWN, (change) => this.#change(change), nothing);
    this.grid = table("Keys", LISTING, []);
    this.refresh = roving(this.grid, ".row-link");
    const input = h("input", {
      id: "key-prefix",
      class: "mono",
      autocomplete: "off",
      autocapitalize: "none",
      spellcheck: "false",
      value: asText(Uint8Array.from(prefix, (char) => char.charCodeAt(0))) ?? "",
    });
    const by = h(
      "select",
      { id: "key-by" },
      SEPARATORS.map((each) => h("option", { value: each, selected: each === separator }, each)),
      h("option", { value: "", selected: separator === "" }, "none"),
    );
    const form = h(
      "form",
      { class: "filter" },
      h("label", { for: "key-prefix" }, "Prefix"),
      input,
      h("label", { for: "key-by" }, "Folders by"),
      by,
      h("button", { type: "submit" }, "Go"),
    );
    form.addEventListener("submit", (event) => {
      event.preventDefault();
      go(link(keyTyped(input.value), by.value));
    });
    by.addEventListener("change", () => go(link(prefix, by.value)));
    this.element = h(
      "div",
      null,
      h(
        "div",
        { class: "head" },
        h("h1", { tabindex: "-1" }, "Keys"),
        h("p", { class: "verdict" }, "The key-value store, as this node’s replica has it."),
      ),
      form,
      this.#crumbs(),
      h("div", { class: "halves keys" }, h("div", null, this.listing), this.value.element),
      h("section", null, h("h2", null, "Changes ", this.feed.state), this.feed.element),
    );
  }

  #crumbs() {
    const parts = [["All keys", ""]];
    if (this.separator) {
      for (
        let at = this.prefix.indexOf(this.separator);
        at >= 0;
        at = this.prefix.indexOf(this.separator, at + 1)
      ) {
        parts.push([
          keyText(this.prefix.slice(parts.at(-1)[1].length, at + 1)),
          this.prefix.slice(0, at + 1),
        ]);
      }
    }
    if (parts.at(-1)[1] !== this.prefix)
      parts.push([`${keyText(this.prefix.slice(parts.at(-1)[1].length))}…`, this.prefix]);
    return h(
      "nav",
      { class: "crumbs", "aria-label": "Prefix" },
      h(
        "ol",
        null,
        parts.map(([text, prefix], at) =>
          h(
            "li",
            null,
            at === parts.length - 1
              ? h("span", { "aria-current": "location", class: at ? "mono" : null }, text)
              : h("a", { href: link(prefix, this.separator), class: at ? "mono" : null }, text),
          ),
        ),
      ),
    );
  }

  async begin(chosen) {
    const revision = await this.load();
    if (chosen !== null) this.choose(chosen);
    if (this.signal.aborted) return;
    watch(`/v1/watch?prefix=${keyQuery(this.prefix)}&keys_only=true`, {
      signal: this.signal,
      since: revision ? revision + 1 : undefined,
      on: ({ name, data }) => name === "changes" && this.changed(data.changes),
      state: (now, error) => {
        this.feed.stands(now, error);
        if (error?.code === "compacted") this.load();
      },
    });
  }

  #change(change) {
    const key = atob(change.key);
    return [
      badge(change.type === "put" ? "well" : "off", change.type),
      h("a", { href: link(this.prefix, this.separator, key) }, keyText(key)),
      count(change.mod_revision),
    ];
  }

  // --- the listing ---

  async load(start = this.prefix) {
    try {
      const page = await list(this.prefix, this.separator, start, this.signal);
      this.items = start === this.prefix ? page.items : this.items.concat(page.items);
      this.extended = start !== this.prefix;
      this.next = page.next;
      this.listing.removeAttribute("aria-busy");
      this.draw();
      return page.revision;
    } catch (error) {
      if (!this.signal.aborted)
        show(
          this.listing,
          failed("The keys can’t be read", error, () => this.load(start)),
        );
      return 0;
    }
  }

  draw() {
    if (!this.items.length) {
      show(
        this.listing,
        this.prefix
          ? empty("No key begins with this prefix", h("a", { href: link("", this.separator) }, "All keys"))
          : empty("The store is empty", "Put something in: ", h("code", null, "aspen kv put greeting hello")),
      );
      return;
    }
    const focused = document.activeElement?.closest?.("tr")?.dataset.key;
    const rows = this.items.map((item) => this.#row(item));
    show(this.grid.querySelector("tbody"), rows);
    const more =
      this.next === null
        ? null
        : h("p", null, h("button", { type: "button", onclick: () => this.load(this.next) }, "More keys"));
    if (!this.grid.isConnected || more || this.listing.children.length > 1)
      show(this.listing, this.grid, more);
    this.refresh();
    if (focused !== undefined)
      rows
        .find((each) => each.dataset.key === focused)
        ?.querySelector(".row-link")
        .focus();
    this.fresh.clear();
  }

  #row(item) {
    const name = keyText(item.key.slice(this.prefix.length)) || "(the prefix itself)";
    const touched = item.folder
      ? [...this.fresh].some((key) => key.startsWith(item.key))
      : this.fresh.has(item.key);
    const properties = {
      "data-key": item.key,
      class: touched ? "fresh" : null,
      "aria-selected": item.key === this.value.key ? "true" : null,
    };
    if (item.folder)
      return row(
        LISTING,
        [h("a", { class: "row-link folder", href: link(item.key, this.separator) }, name), "", "", ""],
        properties,
      );
    const open = h("a", { class: "row-link", href: link(this.prefix, this.separator, item.key) }, name);
    open.addEventListener("click", (event) => {
      if (event.ctrlKey || event.metaKey || event.shiftKey) return;
      event.preventDefault();
      history.replaceState(null, "", open.href);
      this.choose(item.key);
    });
    return row(
      LISTING,
      [open, count(item.mod_revision), count(item.version), item.lease ? String(item.lease) : "–"],
      properties,
    );
  }

  // --- changes ---

  changed(changes) {
    for (const change of changes) {
      const key = atob(change.key);
      this.fresh.add(key);
      if (key === this.value.key && this.value.revision === undefined) this.stale = true;
    }
    this.feed.add(changes);
    this.timer ??= setTimeout(() => this.#settle(), this.busy ? CALM_MS : SOON_MS);
  }

  /** After a burst: one listing for all of it, and not the next one at once. */
  async #settle() {
    if (this.stale) this.choose(this.value.key, { quiet: true });
    this.stale = false;
    if (!this.extended) await this.load();
    this.timer = undefined;
    this.busy = true;
    setTimeout(() => (this.busy = false), CALM_MS);
  }

  choose(key, options) {
    for (const each of this.grid.querySelectorAll("tr[data-key]")) {
      if (each.dataset.key === key) each.setAttribute("aria-selected", "true");
      else each.removeAttribute("aria-selected");
    }
    return this.value.choose(key, options);
  }
}
