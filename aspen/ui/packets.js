// pkarr: look a public key up, see what its packet says and whether its signature holds, and what changes.

import { ApiError, json, watch } from "./api.js";
import {
  aside,
  badge,
  copier,
  download,
  empty,
  facts,
  failed,
  h,
  id,
  say,
  setText,
  show,
  table,
  tabs,
} from "./dom.js";
import { Feed } from "./feed.js";
import { ago, count, dump, moment, octets } from "./format.js";
import { live } from "./live.js";

export const title = "Packets";

const KEY = /[ybndrfg8ejkmcpqxot1uwisza345h769]{51}[yo]/;
const RECORDS = [["Name", "mono"], ["TTL", "number"], ["Class"], ["Type"], ["Data", "mono wrap"]];
const FIELDS = [["Octets", "number mono"], ["Size", "number"], ["Field"], ["Says", "mono wrap"]];
const CHANGES = [["Change"], ["Key"], ["Signed", "number"], ["At log index", "number"]];
const LOOK_BACK = 5_000; // log entries that the list of changes begins with
const SHOWN = 25;
const STATES = {
  live: ["well", "live", "DNS answers with it."],
  expired: ["warn", "expired", "It was not published again in time, and is about to be removed."],
  unpublished: ["off", "unpublished", "Its owner published a packet without answers."],
  deleted: ["off", "deleted", "An operator deleted it; neither it nor an older one can come back."],
};

/** The public key in what somebody typed: bare, or as a label of a name. */
export function keyIn(text) {
  return (
    text
      .trim()
      .toLowerCase()
      .split(/[./\s:]+/)
      .find((label) => label.length === 52 && KEY.test(label)) ?? null
  );
}

export function mount(root, { signal, rest, go }) {
  const key = rest ? decodeURIComponent(rest) : null;
  const input = h("input", {
    id: "packet-key",
    class: "mono wide",
    autocomplete: "off",
    autocapitalize: "none",
    spellcheck: "false",
    value: key ?? "",
    placeholder: "52 characters of z-base-32, or a name that holds them",
  });
  const problem = h("p", { class: "problem", role: "alert", hidden: true });
  const form = h(
    "form",
    { class: "filter" },
    h("label", { for: "packet-key" }, "Public key"),
    input,
    h("button", { type: "submit", class: "primary" }, "Look up"),
  );
  const found = h("div");
  show(
    root,
    h(
      "div",
      { class: "head" },
      h("h1", { tabindex: "-1" }, "Packets"),
      h("p", { class: "verdict" }, "Signed by their owners’ keys; what this node’s replica holds."),
    ),
    form,
    problem,
    found,
  );
  const complain = (text) => {
    problem.hidden = !text;
    setText(problem, text);
    input.setAttribute("aria-invalid", String(Boolean(text)));
  };
  form.addEventListener("submit", (event) => {
    event.preventDefault();
    const wanted = keyIn(input.value);
    complain(wanted ? "" : wrong(input.value.trim()));
    if (wanted === key && wanted) lookUp(found, wanted, signal);
    else if (wanted) go(`#/packets/${wanted}`);
  });
  if (key && keyIn(key)) lookUp(found, key, signal);
  else if (key) complain(wrong(key));
  changes(root, signal);
}

function wrong(text) {
  if (!text) return "Type a public key, for instance what `aspen pkarr show FILE` prints.";
  if (text.length !== 52) return `A public key has 52 characters; this has ${text.length}.`;
  const strange = [...text.toLowerCase()].find((char) => !"ybndrfg8ejkmcpqxot1uwisza345h769".includes(char));
  return strange
    ? `“${strange}” is not a character of z-base-32 (there is no 0, 2, l or v).`
    : "The last character of a public key is y or o: it holds one bit.";
}

async function lookUp(found, key, signal) {
  show(found, h("p", { class: "quiet" }, "Looking…"));
  try {
    const packet = await json(`/v1/packets/${key}?fields=true`, { signal });
    drawPacket(found, packet);
  } catch (error) {
    if (signal.aborted) return;
    const none = error instanceof ApiError && error.status === 404;
    show(
      found,
      none
        ? empty(
            "Nothing is stored under this key",
            "Nobody published it here, or it has expired. Another relay or the DHT may know it: ",
            h("code", null, `aspen pkarr resolve ${key}`),
          )
        : failed("The key can’t be looked up", error, () => lookUp(found, key, signal)),
    );
    say(none ? "Nothing is stored under this key" : "The look-up failed");
  }
}

