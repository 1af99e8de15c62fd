// Charts that stay on the page and can leave it, as SVG.

import { h } from "../elements.js";
import { csv, save, saveButton } from "../saving.js";
import { pngFile, svgFile } from "./figure.js";
import { FONT, textWidth } from "./layers.js";
import { range, scale, ticks } from "./scales.js";
import { px, s } from "./svg.js";

const [LEFT, RIGHT, TOP, BOTTOM] = [56, 16, 48, 44]; // around the place of the points
const HEIGHT = 260; // of that place
const NARROWEST = 280;
const EDGE = 8; // of a mark that sticks out of it
const NEAR = 40; // how far a point may be from the cursor, in pixels
const DRAGGED = 6; // from how far on a press is no click
const ROW = 20; // of the legend
const SAMPLE = 32;

// What `draw` takes has
//
//   x, y     the axes: { label, room, least }: room as a share of what is shown, and the least step of ticks
//   layers   as in `layers.js`
//   words    the chart in words, for whoever does not see it
//   rows     its numbers as rows of a CSV file, the first of names
//
// A drag shows what lies between its ends, a double click all again.
export class Chart {
  #content = null;
  #spots = []; // { left, top, point } of those that can be hovered
  #zoom = null; // ends of what is shown of x, if not all is
  #pressed = null; // x of the pointer where it went down

