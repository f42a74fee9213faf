// A plot over time, drawn by hand: a line for each series, the first with its area; values by pointer or arrow keys.

import { h, s, setText } from "./dom.js";
import { EVERY_MS, SPAN_MS } from "./live.js";

const [HEIGHT, TOP, BOTTOM, LEFT, RIGHT] = [132, 10, 18, 52, 8];

/** Round steps for an axis from 0 (or the least power of ten, if `log`) to `most`. */
function ticks(most, log, least) {
  if (log) {
    const found = [10 ** Math.floor(Math.log10(least))];
    while (found.length < 2 || found.at(-1) < most) found.push(found.at(-1) * 10);
    return found;
  }
  const rough = most / 3;
  const power = 10 ** Math.floor(Math.log10(rough));
  const step = power * [1, 2, 5, 10].find((factor) => factor * power >= rough);
  return Array.from({ length: Math.ceil(most / step) + 1 }, (_, at) => at * step);
}

/** `lines`: `[{name, kind}]`; `draw(series)` takes as many lists of `[when, value]`. */
export class Plot {
  constructor(title, { lines, format, floor = 1, log = false }) {
    Object.assign(this, { lines, format, floor, log, series: lines.map(() => []), title });
    this.now = h("span", { class: "plot-now" }, "–");
    this.svg = s("svg", { class: "plot", role: "img", tabindex: "0", height: HEIGHT, "aria-label": title });
    this.reading = h("output", { class: "plot-reading" });
    this.wait = h(
      "p",
      { class: "plot-wait" },
      "Figures come after two answers of the node, in about four seconds.",
    );
    const legend = lines.map(({ name, kind }) => h("span", { class: `key ${kind}` }, name));
    this.element = h(
      "figure",
      { class: "figure" },
      h("figcaption", null, h("span", { class: "plot-title" }, title), this.now),
      h("div", { class: "plot-box" }, this.svg, this.wait),
      h(
        "div",
        { class: "plot-foot" },
        h("span", { class: "legend" }, lines.length > 1 ? legend : null),
        this.reading,
      ),
    );
    this.at = null;
    this.svg.addEventListener("pointermove", (event) => this.#point(event.offsetX));
    this.svg.addEventListener("pointerleave", () => this.#choose(null));
    this.svg.addEventListener("blur", () => this.#choose(null));
    this.svg.addEventListener("keydown", (event) => this.#key(event));
    new ResizeObserver(() => this.#render()).observe(this.svg);
  }

  draw(series) {
    this.series = series;
    const last = series.map((line) => line.at(-1)?.[1]);
    setText(this.now, last.map((one) => this.format(one)).join(" / "));
    const peaks = series.map((line) => Math.max(...line.map(([, one]) => one ?? 0), 0));
    const told = this.lines.map(
      ({ name }, at) => `${name} now ${this.format(last[at])}, at most ${this.format(peaks[at])}`,
    );
    this.svg.setAttribute("aria-label", `${this.title}, last five minutes: ${told.join("; ")}`);
    this.#render();
  }

  #render() {
    const width = this.svg.clientWidth;
    if (!width) return;
    const values = this.series
      .flat()
      .map(([, one]) => one)
      .filter((one) => one !== undefined);
    this.wait.hidden = this.series[0].length > 0;
    if (this.series[0].length > 0 && !values.length) {
      this.wait.hidden = false;
      setText(this.wait, "Nothing to measure yet.");
    }
    const most = Math.max(this.floor, ...values);
    const least = this.log ? Math.max(1e-6, Math.min(...values.filter((one) => one > 0), most)) : 0;
    const marks = ticks(most, this.log, least);
    const [low, high] = [marks[0], marks.at(-1)];
    const names = marks.map((mark) => this.format(mark));
    const end = this.series[0].at(-1)?.[0] ?? performance.now();
    const share = this.log
      ? (one) => Math.log(Math.max(one, low) / low) / Math.log(high / low)
      : (one) => one / high;
    this.x = (when) => LEFT + (width - LEFT - RIGHT) * (1 - (end - when) / SPAN_MS);
    this.y = (one) => HEIGHT - BOTTOM - (HEIGHT - BOTTOM - TOP) * Math.min(1, share(one));
    const grid = marks.map((mark, at) => [
      s("line", {
        class: at ? "grid" : "axis",
        x1: LEFT,
        x2: width - RIGHT,
        y1: this.y(mark),
        y2: this.y(mark),
      }),
      s("text", { class: "tick", x: LEFT - 6, y: this.y(mark) + 4, "text-anchor": "end" }, names[at]),
    ]);
    const minutes = (width < 420 ? [4, 2, 0] : [4, 3, 2, 1, 0]).map((ago) => {
      const x = this.x(end - ago * 60_000);
      return s(
        "text",
        { class: "tick", x, y: HEIGHT - 3, "text-anchor": ago ? "middle" : "end" },
        ago ? `−${ago} min` : "now",
      );
    });
    const paths = this.series
      .map((line, at) => this.#path(line, this.lines[at].kind, at === 0 && !this.log))
      .reverse();
    this.cross = s("g", { class: "cross" });
    this.svg.setAttribute("viewBox", `0 0 ${width} ${HEIGHT}`);
    this.svg.replaceChildren(...grid.flat(), ...minutes, ...paths.flat(), this.cross);
    this.#mark();
  }

  #path(line, kind, area) {
    const drawn = [];
    let run = [];
    for (const [when, one] of [...line, [0, undefined]]) {
      if (one !== undefined) run.push(`${this.x(when).toFixed(1)},${this.y(one).toFixed(1)}`);
      else if (run.length) {
        const ground = HEIGHT - BOTTOM;
        const [first, last] = [run[0].split(",")[0], run.at(-1).split(",")[0]];
        if (area)
          drawn.push(
            s("path", {
              class: `area ${kind}`,
              d: `M${first},${ground}L${run.join("L")}L${last},${ground}Z`,
            }),
          );
        drawn.push(
          s("path", { class: `line ${kind}`, d: run.length > 1 ? `M${run.join("L")}` : `M${run[0]}h.1` }),
        );
        run = [];
      }
    }
    return drawn;
  }

  // --- reading values ---

  #point(x) {
    const line = this.series[0];
    if (!line.length || !this.x) return;
    let [best, distance] = [0, Infinity];
    line.forEach(([when], at) => {
      const away = Math.abs(this.x(when) - x);
      if (away < distance) [best, distance] = [at, away];
    });
    this.#choose(line[best][0]);
  }

  #key(event) {
    const line = this.series[0];
    if (!line.length || !["ArrowLeft", "ArrowRight", "Home", "End", "Escape"].includes(event.key)) return;
    event.preventDefault();
    if (event.key === "Escape") return this.#choose(null);
    const at = this.at === null ? line.length : line.findIndex(([when]) => when === this.at);
    const next = { ArrowLeft: at - 1, ArrowRight: at + 1, Home: 0, End: line.length - 1 }[event.key];
    return this.#choose(line[Math.max(0, Math.min(next, line.length - 1))][0]);
  }

  #choose(when) {
    this.at = when;
    this.#mark();
  }

  #mark() {
    const at = this.at === null ? -1 : this.series[0].findIndex(([when]) => when === this.at);
    if (at < 0 || !this.cross) {
      this.cross?.replaceChildren();
      setText(this.reading, "");
      return;
    }
    const x = this.x(this.at);
    const dots = this.series.map((line, which) => {
      const one = line[at]?.[1];
      return one === undefined
        ? null
        : s("circle", { class: `dot ${this.lines[which].kind}`, cx: x, cy: this.y(one), r: 3.5 });
    });
    this.cross.replaceChildren(
      s("line", { class: "hair", x1: x, x2: x, y1: TOP, y2: HEIGHT - BOTTOM }),
      ...dots.filter(Boolean),
    );
    const seconds = Math.round((this.series[0].at(-1)[0] - this.at) / EVERY_MS) * (EVERY_MS / 1_000);
    const told = this.lines.map(
      ({ name }, which) =>
        `${this.lines.length > 1 ? `${name} ` : ""}${this.format(this.series[which][at]?.[1])}`,
    );
    setText(this.reading, `${seconds ? `${seconds} s ago` : "now"}: ${told.join(", ")}`);
  }
}