function drawPacket(found, packet) {
  const [kind, word, meaning] = STATES[packet.state] ?? ["off", packet.state, ""];
  const payload = octets(packet.payload);
  const fields = packet.fields ?? [];
  const signature = fields.find((field) => field.name === "signature");
  const verified = signature && !signature.problem;
  const wrongs = fields.filter((field) => field.problem);
  const signed = packet.timestamp_us / 1_000;
  show(
    found,
    facts(
      [
        ["State", [badge(kind, word), aside(meaning)]],
        [
          "Signature",
          !signature
            ? "none: no payload is kept"
            : verified
              ? badge("well", "verified with this key")
              : badge("bad", signature.problem),
        ],
        ["Size", `${count(payload.length)} of ${count(1_072)} octets`],
        ["Signed", [moment(signed), aside(ago(Date.now() - signed))]],
        ["Last seen", [moment(packet.last_seen_ms), aside(ago(Date.now() - packet.last_seen_ms))]],
        ["Timestamp", String(packet.timestamp_us)],
      ],
      "facts across packet-facts",
    ),
    packet.state === "live" ? inDns(packet.key) : null,
    wrongs.length
      ? h(
          "p",
          { class: "problem" },
          `${wrongs.length} of ${fields.length} fields have something wrong; the fields tell what.`,
        )
      : null,
    payload.length
      ? tabs("Packet", [
          ["Records", () => recordTable(fields, packet.key)],
          ["Fields", () => fieldTable(fields)],
          [
            "Octets",
            () =>
              h(
                "div",
                null,
                h(
                  "p",
                  { class: "buttons" },
                  h(
                    "button",
                    { type: "button", onclick: () => download(payload, `${packet.key}.pkarr`) },
                    "Download the payload",
                  ),
                ),
                h(
                  "pre",
                  { class: "dump", tabindex: "0", "aria-label": "Payload, in hexadecimal" },
                  dump(payload),
                ),
              ),
          ],
        ])
      : null,
  );
  say(`${word}; signature ${verified ? "verified" : "not verified"}`);
}

/** The name under which DNS has it, once the node has said which origins it has. */
function inDns(key) {
  const place = h("p", { class: "quiet note in-dns" });
  const tell = () => {
    const dns = live.status?.dns;
    const name = `${key}.${dns?.origins[0]}`.replace(/\.$/, "");
    if (dns?.origins.length)
      show(
        place,
        "In DNS: ",
        h("span", { class: "mono" }, name),
        " ",
        copier(name, "the name"),
        dns.origins.length > 1 ? ` and under ${dns.origins.slice(1).join(", ")}` : null,
      );
  };
  if (live.status) tell();
  else live.next(tell);
  return place;
}

function recordTable(fields, key) {
  const answers = fields.filter((field) => /^answer /.test(field.name));
  if (!answers.length) return empty("The packet has no records");
  return table(
    "Records of the packet",
    RECORDS,
    answers.map(({ value, problem }) => {
      const [, name, ttl, rrclass, type, data] = /^(\S+) (\S+) (\S+) (\S+) ?(.*)$/s.exec(value) ?? [
        null,
        value,
        "",
        "",
        "",
        "",
      ];
      return [
        h("span", { title: name }, below(name, key)),
        ttl ? count(+ttl) : "",
        rrclass,
        type,
        [data, problem ? h("p", { class: "problem" }, problem) : null],
      ];
    }),
  );
}

/** A name as it is written below its key. */
function below(name, key) {
  if (name === `${key}.`) return "@";
  return name.endsWith(`.${key}.`) ? name.slice(0, -key.length - 2) : name;
}

function fieldTable(fields) {
  return table(
    "Fields of the payload",
    FIELDS,
    fields.map((field) => [
      `${field.offset}–${field.offset + Math.max(field.size, 1) - 1}`,
      count(field.size),
      field.name,
      [field.value, field.problem ? h("p", { class: "problem" }, field.problem) : null],
    ]),
  );
}

// --- changes ---

function changes(root, signal) {
  const publish = "aspen pkarr publish --key alice.key '_iroh TXT \"relay=https://relay.example./\"'";
  const cells = ({ name, key, timestamp_us: signed, index }) => [
    badge(name === "stored" ? "well" : "off", name),
    id(key, `#/packets/${key}`),
    signed === undefined ? "–" : h("time", null, moment(signed / 1_000)),
    count(index),
  ];
  const nothing = empty("No packet has changed lately", "Publish one: ", h("code", null, publish));
  const feed = new Feed("Latest changes of packets", CHANGES, SHOWN, cells, nothing);
  root.append(h("section", null, h("h2", null, "Latest changes ", feed.state), feed.element));
  const start = () => {
    watch("/v1/packets/watch/all", {
      signal,
      since: Math.max(0, live.status.applied_index - LOOK_BACK),
      on: ({ name, data }) => data.keys && feed.add(data.keys.map((key) => ({ ...data, name, key }))),
      state: (now, error) => feed.stands(now, error),
    });
  };
  if (live.status) start();
  else live.next(() => signal.aborted || start());
}
