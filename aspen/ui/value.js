// One key of the key-value store: its value as whatever it is, its revisions and its lease.

import { json } from "./api.js";
import { copier, download, empty, facts, failed, h, say, setText, show, tabs } from "./dom.js";
import { asText, count, dump, duration, keyQuery, keyText, octets, size } from "./format.js";

const TEXT = 65_536; // octets of a value that are shown as text
const PREVIEW_MAX = 8 * 2 ** 20;

/** The part of the page that shows a key; what is open in it stays open when the value changes. */
export class Value {
  constructor(signal) {
    this.signal = signal;
    this.key = null;
    this.element = h(
      "section",
      { class: "detail", "aria-label": "Value" },
      empty("No key is chosen", "Choose one in the list: its value, revisions and lease appear here."),
    );
  }

  /** Read the key and show it, as it is now or was at a revision; `quiet`: without telling screen readers. */
  async choose(key, { revision, quiet = false } = {}) {
    this.key = key;
    this.revision = revision;
    const at = revision === undefined ? "" : `&revision=${revision}`;
    try {
      // Of all keys that begin with it, it is the first. (A key as part of a path: a browser would make another of `..`.)
      const path = `/v1/kv?prefix=${keyQuery(key)}&limit=1&consistency=stale${at}`;
      const entry = (await json(path, { signal: this.signal })).entries.find(
        (each) => atob(each.key) === key,
      );
      if (this.key !== key) return;
      if (!entry) {
        show(
          this.element,
          h("h2", { class: "mono" }, keyText(key)),
          empty(
            revision === undefined ? "This key is gone" : `There was no such key at revision ${revision}`,
          ),
        );
      } else this.#put(this.#entry(key, entry, revision));
      if (!quiet) say(!entry ? "No such key" : `${keyText(key)}, ${size(octets(entry.value).length)}`);
    } catch (error) {
      if (this.signal.aborted) return;
      show(
        this.element,
        h("h2", { class: "mono" }, keyText(key)),
        failed(
          error.code === "compacted" ? "That revision is no longer kept" : "The key can’t be read",
          error,
        ),
        error.code === "compacted"
          ? h(
              "p",
              null,
              h("button", { type: "button", onclick: () => this.choose(key) }, "Back to the newest"),
            )
          : null,
      );
    }
  }

  /** What was open and had the focus is open and has the focus in what takes its place. */
  #put(content) {
    const held = this.element.contains(document.activeElement) ? document.activeElement.textContent : null;
    show(this.element, content);
    if (held !== null)
      [...this.element.querySelectorAll("button, pre")].find((each) => each.textContent === held)?.focus();
  }

  #entry(key, entry, revision) {
    const value = octets(entry.value);
    const lease = h("span", null, entry.lease ? String(entry.lease) : "none");
    if (entry.lease) this.#lease(entry.lease, lease);
    const earlier =
      entry.version > 1
        ? h(
            "button",
            { type: "button", onclick: () => this.choose(key, { revision: entry.mod_revision - 1 }) },
            "The value before",
          )
        : null;
    return [
      h("h2", { class: "mono" }, keyText(key), " ", copier(keyText(key), "the key")),
      revision === undefined
        ? null
        : h(
            "p",
            { class: "note warn-note" },
            `As of revision ${count(revision)}. `,
            h(
              "button",
              { type: "button", class: "plain", onclick: () => this.choose(key) },
              "Back to the newest",
            ),
          ),
      facts(
        [
          ["Size", size(value.length)],
          ["Version", count(entry.version)],
          ["Changed at", `revision ${count(entry.mod_revision)}`],
          ["Created at", `revision ${count(entry.create_revision)}`],
          ["Lease", lease],
        ],
        "facts across small",
      ),
      preview(value, { first: this.tab, chosen: (title) => (this.tab = title) }),
      h(
        "p",
        { class: "buttons" },
        h(
          "button",
          {
            type: "button",
            onclick: () =>
              download(
                value,
                keyText(key)
                  .split("/")
                  .pop()
                  .replace(/[^\w.-]/g, "_") || "value",
              ),
          },
          "Download",
        ),
        earlier,
      ),
    ];
  }

  async #lease(lease, place) {
    try {
      const { remaining_ms: left, ttl_ms: ttl } = await json(`/v1/leases/${lease}?consistency=stale`, {
        signal: this.signal,
      });
      setText(place, `${lease}: ends in about ${duration(left)} unless renewed (${duration(ttl)} each time)`);
    } catch {
      // Its number is all that is known then.
    }
  }
}

/** A value as text, as JSON laid out, and as octets: whichever it is. */
function preview(value, choice) {
  if (!value.length) return h("p", { class: "quiet" }, "The value is empty.");
  if (value.length > PREVIEW_MAX) return h("p", { class: "quiet" }, "Too large to be shown.");
  const text = asText(value.slice(0, value.length > TEXT ? TEXT - (TEXT % 4) : undefined));
  const parts = [];
  if (text !== null) {
    const cut = value.length > TEXT ? `\n… ${size(value.length - TEXT)} more` : "";
    try {
      const parsed = /^\s*[[{]/.test(text) && !cut ? JSON.parse(text) : undefined;
      if (parsed !== undefined)
        parts.push(["JSON", () => block(JSON.stringify(parsed, null, 2), "Value, as JSON")]);
    } catch {
      // Text that only begins like JSON.
    }
    parts.push(["Text", () => block(text + cut, "Value, as text")]);
  }
  parts.push([
    "Octets",
    () => h("pre", { class: "dump", tabindex: "0", "aria-label": "Value, in hexadecimal" }, dump(value)),
  ]);
  return tabs("Value", parts, choice);
}

function block(text, label) {
  return h("pre", { class: "value", tabindex: "0", "aria-label": label }, text);
}
