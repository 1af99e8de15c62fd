// Size against drop of several jobs in one chart: what each search has found, and its finalists.

import { axis, Chart, roomy } from "../charts.js";
import { percent, signed } from "../format.js";
import { diamond, dot, ring, square, star, triangle, whisker } from "../marks.js";

// Marks of as many jobs as can be compared, none of which is told by its colour alone.
const MARKS = [
  ["●", dot],
  ["■", square],
  ["▲", triangle],
  ["◆", diamond],
  ["★", star],
  ["○", ring],
];

export const markOf = (index) => MARKS[index][0];

export class ComparisonChart {
  #rows = []; // { x, job, column, value, one } behind the columns, smallest first

  // `jobs` has the name and the finalists of each job, and its `candidates`.
  constructor(signal, jobs, unit) {
    this.jobs = jobs;
    this.unit = unit;
    this.chart = new Chart(signal, {
      title: "Size against drop of these jobs",
      options: (ink) => this.#options(ink),
      words: () => jobs.map(({ name, finalists, candidates }) => `${name}: ${candidates.front.length} models found, ${finalists.length} finalists`).join("; "),
      rows: () => this.#numbers(),
    });
    this.element = this.chart.element;
  }

  draw() {
    const row = (job, isFinalist) => (one) => ({ x: 100 * one.kept_share, job, column: 1 + 2 * job + Number(isFinalist), value: one.drop_points, one });
    this.#rows = this.jobs.flatMap(({ candidates, finalists }, job) => [
      ...candidates.front.filter((one) => one.drop_points !== null).map(row(job, false)),
      ...finalists.map(row(job, true)),
    ]);
    this.#rows.sort((one, other) => one.x - other.x);
    const columns = [this.#rows.map((one) => one.x)];
    for (let column = 1; column <= 2 * this.jobs.length; column += 1) columns.push(this.#rows.map((one) => (one.column === column ? one.value : null)));
    this.chart.draw(columns);
  }

  #options(ink) {
    const value = (_, drop) => (drop == null ? "–" : `${signed(drop)} ${this.unit}`);
    const found = (name, job) => ({ label: `— ${name}, search split`, stroke: ink(colour(job)), width: 1.5, spanGaps: true, scale: "drop", value, paths: window.uPlot.paths.stepped({ align: 1 }), points: { show: true, size: 4 } });
    const tested = (name, job) => ({ label: `${markOf(job)} ${name}, finalists`, stroke: ink(colour(job)), scale: "drop", value, paths: () => null, points: { show: false } });
    return {
      scales: { x: { time: false, range: roomy(2) }, drop: { range: (_, least, most) => this.#range(least, most) } },
      series: [
        { label: "kept", value: (_, x) => (x == null ? "–" : percent(x / 100)) },
        ...this.jobs.flatMap(({ name }, job) => [found(name, job), tested(name, job)]),
      ],
      axes: [axis(ink, "block parameters kept, %"), axis(ink, `drop, ${this.unit} (↓ better)`, { scale: "drop", size: 60 })],
      hooks: { draw: [(plot) => this.#mark(plot, ink)] },
    };
  }

  // Of the drops in view, with the intervals of all finalists.
  #range(least, most) {
    const ends = this.jobs.flatMap(({ finalists }) => finalists.flatMap(endsOf));
    return window.uPlot.rangeNum(Math.min(least, ...ends), Math.max(most, ...ends), 0.1, true);
  }

  // Finalists on top of what was searched.
  #mark(plot, ink) {
    const { ctx, bbox } = plot;
    const at = (drop) => plot.valToPos(drop, "drop", true);
    ctx.save();
    ctx.setLineDash([]);
    ctx.beginPath();
    ctx.rect(bbox.left, bbox.top, bbox.width, bbox.height);
    ctx.clip();
    for (const { x, job, column, one } of this.#rows) {
      if (column % 2 === 1 || !plot.series[column].show) continue;
      const left = plot.valToPos(x, "x", true);
      whisker(ctx, left, ...endsOf(one).map(at), ink(colour(job)));
      MARKS[job][1](ctx, left, at(one.drop_points), ink(colour(job)), ink("--paper"));
    }
    ctx.restore();
  }

  #numbers() {
    const names = ["kept_share", "drop_points", "drop_low", "drop_high"];
    return [["job", "kind", ...names], ...this.#rows.map(({ job, column, one }) => [this.jobs[job].name, column % 2 === 1 ? "candidate" : "finalist", ...names.map((name) => one[name])])];
  }
}

// A finalist without an interval is its own.
const endsOf = (one) => [one.drop_low ?? one.drop_points, one.drop_high ?? one.drop_points];

const colour = (job) => `--series-${job + 1}`;
