// Zones, and the records of one.

import { get, json } from "./api.js";
import {
  aside,
  badge,
  download,
  empty,
  facts,
  failed,
  h,
  roving,
  row,
  say,
  setText,
  show,
  table,
} from "./dom.js";
import { ago, count, moment } from "./format.js";

export const title = "Zones";

const PAGE = 200;
const ZONES = [
  ["Zone", "strong"],
  ["State"],
  ["Serial", "number"],
  ["Records", "number"],
  ["Reads"],
  ["Changed", "number"],
];
const RECORDS = [["Name", "mono"], ["TTL", "number"], ["Type"], ["Data", "mono wrap"]];
const TYPES = [
  "A",
  "AAAA",
  "CAA",
  "CNAME",
  "DNAME",
  "HTTPS",
  "MX",
  "NS",
  "PTR",
  "SOA",
  "SRV",
  "SSHFP",
  "SVCB",
  "TLSA",
  "TXT",
];

export function mount(root, context) {
  return context.rest ? zonePage(root, decodeURIComponent(context.rest), context) : zoneList(root, context);
}

const path = (zone) => `#/zones/${encodeURIComponent(zone)}`;

// --- all zones ---

function zoneList(root, { signal, query, go }) {
  const input = h("input", {
    id: "zone-filter",
    type: "search",
    autocomplete: "off",
    spellcheck: "false",
    value: query.get("q") ?? "",
    "aria-describedby": "zone-hint",
  });
  const list = h("div", { "aria-busy": "true" }, h("p", { class: "quiet" }, "Loading zones…"));
  const hint = h("span", { id: "zone-hint", class: "quiet" });
  const form = h(
    "form",
    { class: "filter" },
    h("label", { for: "zone-filter" }, "Filter, or a name to find its zone"),
    input,
    h("button", { type: "submit" }, "Find the zone"),
    hint,
  );
  show(
    root,
    h(
      "div",
      { class: "head" },
      h("h1", { tabindex: "-1" }, "Zones"),
      h("p", { class: "verdict" }, "Written by operators, replicated, answered by every node."),
    ),
    form,
    list,
  );
  let zones = [];
  let more = false;
  const draw = () => {
    const wanted = input.value.trim().toLowerCase();
    const shown = zones.filter((zone) => zone.name.includes(wanted));
    list.removeAttribute("aria-busy");
    setText(
      hint,
      zones.length ? `${count(shown.length)} of ${count(zones.length)}${more ? " loaded" : ""}` : "",
    );
    if (!zones.length) {
      show(
        list,
        empty(
          "There are no zones",
          "Create one: ",
          h("code", null, "aspen zone create example.com --ns ns1 --record 'ns1 A 192.0.2.53'"),
        ),
      );
    } else if (!shown.length) {
      show(
        list,
        empty(
          "No zone matches",
          more
            ? "Not all zones are loaded: press Enter to ask the node for the zone that this name is in."
            : "Press Enter to ask for the zone that this name is in.",
        ),
      );
    } else {
      const grid = table(
        "Zones",
        ZONES,
        shown.map((zone) => [
          h("a", { href: path(zone.name), class: "row-link" }, zone.name),
          zone.settings.enabled ? badge("well", "enabled") : badge("off", "disabled"),
          h("span", { class: "plain-number" }, String(zone.serial)),
          count(zone.records),
          zone.settings.consistency,
          h("time", { title: moment(zone.changed_at_ms) }, ago(Date.now() - zone.changed_at_ms)),
        ]),
      );
      roving(grid, ".row-link");
      show(
        list,
        grid,
        more ? h("p", null, h("button", { type: "button", onclick: load }, "Load more zones")) : null,
      );
    }
  };
  const load = async () => {
    try {
      const after = zones.length ? `&after=${encodeURIComponent(zones.at(-1).name)}` : "";
      const answer = await json(`/v1/zones?consistency=stale&limit=${PAGE}${after}`, { signal });
      zones = zones.concat(answer.zones);
      more = answer.more;
      draw();
      if (query.has("q") && !zones.some((zone) => zone.name.includes(query.get("q").toLowerCase())))
        form.requestSubmit();
    } catch (error) {
      if (!signal.aborted) show(list, failed("The zones can’t be read", error, load));
    }
  };
  input.addEventListener("input", draw);
  form.addEventListener("submit", async (event) => {
    event.preventDefault();
    const name = input.value.trim();
    if (!name) return;
    try {
      const { zones: found } = await json(`/v1/zones?consistency=stale&for=${encodeURIComponent(name)}`, {
        signal,
      });
      if (found.length) go(path(found[0].name));
      else (say("No zone holds this name"), setText(hint, `No zone here holds ${name}`));
    } catch (error) {
      if (!signal.aborted) setText(hint, error.reason);
    }
  });
  load();
}

// --- one zone ---

