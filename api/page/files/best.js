// Best loss so far at the size being tried, generation by generation.

import { axis, Chart, roomy } from "./charts.js";
import { fixed, percent } from "./format.js";

// Losses of models of different sizes are not compared: each target size has a curve of its own, which only falls.
export class BestChart {
  #records = [];
  #runs = []; // of generations in a row at one target size: { target, from, to, held }

  constructor(signal, { spec }) {
    this.kind = spec.objective.kind;
    this.chart = new Chart(signal, {
      title: "Best so far at the size being tried",
      options: (ink) => this.#options(ink),
      words: () => this.#words(),
      rows: () => this.#rows(),
    });
  }

  // A target that is still tried has neither held nor failed, unless the search is over.
  draw(generations, isOver) {
    if (this.kind === "pareto") return; // it tries all sizes at once
    this.#records = generations;
    this.#runs = runsOf(generations, isOver);
    const best = new Map(); // by target size
    const values = generations.map(({ target_share: target, loss_nats: loss }) => {
      if (loss !== null) best.set(target, Math.min(loss, best.get(target) ?? Infinity));
      return best.get(target) ?? null;
    });
    const run = ({ generation }) => this.#runs.findIndex(({ from, to }) => from <= generation && generation <= to);
    const every = (parity) => generations.map((one, index) => (run(one) % 2 === parity ? values[index] : null));
    this.chart.draw([generations.map((one) => one.generation), every(0), every(1)]);
  }

  #options(ink) {
    const loss = (_, value) => (value == null ? "–" : `${fixed(value, 4)} nats`);
    const shared = { width: 2, scale: "loss", value: loss, paths: window.uPlot.paths.stepped({ align: 1 }), points: { show: true, size: 7 } };
    const curve = (label, colour, dash) => ({ label, stroke: ink(colour), dash, ...shared });
    const size = (index) => (index == null ? "–" : `${this.#records[index].generation}, ${this.#label(this.#records[index].target_share)}`);
    return {
      scales: { x: { time: false, range: roomy(0.5) } },
      series: [
        { label: "generation", value: (_, __, ___, index) => size(index) },
        curve("— least loss", "--series-1"),
        curve("- - least loss at the next size", "--series-2", [6, 4]),
      ],
      axes: [axis(ink, "generation", { incrs: [1, 2, 5, 10, 20, 50, 100, 200, 500, 1000] }), axis(ink, "loss, nats (↓ better)", { scale: "loss", size: 70 })],
      hooks: { drawClear: [(plot) => this.#shade(plot, ink)], draw: [(plot) => this.#name(plot, ink)] },
    };
  }

  #label(target) {
    return percent(target, 0);
  }

  #verdict({ held }) {
    if (this.kind !== "max_drop" || held === null) return "";
    return held ? " held" : " did not";
  }

  #bands(plot) {
    const { left, width } = plot.bbox;
    const edge = (x) => Math.min(left + width, Math.max(left, plot.valToPos(x, "x", true)));
    return this.#runs.map((run) => ({ run, start: edge(run.from - 0.5), end: edge(run.to + 0.5) }));
  }

  #shade(plot, ink) {
    const { ctx, bbox } = plot;
    for (const { run, start, end } of this.#bands(plot)) {
      if (this.#verdict(run) === "") continue;
      ctx.fillStyle = `color-mix(in srgb, ${ink(run.held ? "--good" : "--bad")} 12%, transparent)`;
      ctx.fillRect(start, bbox.top, end - start, bbox.height);
    }
  }

  // Names of bands that are wide enough; the others are in the legend.
  #name(plot, ink) {
    const { ctx, bbox } = plot;
    ctx.save();
    ctx.font = `${12 * devicePixelRatio}px system-ui, sans-serif`;
    ctx.fillStyle = ink("--ink");
    ctx.textAlign = "center";
    ctx.textBaseline = "top";
    for (const { run, start, end } of this.#bands(plot)) {
      const text = `${this.#label(run.target)}${this.#verdict(run)}`;
      if (ctx.measureText(text).width < end - start) ctx.fillText(text, (start + end) / 2, bbox.top + 4 * devicePixelRatio);
    }
    ctx.restore();
  }

  #rows() {
    const names = ["generation", "target_share", "kept_share", "loss_nats", "drop_points", "evaluations", "accepted"];
    return [names, ...this.#records.map((one) => names.map((name) => one[name]))];
  }

  #words() {
    const span = ({ from, to }) => (from === to ? `generation ${from}` : `generations ${from} to ${to}`);
    return this.#runs.map((run) => `${this.#label(run.target)}${this.#verdict(run)}: ${span(run)}`).join("; ");
  }
}

// `held` is null where that is not known yet.
function runsOf(generations, isOver) {
  const runs = [];
  for (const { generation, target_share: target, accepted } of generations) {
    const last = runs.at(-1);
    if (last?.target === target) Object.assign(last, { to: generation, held: accepted || last.held });
    else runs.push({ target, from: generation, to: generation, held: accepted });
  }
  if (runs.length > 0 && !isOver) runs.at(-1).held ||= null;
  return runs;
}