  // `pick` is called with the point that was clicked.
  constructor(signal, { title, pick }) {
    Object.assign(this, { title, pick });
    this.place = h("div", { role: "img" });
    this.here = h("p", { class: "facts here" });
    const saved = (kind, made) => saveButton(kind, title, async () => save(await made(), `${title}.${kind.toLowerCase()}`));
    const saves = [saved("SVG", () => svgFile(this.svg)), saved("PNG", () => pngFile(this.svg)), saved("CSV", () => csv(this.#content.rows))];
    this.element = h("div", { class: "chart" }, this.place, this.here, saves);
    this.element.hidden = true; // until there is something to see
    const events = { pointermove: this.#hover, pointerdown: this.#press, pointerup: this.#release, pointerleave: this.#leave, dblclick: () => this.#show(null) };
    for (const [name, act] of Object.entries(events)) this.place.addEventListener(name, act.bind(this));
    const resized = new ResizeObserver(() => this.#content && this.place.clientWidth !== this.width && this.#render());
    resized.observe(this.place);
    signal.addEventListener("abort", () => resized.disconnect(), { once: true });
  }

  draw(content) {
    this.element.hidden = content.layers.every(({ points }) => points.length === 0);
    if (this.element.hidden) return;
    this.#content = { ...content, layers: content.layers.filter(({ points, isGround }) => isGround || points.length > 0) };
    this.place.setAttribute("aria-label", `${this.title}. ${content.words}`);
    this.#render();
  }

  #render() {
    const { x, y, layers } = this.#content;
    this.width = this.place.clientWidth;
    const right = Math.max(NARROWEST, this.width) - RIGHT;
    this.box = { left: LEFT, right, top: TOP, bottom: TOP + HEIGHT };
    const points = layers.flatMap((layer) => layer.points);
    this.shown = this.#zoom ?? range([...points.map((point) => point.x), ...layers.flatMap((layer) => layer.xs ?? [])], x.room);
    const inView = points.some((point) => this.#isShown(point)) ? points.filter((point) => this.#isShown(point)) : points;
    const ends = inView.flatMap(({ y, low, high }) => [y, low ?? y, high ?? y]);
    const high = range([...ends, ...layers.flatMap((layer) => layer.ys ?? [])], y.room);
    const at = { box: this.box, x: scale(this.shown, [LEFT, right]), y: scale(high, [this.box.bottom, TOP]) };
    this.at = at;
    this.#spots = points.filter((point) => point.say && this.#isShown(point)).map((point) => ({ left: at.x(point.x), top: at.y(point.y), point }));
    const [legend, rows] = this.#legend(layers);
    const [width, height] = [right + RIGHT, this.box.bottom + BOTTOM + rows * ROW + 8];
    this.ring = s("circle", { r: 8, fill: "none", stroke: "var(--ink)", visibility: "hidden" });
    this.choice = s("rect", { y: TOP, height: HEIGHT, fill: "var(--ink)", "fill-opacity": 0.15, width: 0 });
    const title = s("text", { x: LEFT, y: 16, fill: "var(--ink)", "font-size": 15, "font-weight": 600 }, this.title);
    const ground = s("rect", { width, height, fill: "var(--paper)" });
    this.svg = s("svg", { width, height, viewBox: `0 0 ${width} ${height}`, ...FONT }, ground, title, this.#axes(x, y, high), this.#inside(layers), legend, this.choice, this.ring);
    this.place.replaceChildren(this.svg);
  }

  #isShown = ({ x }) => x >= this.shown[0] && x <= this.shown[1];

  #axes(x, y, heights) {
    const { left, right, top, bottom } = this.box;
    const text = (content, more) => s("text", { fill: "var(--ink)", ...more }, content);
    const grid = (d) => s("path", { d, stroke: "var(--line)", fill: "none" });
    const columns = ticks(this.shown, (right - left) / 70, x.least).flatMap(([value, name]) => {
      const at = px(this.at.x(value));
      return [grid(`M${at} ${top}V${bottom}`), text(name, { x: at, y: bottom + 16, "text-anchor": "middle" })];
    });
    const rows = ticks(heights, HEIGHT / 45, y.least).flatMap(([value, name]) => {
      const at = px(this.at.y(value));
      return [grid(`M${left} ${at}H${right}`), text(name, { x: left - 6, y: at + 4, "text-anchor": "end" })];
    });
    const names = [text(x.label, { x: right, y: bottom + 36, "text-anchor": "end" }), text(y.label, { x: 4, y: 37 })];
    return s("g", {}, columns, rows, names);
  }

  // What is outside of the place of the points is cut off there.
  #inside(layers) {
    const { left, right, top, bottom } = this.box;
    const [width, height] = [right - left + 2 * EDGE, bottom - top + 2 * EDGE];
    const place = { x: left - EDGE, y: top - EDGE, width, height, viewBox: `${left - EDGE} ${top - EDGE} ${width} ${height}` };
    return s("svg", place, layers.map((layer) => s("g", {}, layer.draw(this.at))));
  }

  // Entries one behind the other, in as many rows as they need.
  #legend(layers) {
    let [x, row] = [0, 0];
    const entries = layers.filter((layer) => layer.label).map((layer) => {
      const width = SAMPLE + textWidth(layer.label) + 18;
      if (x > 0 && x + width > this.box.right + RIGHT) [x, row] = [0, row + 1];
      const y = this.box.bottom + BOTTOM + row * ROW + 10;
      const entry = s("g", {}, layer.sample(x + SAMPLE / 2 - 4, y), s("text", { x: x + SAMPLE, y: y + 4, fill: "var(--ink)" }, layer.label));
      x += width;
      return entry;
    });
    return [s("g", {}, entries), row + 1];
  }

  #position(event) {
    const { left, top } = this.svg.getBoundingClientRect();
    return [event.clientX - left, event.clientY - top];
  }

  #nearest(event) {
    const [x, y] = this.#position(event);
    let [found, least] = [null, NEAR ** 2];
    for (const spot of this.#spots) {
      const away = (spot.left - x) ** 2 + (spot.top - y) ** 2;
      if (away <= least) [found, least] = [spot, away];
    }
    return found;
  }

  #hover(event) {
    if (this.#pressed !== null) this.#choose(event);
    const found = this.#nearest(event);
    this.here.textContent = found?.point.say ?? "";
    this.ring.setAttribute("visibility", found ? "visible" : "hidden");
    if (found === null) return;
    this.ring.setAttribute("cx", found.left);
    this.ring.setAttribute("cy", found.top);
  }

  #leave() {
    this.#pressed = null;
    this.choice.setAttribute("width", 0);
    this.ring.setAttribute("visibility", "hidden");
  }

  #press(event) {
    if (event.button === 0 && event.pointerType === "mouse") [this.#pressed] = this.#position(event);
  }

  #choose(event) {
    const [x] = this.#position(event);
    this.choice.setAttribute("x", Math.min(x, this.#pressed));
    this.choice.setAttribute("width", Math.abs(x - this.#pressed));
  }

  #release(event) {
    const [x] = this.#position(event);
    const start = this.#pressed ?? x;
    this.#pressed = null;
    if (Math.abs(x - start) >= DRAGGED) {
      const value = scale([this.box.left, this.box.right], this.shown);
      this.#show([Math.min(x, start), Math.max(x, start)].map(value));
    } else {
      const found = this.#nearest(event);
      if (found) this.pick?.(found.point);
    }
  }

  #show(zoom) {
    this.#zoom = zoom;
    this.#render();
  }
}