function zonePage(root, zone, { signal }) {
  const about = h("div", { "aria-busy": "true" }, h("p", { class: "quiet" }, "Loading…"));
  const name = h("input", {
    id: "record-name",
    autocomplete: "off",
    autocapitalize: "none",
    spellcheck: "false",
    placeholder: "www, @, or all",
  });
  const type = h(
    "select",
    { id: "record-type" },
    h("option", { value: "" }, "All types"),
    TYPES.map((each) => h("option", { value: each }, each)),
  );
  const found = h("div", { "aria-busy": "true" });
  const serial = h("span", { class: "quiet" });
  const form = h(
    "form",
    { class: "filter" },
    h("label", { for: "record-name" }, "Name"),
    name,
    h("label", { for: "record-type" }, "Type"),
    type,
    h("button", { type: "submit" }, "Show"),
    serial,
  );
  const save = h("button", { type: "button" }, "Download as a master file");
  save.addEventListener("click", async () => {
    try {
      const answer = await get(`/v1/zones/${encodeURIComponent(zone)}/export?consistency=stale`, {
        signal,
        patience: 0,
      });
      download(
        await answer.arrayBuffer(),
        `${zone.replace(/\.$/, "").replace(/[^\w.-]/g, "_") || "root"}.zone`,
        "text/dns",
      );
    } catch (error) {
      if (!signal.aborted) setText(serial, error.reason);
    }
  });
  show(
    root,
    h("p", { class: "crumbs" }, h("a", { href: "#/zones" }, "Zones")),
    h("div", { class: "head" }, h("h1", { tabindex: "-1", class: "mono" }, zone), save),
    about,
    h("section", null, h("h2", null, "Records"), form, found),
  );
  const starts = [null]; // the name each page begins after
  const records = async () => {
    const asked = new URLSearchParams({ consistency: "stale", limit: PAGE });
    if (name.value.trim()) asked.set("name", name.value.trim());
    if (type.value) asked.set("type", type.value);
    if (starts.at(-1)) asked.set("after", starts.at(-1));
    try {
      const answer = await json(`/v1/zones/${encodeURIComponent(zone)}/records?${asked}`, { signal });
      found.removeAttribute("aria-busy");
      drawRecords(answer);
    } catch (error) {
      if (signal.aborted) return;
      found.removeAttribute("aria-busy");
      show(found, error.status === 404 ? null : failed("The records can’t be read", error, records));
    }
  };
  const drawRecords = (answer) => {
    setText(serial, `as of serial ${answer.serial}`);
    if (!answer.records.length) {
      show(
        found,
        empty(
          "No such records",
          answer.more
            ? "None among these names: go on to the next page."
            : "Try another name or type; a name without a final dot is meant within the zone.",
        ),
      );
    } else {
      const grid = table(`Records of ${zone}`, RECORDS, []);
      show(
        grid.querySelector("tbody"),
        answer.records.flatMap((set) =>
          set.data.map((data, at) =>
            row(
              RECORDS,
              [
                at
                  ? h("span", { class: "again", title: set.name }, within(set.name, zone))
                  : h("span", { title: set.name }, within(set.name, zone)),
                at ? "" : count(set.ttl),
                at ? "" : set.type,
                data,
              ],
              at ? null : { class: "first" },
            ),
          ),
        ),
      );
      show(found, grid);
    }
    const last = answer.records.at(-1)?.name;
    found.append(
      h(
        "p",
        { class: "buttons" },
        starts.length > 1
          ? h("button", { type: "button", onclick: () => (starts.pop(), records()) }, "Page before")
          : null,
        answer.more && last
          ? h("button", { type: "button", onclick: () => (starts.push(last), records()) }, "Next page")
          : null,
      ),
    );
  };
  form.addEventListener("submit", (event) => {
    event.preventDefault();
    starts.length = 1;
    records().then(() => say(`${found.querySelectorAll("tbody tr").length} records shown`));
  });
  type.addEventListener("change", () => form.requestSubmit());
  const head = async () => {
    try {
      const [view, soa] = await Promise.all([
        json(`/v1/zones/${encodeURIComponent(zone)}?consistency=stale`, { signal }),
        json(`/v1/zones/${encodeURIComponent(zone)}/records?consistency=stale&name=@&type=SOA`, { signal }),
      ]);
      about.removeAttribute("aria-busy");
      show(about, facts(zoneFacts(view, soa.records[0]), "facts across"));
    } catch (error) {
      if (signal.aborted) return;
      about.removeAttribute("aria-busy");
      show(
        about,
        error.status === 404
          ? empty(
              "There is no such zone",
              "It may have been deleted. ",
              h("a", { href: "#/zones" }, "All zones"),
            )
          : failed("The zone can’t be read", error, head),
      );
    }
  };
  head();
  records();
}

function zoneFacts(view, soa) {
  const { settings } = view;
  const [primary, mail, , refresh, retry, expire, minimum] = soa?.data[0]?.split(" ") ?? [];
  const list = (values, none) => (values.length ? values.join(", ") : none);
  return [
    [
      "State",
      settings.enabled ? badge("well", "enabled") : badge("off", "disabled: as if it were not there"),
    ],
    ["Serial", String(view.serial)],
    ["Records", count(view.records)],
    ["Changed", [moment(view.changed_at_ms), aside(ago(Date.now() - view.changed_at_ms))]],
    soa && ["Primary, contact", h("span", { class: "mono" }, `${primary} ${mail}`)],
    soa && ["Refresh, retry, expire", `${count(+refresh)} s, ${count(+retry)} s, ${count(+expire)} s`],
    soa && ["Negative TTL", `${count(+minimum)} s`],
    ["Reads", settings.consistency],
    ["Who may ask", list(settings.query_acl, "everybody")],
    [
      "Transfers",
      list([...settings.transfer_acl, ...settings.transfer_keys.map((key) => `key ${key}`)], "nobody"),
    ],
    ["Updates", list([...settings.update_acl, ...settings.update_keys.map((key) => `key ${key}`)], "nobody")],
    ["Notified", list(settings.notify, "nobody")],
  ];
}

/** A name as it is written within its zone. */
function within(name, zone) {
  if (name === zone) return "@";
  return zone !== "." && name.endsWith(`.${zone}`) ? name.slice(0, -zone.length - 1) : name;
}
