// Elements from values. All text becomes text nodes: nothing here, or anywhere in this folder, parses HTML.

const SVG = "http://www.w3.org/2000/svg";

function fill(element, properties, children) {
  for (const [name, value] of Object.entries(properties ?? {})) {
    if (value === undefined || value === null || value === false) continue;
    if (name.startsWith("on")) element.addEventListener(name.slice(2), value);
    else element.setAttribute(name, value === true ? "" : value);
  }
  element.append(
    ...children.flat(3).filter((child) => child !== null && child !== undefined && child !== false),
  );
  return element;
}

/** An HTML element: `h("td", {class: "number"}, 5)`. */
export function h(tag, properties, ...children) {
  return fill(document.createElement(tag), properties, children);
}

/** An SVG element. */
export function s(tag, properties, ...children) {
  return fill(document.createElementNS(SVG, tag), properties, children);
}

/** Put `children` in place of what an element holds. */
export function show(element, ...children) {
  element.replaceChildren(
    ...children.flat(3).filter((child) => child !== null && child !== undefined && child !== false),
  );
  return element;
}

/** As `show`, but what is there already stays, and changes where it differs: so focus and selection stay too.
    For elements without listeners of their own. */
export function update(element, ...children) {
  patch(element, show(element.cloneNode(false), ...children));
}

function patch(old, fresh) {
  if (old.nodeName !== fresh.nodeName) return old.replaceWith(fresh);
  if (old.nodeType === Node.TEXT_NODE) {
    if (old.data !== fresh.data) old.data = fresh.data;
    return undefined;
  }
  for (const { name } of [...old.attributes])
    if (name !== "open" && !fresh.hasAttribute(name)) old.removeAttribute(name);
  for (const { name, value } of fresh.attributes)
    if (old.getAttribute(name) !== value) old.setAttribute(name, value);
  const [before, after] = [[...old.childNodes], [...fresh.childNodes]];
  after.forEach((child, at) => (before[at] ? patch(before[at], child) : old.append(child)));
  before.slice(after.length).forEach((child) => child.remove());
  return undefined;
}

/** Change an element's text only if it is another: screen readers and selections stay undisturbed. */
export function setText(element, text) {
  if (element.textContent !== text) element.textContent = text;
}

/** Tell screen readers, politely; the same text again is told again. */
export function say(text) {
  const region = document.getElementById("say");
  region.textContent = "";
  setTimeout(() => (region.textContent = text), 50);
}

/** A table: `columns` are `[title, class]`, `rows` arrays of cells (or null, left out). */
export function table(caption, columns, rows, properties) {
  return h(
    "div",
    { class: "scroll", tabindex: "0", role: "region", "aria-label": caption },
    h(
      "table",
      properties,
      h("caption", { class: "hidden" }, caption),
      h(
        "thead",
        null,
        h(
          "tr",
          null,
          columns.map(([title, kind]) => h("th", { class: kind, scope: "col" }, title)),
        ),
      ),
      h(
        "tbody",
        null,
        rows.filter(Boolean).map((cells) => row(columns, cells)),
      ),
    ),
  );
}

/** One row of such a table; cells may be text, nodes or lists of them. */
export function row(columns, cells, properties) {
  return h(
    "tr",
    properties,
    cells.map((cell, at) => h("td", { class: columns[at][1] }, cell)),
  );
}

/** Pairs of a name and what it is. */
export function facts(pairs, kind = "facts") {
  return h(
    "dl",
    { class: kind },
    pairs.filter(Boolean).map(([name, value]) => h("div", null, h("dt", null, name), h("dd", null, value))),
  );
}

/** What a place says that has nothing to show: what is so, and what to do. */
export function empty(title, ...advice) {
  return h(
    "div",
    { class: "empty" },
    h("p", { class: "empty-title" }, title),
    advice.length ? h("p", null, advice) : null,
  );
}

/** What a place says where something failed. */
export function failed(what, error, again) {
  return h(
    "div",
    { class: "empty failed", role: "alert" },
    h("p", { class: "empty-title" }, what),
    h("p", null, error.reason ?? error.message),
    again ? h("p", null, h("button", { type: "button", onclick: again }, "Try again")) : null,
  );
}

