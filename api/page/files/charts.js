// Charts that stay on the page, drawn by uPlot.

import { h } from "./elements.js";
import { csv, picture, save, saveButton } from "./saving.js";

const HEIGHT = 320;

// Series labels begin with the mark that the chart draws for them, so that none is told by its colour alone.
//
//   title         what the chart shows
//   options(ink)  series, axes, scales, hooks and cursor; `ink(name)` is a colour of the style sheet
//   words()       the chart in words, for whoever does not see it
//   rows()        its numbers as rows of a CSV file, the first of names
//   pick(index)   the point nearest to the cursor was clicked
//
// A chart is destroyed when the signal aborts: uPlot holds every plot until then.
export class Chart {
  constructor(signal, { title, options, words, rows, pick }) {
    Object.assign(this, { title, options, words, pick });
    const place = h("div", { role: "img" });
    const asPicture = async () => save(await picture(this.plot, title, (name) => colourOf(place, name)), `${title}.png`);
    const asNumbers = () => save(csv(rows()), `${title}.csv`);
    this.place = place;
    this.element = h("div", { class: "chart" }, place, saveButton("PNG", title, asPicture), saveButton("CSV", title, asNumbers));
    this.element.hidden = true; // until there is something to see
    new ResizeObserver(() => this.plot?.setSize({ width: place.clientWidth, height: HEIGHT })).observe(place);
    matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => this.#drawAnew(), { signal });
    signal.addEventListener("abort", () => this.plot?.destroy(), { once: true });
  }

  draw(columns) {
    this.element.hidden = columns[0].length === 0;
    if (this.element.hidden) return;
    if (this.plot === undefined) this.plot = new window.uPlot(this.#settings(), columns, this.place);
    else this.#renew(columns);
    this.place.setAttribute("aria-label", `${this.title}. ${this.words()}`);
  }

  // What a reader has zoomed to stays in view; a double click shows all again.
  #renew(columns) {
    const { plot } = this;
    const { min, max } = plot.scales.x;
    const isZoomed = min > plot.data[0][0] || max < plot.data[0].at(-1);
    plot.setData(columns, !isZoomed);
    if (isZoomed) plot.redraw();
  }

  // A plot keeps the colours that it was made with.
  #drawAnew() {
    if (this.plot === undefined) return;
    const { data } = this.plot;
    this.plot.destroy();
    this.plot = undefined;
    this.draw(data);
  }

  #settings() {
    const made = this.options((name) => colourOf(this.place, name));
    const clicked = (plot) => plot.over.addEventListener("click", () => plot.cursor.idx != null && this.pick(plot.cursor.idx));
    const hooks = { ...made.hooks, ready: this.pick ? [clicked] : [] };
    return { title: this.title, width: this.place.clientWidth, height: HEIGHT, ...made, hooks };
  }
}

export function axis(ink, label, more = {}) {
  return { stroke: ink("--ink"), grid: { stroke: ink("--line"), width: 1 }, ticks: { show: false }, label, labelSize: 20, ...more };
}

// Range of a scale of x with room before the first and after the last point, unless a reader has zoomed in.
export function roomy(room) {
  return (plot, min, max) => (min === plot.data[0][0] && max === plot.data[0].at(-1) ? [min - room, max + room] : [min, max]);
}

// A style-sheet variable resolved for a canvas, for the current light or dark page.
function colourOf(place, variable) {
  place.style.color = `var(${variable})`;
  const { color } = getComputedStyle(place);
  place.style.color = "";
  return color;
}
