// Best loss so far at the size being tried, generation by generation.

import { fixed, percent } from "../format.js";
import { Chart } from "./chart.js";
import { band, marks, stairs } from "./layers.js";
import { DOT } from "./marks.js";

const NAMES = ["generation", "target_share", "kept_share", "loss_nats", "drop_points", "evaluations", "accepted"]; // in the file
const GROUNDS = new Map([[true, "var(--good)"], [false, "var(--bad)"]]);

// Losses of models of different sizes are not compared: each target size has a curve of its own, which only falls.
export class BestChart {
  constructor(signal, { spec }) {
    this.kind = spec.objective.kind;
    this.chart = new Chart(signal, { title: "Best so far at the size being tried" });
  }

  // A target that is still tried has neither held nor failed, unless the search is over.
  draw(generations, isOver) {
    if (this.kind === "pareto") return; // it tries all sizes at once
    const runs = runsOf(generations, isOver);
    const names = runs.map((run) => `${percent(run.target, 0)}${this.#verdict(run)}`);
    this.chart.draw({
      x: { label: "generation →", room: 0, least: 1 },
      y: { label: "least loss so far, nats (↓ better)", room: 0.1 },
      layers: [
        ...runs.map((run, index) => band({ from: run.from - 0.5, to: run.to + 0.5, colour: this.#verdict(run) && GROUNDS.get(run.held), text: names[index] })),
        ...runs.filter(({ points }) => points.length > 0).map(({ points }) => stairs({ colour: "var(--series-1)", points })),
        marks({ label: "least loss so far at the size of this stretch", mark: DOT, colour: "var(--series-1)", points: runs.flatMap(({ points }) => points) }),
      ],
      words: runs.map(({ from, to }, index) => `${names[index]}: ${from === to ? `generation ${from}` : `generations ${from} to ${to}`}`).join("; "),
      rows: [NAMES, ...generations.map((one) => NAMES.map((name) => one[name]))],
    });
  }

  #verdict({ held }) {
    if (this.kind !== "max_drop" || held === null) return "";
    return held ? " held" : " did not";
  }
}

// Generations in a row at one target size: { target, from, to, held, points }. `held` is null where that is not known yet.
function runsOf(generations, isOver) {
  const runs = [];
  const best = new Map(); // by target: one that is tried again goes on where it was
  for (const { generation, target_share: target, loss_nats: loss, accepted } of generations) {
    if (runs.at(-1)?.target !== target) runs.push({ target, from: generation, held: false, points: [] });
    const run = runs.at(-1);
    run.to = generation;
    run.held ||= accepted;
    if (loss !== null) best.set(target, Math.min(loss, best.get(target) ?? Infinity));
    if (best.has(target)) run.points.push(point(generation, target, best.get(target)));
  }
  if (runs.length > 0 && !isOver) runs.at(-1).held ||= null;
  return runs;
}

const point = (generation, target, loss) => ({ x: generation, y: loss, say: `generation ${generation}, at ${percent(target)}: least loss so far ${fixed(loss, 4)} nats` });
