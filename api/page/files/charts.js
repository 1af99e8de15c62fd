// Curves and fronts, drawn by uPlot.

const HEIGHT = 260;

// A chart that stays on the page; `draw` gives it new numbers.
//
//   series   [{ label, unit, axis: "left" | "right", dashed }], of the values behind x
//   name(i)  name of point i; without it, x is a number with `unit`
//   pick(i)  a point was clicked
//
// It is destroyed when the signal aborts: uPlot holds every plot until then.
export class Chart {
  constructor(place, signal, { title, x, series, name, pick }) {
    this.place = place;
    this.options = { title, x, series, name, pick };
    new ResizeObserver(() => this.plot?.setSize({ width: place.clientWidth, height: HEIGHT })).observe(place);
    matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => this.#drawAnew(), { signal });
    signal.addEventListener("abort", () => this.plot?.destroy(), { once: true });
    place.setAttribute("role", "img");
    place.hidden = true; // until there is something to see
  }

  draw(columns) {
    this.place.hidden = columns[0].length === 0;
    if (this.place.hidden) return;
    if (this.plot === undefined) this.plot = new window.uPlot(this.#settings(), columns, this.place);
    else this.#renew(columns);
    this.place.setAttribute("aria-label", this.#inWords(columns));
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

  // The last point, for whoever does not see the others.
  #inWords([xs, ...columns]) {
    const { title, x, series, name } = this.options;
    const last = xs.length - 1;
    const values = series.map((one, index) => `${one.label} ${formatted(one, columns[index][last])}`);
    return `${title}. ${xs.length} ${xs.length === 1 ? "point" : "points"}, the last at ${x} ${name ? name(last) : xs[last].toFixed(1)}: ${values.join(", ")}`;
  }

  #settings() {
    const { title, x, series, name, pick } = this.options;
    const colour = (variable) => colourOf(this.place, variable);
    const ink = { stroke: colour("--ink"), grid: { stroke: colour("--line"), width: 1 }, ticks: { show: false } };
    const right = series.find((one) => one.axis === "right");
    const left = series.find((one) => one.axis !== "right");
    const clicked = (plot) => plot.over.addEventListener("click", () => plot.cursor.idx != null && pick(plot.cursor.idx));
    return {
      title,
      width: this.place.clientWidth,
      height: HEIGHT,
      scales: { x: { time: false, ...(name ? { range: stepsIn } : {}) } },
      series: [
        { label: x, value: (_, value, __, index) => (index == null ? "–" : name ? name(index) : value.toFixed(1)) },
        ...series.map((one, index) => ({
          label: one.label,
          scale: one.axis ?? "left",
          stroke: colour(`--series-${index + 1}`),
          width: 2,
          dash: one.dashed ? [6, 4] : undefined,
          points: { show: true, size: 6 },
          spanGaps: true,
          value: (_, value) => formatted(one, value),
        })),
      ],
      axes: [
        { ...ink, label: x, labelSize: 20, ...(name ? { incrs: [1, 2, 5, 10, 20, 50, 100, 200, 500, 1000] } : {}) },
        { ...ink, scale: "left", label: left.axisLabel, labelSize: 20, size: 60 },
        ...(right ? [{ ...ink, scale: "right", side: 1, label: right.axisLabel, labelSize: 20, size: 60, grid: { show: false } }] : []),
      ],
      hooks: pick ? { ready: [clicked] } : {},
    };
  }
}

// Range of the steps' axis; uPlot would widen a single step to a hundred.
const stepsIn = (plot, min, max) => [min, plot.data[0].length === 1 ? min + 1 : max];

const formatted = ({ digits = 3, unit }, value) => (value == null ? "–" : `${value.toFixed(digits)} ${unit}`);

// A style-sheet variable resolved for a canvas, for the current light or dark page.
function colourOf(place, variable) {
  place.style.color = `var(${variable})`;
  const { color } = getComputedStyle(place);
  place.style.color = "";
  return color;
}
