// Curves and fronts, drawn by uPlot.

const HEIGHT = 260;

// A chart that keeps its place on the page: `draw` gives it other numbers.
//
//   series   [{ label, unit, axis: "left" | "right", dashed }], of the values behind x
//   name(i)  what point i is called; without it, x is a number with `unit`
//   pick(i)  a point was clicked
export class Chart {
  constructor(place, { title, x, series, name, pick }) {
    this.place = place;
    this.options = { title, x, series, name, pick };
    new ResizeObserver(() => this.plot?.setSize({ width: place.clientWidth, height: HEIGHT })).observe(place);
  }

  draw(columns) {
    if (columns[0].length === 0) return;
    if (this.plot === undefined) this.plot = new window.uPlot(this.#settings(), columns, this.place);
    else this.plot.setData(columns);
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
      scales: { x: { time: false } },
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
          value: (_, value) => (value == null ? "–" : `${value.toFixed(one.digits ?? 3)} ${one.unit}`),
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

// A variable of the style sheet as a canvas takes it: for the light page or the dark one, whichever is shown.
function colourOf(place, variable) {
  place.style.color = `var(${variable})`;
  const { color } = getComputedStyle(place);
  place.style.color = "";
  return color;
}
