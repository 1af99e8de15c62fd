// Every scored candidate of a search, in a table of which only the rows in view exist.

import { lossOf } from "./candidates.js";
import { h } from "./elements.js";
import { count, fixed, percent, signed } from "./format.js";
import { csv, save, saveButton } from "./saving.js";

const ROW_PX = 28; // as in the style sheet
const AROUND = 12; // rows above and below those in view
const TITLE = "Candidates";

export class CandidateTable {
  #all = [];
  #sorted = [];
  #rows = new Map(); // those that exist, { element, one } by index
  #by = 0; // column that the rows are sorted by
  #sign = 1;

  // `pick` is called with the id of the candidate that was clicked.
  constructor(unit, pick) {
    this.pick = pick;
    this.columns = [
      ["kept", (one) => one.kept_share, percent],
      ["loss, nats", lossOf, (loss) => fixed(loss, 4)],
      [`drop, ${unit}`, (one) => one.drop_points, signed],
      ["drop at most", (one) => one.drop_bound, signed],
      ["generation", (one) => one.generation, count],
      ["candidate", (one) => one.id, String],
    ];
    this.heads = this.columns.map(([name], column) => h("th", { scope: "col" }, h("button", { type: "button", onclick: () => this.#sortBy(column) }, name)));
    [this.top, this.bottom] = ["top", "bottom"].map(() => h("tr", { "aria-hidden": "true", class: "space" }, h("td", { colspan: this.columns.length })));
    this.body = h("tbody", {}, this.top, this.bottom);
    this.table = h("table", { class: "numbers", "aria-label": TITLE }, h("thead", {}, h("tr", { "aria-rowindex": 1 }, this.heads)), this.body);
    this.scroll = h("div", { class: "rows", tabindex: 0, role: "region", "aria-label": `${TITLE}, all`, onscroll: () => this.#fill() }, this.table);
    this.title = h("summary", {});
    const saved = () => save(csv([this.columns.map(([name]) => name), ...this.#sorted.map((one) => this.columns.map(([, value]) => value(one)))]), `${TITLE}.csv`);
    this.element = h("details", { ontoggle: () => this.#sort() }, this.title, this.scroll, saveButton("CSV", TITLE, saved));
  }

  show(all) {
    this.#all = all;
    this.element.hidden = all.length === 0;
    this.title.textContent = `All ${count(all.length)} scored candidates`;
    this.#sort();
  }

  #sortBy(column) {
    this.#sign = column === this.#by ? -this.#sign : 1;
    this.#by = column;
    this.scroll.scrollTop = 0;
    this.#sort();
  }

  // Candidates without a number are last either way.
  #sort() {
    if (!this.element.open) return;
    const [, value] = this.columns[this.#by];
    const missing = (one) => Number(value(one) == null);
    this.#sorted = this.#all.toSorted((one, other) => missing(one) - missing(other) || this.#sign * (value(one) - value(other)));
    for (const [column, head] of this.heads.entries()) {
      if (column === this.#by) head.setAttribute("aria-sort", this.#sign > 0 ? "ascending" : "descending");
      else head.removeAttribute("aria-sort");
    }
    this.table.setAttribute("aria-rowcount", this.#sorted.length + 1);
    this.#fill();
  }

  // Rows that stay in view are left as they are, with the focus that one of them may have.
  #fill() {
    const { scrollTop, clientHeight } = this.scroll;
    const first = Math.max(0, Math.floor(scrollTop / ROW_PX) - AROUND);
    const end = Math.min(this.#sorted.length, Math.ceil((scrollTop + clientHeight) / ROW_PX) + AROUND);
    for (const [index, { element, one }] of this.#rows) {
      if (index >= first && index < end && one === this.#sorted[index]) continue;
      element.remove();
      this.#rows.delete(index);
    }
    for (let index = end - 1, next = this.bottom; index >= first; index -= 1) {
      if (!this.#rows.has(index)) this.#rows.set(index, { one: this.#sorted[index], element: this.#row(index) });
      const { element } = this.#rows.get(index);
      if (!element.isConnected) this.body.insertBefore(element, next);
      next = element;
    }
    this.top.firstChild.style.height = `${first * ROW_PX}px`;
    this.bottom.firstChild.style.height = `${(this.#sorted.length - end) * ROW_PX}px`;
  }

  #row(index) {
    const one = this.#sorted[index];
    const cells = this.columns.map(([, value, format]) => (value(one) == null ? "–" : format(value(one))));
    const last = h("button", { type: "button", "aria-label": `show candidate ${one.id}`, onclick: () => this.pick(String(one.id)) }, cells.pop());
    return h("tr", { "aria-rowindex": index + 2 }, [...cells, last].map((cell) => h("td", {}, cell)));
  }
}
