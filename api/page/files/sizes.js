// Size against drop: all that a search has scored, its finalists, the promise, the dense model and the export.

import { axis, Chart, roomy } from "./charts.js";
import { dropUnit, percent, signed } from "./format.js";
import { diamond, dot, generationColours, ring, square, star, whisker } from "./marks.js";

const [X, EARLY, WHOLE, FRONT, FINALISTS, DENSE, EXPORTED] = Array(7).keys();

const EDGE = 4 * devicePixelRatio; // room for marks of what is above the chart

export class SizeChart {
  #rows = []; // { x, y, values, one, label, pick } behind the columns, smallest first

  // `pick` is called with the id of the candidate that was clicked.
  constructor(signal, { spec }, pick) {
    this.unit = dropUnit(spec.task.kind);
    const { kind, points } = spec.objective;
    this.promise = ["max_drop", "pareto"].includes(kind) ? points : null;
    this.chart = new Chart(signal, {
      title: "Size against drop",
      options: (ink) => this.#options(ink),
      words: () => this.#words(),
      rows: () => this.#numbers(),
      pick: (index) => this.#rows[index].pick && pick(this.#rows[index].pick),
    });
    this.element = this.chart.element;
  }

  // `exported` is the finalist that was exported, if any; `share` is that of the blocks that the reference of drops has.
  draw(candidates, finalists, exported, share) {
    this.candidates = candidates;
    this.finalists = finalists;
    this.exported = exported;
    this.#rows = [
      ...candidates.all.filter((one) => one.drop_points !== null).map((one) => this.#candidateRow(one)),
      ...finalists.map((one) => this.#finalistRow(one)),
    ];
    if (this.#rows.length > 0) this.#rows.push({ x: 100 * share, y: 0, values: { [DENSE]: 0 }, label: "reference of drops" });
    this.#rows.sort((one, other) => one.x - other.x);
    const columns = [this.#rows.map((row) => row.x)];
    for (const column of [EARLY, WHOLE, FRONT, FINALISTS, DENSE, EXPORTED]) columns.push(this.#rows.map((row) => row.values[column] ?? null));
    if (this.promise !== null) columns.push(this.#rows.map(() => this.promise));
    this.chart.draw(columns);
  }

  #candidateRow(one) {
    const values = { [this.candidates.isWhole(one) ? WHOLE : EARLY]: one.drop_points };
    if (this.candidates.front.includes(one)) values[FRONT] = one.drop_points;
    return { x: 100 * one.kept_share, y: one.drop_points, values, one, label: `candidate ${one.id} of generation ${one.generation}`, pick: String(one.id) };
  }

  #finalistRow(one) {
    const searched = this.candidates.front.find((other) => other.kept_share === one.kept_share);
    const values = { [FINALISTS]: one.drop_points };
    if (one === this.exported) values[EXPORTED] = one.drop_points;
    const label = `finalist, 95 % interval ${signed(one.drop_low)} to ${signed(one.drop_high)}`;
    return { x: 100 * one.kept_share, y: one.drop_points, values, one, label, pick: searched && String(searched.id) };
  }

  #options(ink) {
    const drop = (_, value) => (value == null ? "–" : `${signed(value)} ${this.unit}`);
    const marks = (label, more = {}) => ({ label, stroke: ink("--ink"), scale: "drop", paths: () => null, points: { show: false }, value: drop, ...more });
    const paths = window.uPlot.paths.stepped({ align: 1 });
    const line = (label, colour, more) => marks(label, { stroke: ink(colour), width: 1.5, spanGaps: true, paths, ...more });
    const row = (index) => `${percent(this.#rows[index].x / 100)}, ${this.#rows[index].label}`;
    return {
      scales: { x: { time: false, range: roomy(2) }, drop: { range: (_, least, most) => window.uPlot.rangeNum(least, most, 0.1, true) } },
      series: [
        { label: "kept", value: (_, __, ___, index) => (index == null ? "–" : row(index)) },
        marks("○ left a race early, on fewer records", { stroke: ink("--series-1"), auto: false }),
        marks("● on all records of the search split", { stroke: ink("--series-1") }),
        line("— lowest loss up to this size", "--series-1"),
        marks("◆ finalist on fresh records, with 95 % interval", { stroke: ink("--series-2") }),
        marks("■ dense model with the same help, reference of drops"),
        marks("★ exported"),
        ...(this.promise === null ? [] : [line("- - promised at most", "--bad", { dash: [6, 4] })]),
      ],
      axes: [axis(ink, "block parameters kept, %"), axis(ink, `drop, ${this.unit} (↓ better)`, { scale: "drop", size: 60 })],
      cursor: { dataIdx: (plot, series, hovered) => this.#nearest(plot, series, hovered) },
      hooks: { draw: [(plot) => this.#mark(plot, ink)] },
    };
  }

  // The row nearest to the cursor in both directions; asked for by every series in turn.
  #nearest(plot, series, hovered) {
    if (series !== X) return this.hovered;
    const { x, drop } = plot.scales;
    const [atX, atY] = [plot.posToVal(plot.cursor.left, "x"), plot.posToVal(plot.cursor.top, "drop")];
    const [perX, perY] = [plot.bbox.width / (x.max - x.min), plot.bbox.height / (drop.max - drop.min)];
    let least = Infinity;
    this.hovered = hovered;
    for (const [index, row] of this.#rows.entries()) {
      const away = ((row.x - atX) * perX) ** 2 + ((row.y - atY) * perY) ** 2;
      if (away < least) [least, this.hovered] = [away, index];
    }
    return this.hovered;
  }

  // Rows of one kind on top of those before it; what is beyond the drops in view is at the edge.
  #mark(plot, ink) {
    const { ctx, bbox } = plot;
    const colours = generationColours(ink, this.candidates.all);
    const at = (value) => Math.min(bbox.top + bbox.height, Math.max(bbox.top + EDGE, plot.valToPos(value, "drop", true)));
    const draw = {
      [EARLY]: (x, y, { one }) => ring(ctx, x, y, colours[one.generation]),
      [WHOLE]: (x, y, { one }) => dot(ctx, x, y, colours[one.generation]),
      [FINALISTS]: (x, y, { one }) => {
        whisker(ctx, x, at(one.drop_low), at(one.drop_high), ink("--series-2"));
        diamond(ctx, x, y, ink("--series-2"));
      },
      [DENSE]: (x, y) => square(ctx, x, y, ink("--ink")),
      [EXPORTED]: (x, y) => star(ctx, x, y, ink("--ink"), ink("--paper")),
    };
    ctx.save();
    ctx.setLineDash([]);
    ctx.beginPath();
    ctx.rect(bbox.left - 8, bbox.top - 8, bbox.width + 16, bbox.height + 16);
    ctx.clip();
    for (const column of [EARLY, WHOLE, FINALISTS, DENSE, EXPORTED]) {
      if (!plot.series[column].show) continue;
      for (const row of this.#rows) {
        if (row.values[column] != null) draw[column](plot.valToPos(row.x, "x", true), at(row.values[column]), row);
      }
    }
    ctx.restore();
  }

  #numbers() {
    const names = ["id", "generation", "examples", "kept_share", "loss_nats", "kl_nats", "drop_points", "drop_bound", "drop_low", "drop_high"];
    const kind = ({ values }) => (FINALISTS in values ? (EXPORTED in values ? "exported finalist" : "finalist") : "candidate");
    const scored = this.#rows.filter((row) => row.one !== undefined);
    return [["kind", ...names], ...scored.map((row) => [kind(row), ...names.map((name) => row.one[name])])];
  }

  #words() {
    const { candidates, finalists, exported, promise, unit } = this;
    const whole = candidates.all.filter((one) => candidates.isWhole(one));
    const words = [`${candidates.all.length} scorings, ${whole.length} of them on all records`];
    words.push(`${finalists.length} finalists`);
    if (promise !== null) words.push(`promised: at most ${promise} ${unit}`);
    if (exported !== undefined) words.push(`exported: ${percent(exported.kept_share)} kept, drop ${signed(exported.drop_points)} ${unit}`);
    return words.join("; ");
  }
}
