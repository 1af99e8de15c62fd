// Size against drop of several jobs in one chart: what each search has found, and its finalists.

import { Chart } from "../charts/chart.js";
import { lowest, marks, stairs } from "../charts/layers.js";
import { DIAMOND, DOT, RING, SQUARE, STAR, TRIANGLE } from "../charts/marks.js";
import { percent, signed } from "../format.js";

const MARKS = [DOT, SQUARE, TRIANGLE, DIAMOND, STAR, RING]; // of as many jobs as can be compared
const DASHES = [null, "7 4", "2 3", "9 3 2 3", "5 2", "12 5"];
const NAMES = ["kept_share", "drop_points", "drop_low", "drop_high"]; // in the file

export const markOf = (index) => MARKS[index].sign;

export class ComparisonChart {
  // `jobs` has the name and the finalists of each job, and its `candidates`.
  constructor(signal, jobs, unit) {
    this.jobs = jobs;
    this.unit = unit;
    this.chart = new Chart(signal, { title: "Size against drop of these jobs" });
    this.element = this.chart.element;
  }

  draw() {
    const { jobs, unit } = this;
    this.chart.draw({
      x: { label: "block parameters kept, % (← smaller)", room: 0.03 },
      y: { label: `drop, ${unit} (↓ better)`, room: 0.06 },
      layers: jobs.flatMap((job, index) => this.#layers(job, index)),
      words: jobs.map(({ name, finalists, candidates }) => `${name}: ${candidates.front.length} models found, ${finalists.length} finalists`).join("; "),
      rows: [["job", "kind", ...NAMES], ...jobs.flatMap((job) => [...rows(job, "candidate", found(job)), ...rows(job, "finalist", job.finalists)])],
    });
  }

  // Finalists on top of what was searched.
  #layers(job, index) {
    const colour = `var(--series-${index + 1})`;
    const point = (kind) => (one) => ({
      x: 100 * one.kept_share,
      y: one.drop_points,
      low: one.drop_low,
      high: one.drop_high,
      say: `${job.name}, ${kind}: ${percent(one.kept_share)} kept, drop ${signed(one.drop_points)} ${this.unit}`,
    });
    return [
      stairs({ label: `${job.name}: least drop up to this size, search split`, colour, dash: DASHES[index], points: lowest(found(job).map(point("candidate"))) }),
      marks({ label: `${job.name}: finalists, with 95 % interval`, mark: MARKS[index], colour, points: job.finalists.map(point("finalist")) }),
    ];
  }
}

const found = ({ candidates }) => candidates.all.filter((one) => one.drop_points !== null);

const rows = ({ name }, kind, those) => those.map((one) => [name, kind, ...NAMES.map((column) => one[column])]);
