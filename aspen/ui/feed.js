// The newest changes as they are told, newest first, and how the stream stands. Rows are made of those alone that
// will be seen: a stream may bring thousands in a second.

import { h, roving, row, setText, show, table } from "./dom.js";

const DRAW_MS = 100;

export class Feed {
  /** `cells` makes a change the cells of a row; `nothing` stands there until there is one. */
  constructor(caption, columns, most, cells, nothing) {
    Object.assign(this, { columns, most, cells, waiting: [] });
    this.state = h("span", { class: "live" }, "connecting…");
    this.element = h("div", null, nothing);
    this.grid = table(caption, columns, []);
    this.body = this.grid.querySelector("tbody");
    this.refresh = roving(this.grid, "a");
  }

  add(changes) {
    this.waiting = this.waiting.concat(changes).slice(-this.most);
    this.timer ??= setTimeout(() => this.#draw(), DRAW_MS);
  }

  #draw() {
    this.timer = undefined;
    this.body.prepend(...this.waiting.reverse().map((change) => row(this.columns, this.cells(change))));
    while (this.body.children.length > this.most) this.body.lastElementChild.remove();
    this.waiting = [];
    if (!this.grid.isConnected) show(this.element, this.grid);
    this.refresh();
  }

  /** What `watch` says of itself. */
  stands(now, error) {
    const broken =
      error?.code === "compacted" ? "some were missed" : `not live: ${error?.reason ?? "interrupted"}`;
    setText(this.state, { live: "live", connecting: "connecting…" }[now] ?? broken);
    this.state.className = now === "live" ? "live on" : "live";
  }
}