/** A state as a word with a mark before it: no meaning by colour alone. */
export function badge(kind, text, title) {
  return h("span", { class: `badge ${kind}`, title }, text);
}

/** What stands beside a value, less loudly. */
export function aside(text) {
  return [" ", h("span", { class: "aside" }, text)];
}

/** A long identifier, cut where there is no room; whole to whoever selects or hears it. */
export function id(text, href) {
  const shown = h("span", { class: "id", title: text }, text);
  return href ? h("a", { class: "id-link", href }, shown) : shown;
}

/** A button that copies. */
export function copier(text, what) {
  const button = h(
    "button",
    { type: "button", class: "plain", "aria-label": `Copy ${what}` },
    `Copy ${what}`,
  );
  button.addEventListener("click", async () => {
    try {
      await navigator.clipboard.writeText(text);
      button.textContent = "Copied";
      say(`${what} copied`);
    } catch {
      button.textContent = "Can’t copy here";
    }
    setTimeout(() => (button.textContent = `Copy ${what}`), 1_500);
  });
  return button;
}

/** Have the browser save bytes as a file. */
export function download(bytes, name, type = "application/octet-stream") {
  const url = URL.createObjectURL(new Blob([bytes], { type }));
  h("a", { href: url, download: name }).click();
  setTimeout(() => URL.revokeObjectURL(url), 10_000);
}

/** Up, Down, Home and End move between the elements that `selector` finds; Tab sees one of them. Returns what to
    call when there are others. */
export function roving(container, selector, { horizontal = false } = {}) {
  const [back, on] = horizontal ? ["ArrowLeft", "ArrowRight"] : ["ArrowUp", "ArrowDown"];
  const items = () => [...container.querySelectorAll(selector)];
  const mark = (chosen) => items().forEach((item) => (item.tabIndex = item === chosen ? 0 : -1));
  container.addEventListener("focusin", (event) => {
    const item = event.target.closest(selector);
    if (item) mark(item);
  });
  container.addEventListener("keydown", (event) => {
    const all = items();
    const at = all.indexOf(event.target.closest(selector));
    if (at < 0) return;
    const next = { [back]: at - 1, [on]: at + 1, Home: 0, End: all.length - 1 }[event.key];
    if (next === undefined) return;
    event.preventDefault();
    all[Math.max(0, Math.min(next, all.length - 1))].focus();
  });
  const refresh = () => mark(items().find((item) => item.getAttribute("tabindex") === "0") ?? items()[0]);
  refresh();
  return refresh;
}

/** Tabs (WAI-ARIA authoring practices): `[[title, () => content], …]`; the one titled `first` is open, and `chosen`
    hears of others. */
export function tabs(label, parts, { first, chosen = () => {} } = {}) {
  const panel = h("div", { class: "panel", role: "tabpanel", tabindex: "0", id: `panel-${label}` });
  const list = h("div", { class: "tabs", role: "tablist", "aria-label": label });
  const choose = (chosen, content) => {
    for (const tab of list.children) {
      tab.setAttribute("aria-selected", String(tab === chosen));
      tab.tabIndex = tab === chosen ? 0 : -1;
    }
    panel.setAttribute("aria-labelledby", chosen.id);
    show(panel, content());
  };
  parts.forEach(([title, content], at) => {
    const tab = h(
      "button",
      { type: "button", role: "tab", id: `tab-${label}-${at}`, "aria-controls": panel.id },
      title,
    );
    const open = () => {
      if (tab.getAttribute("aria-selected") === "true") return;
      choose(tab, content);
      chosen(title);
    };
    tab.addEventListener("click", open);
    tab.addEventListener("focus", open);
    list.append(tab);
  });
  roving(list, "[role=tab]", { horizontal: true });
  const begin = Math.max(
    0,
    parts.findIndex(([title]) => title === first),
  );
  choose(list.children[begin], parts[begin][1]);
  return h("div", null, list, panel);
}
