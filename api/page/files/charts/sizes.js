// Size against loss: all that a search has scored, its finalists, the promise, the dense model and the export.

import { lossOf } from "../candidates.js";
import { h } from "../elements.js";
import { dropUnit, fixed, percent, signed } from "../format.js";
import { denseDrop } from "../result.js";
import { Chart } from "./chart.js";
import { lowest, marks, rule, stairs } from "./layers.js";
import { DIAMOND, DOT, STAR } from "./marks.js";

const NAMES = ["id", "generation", "kept_share", "loss_nats", "kl_nats", "drop_points", "drop_bound", "drop_low", "drop_high"]; // in the file
const SAMPLES = [0, 0.5, 1]; // of the generations, in the legend

// Losses are counted as the task's metric does, which the promise is about, or in nats, which the search minimises.
export class SizeChart {
  // `pick` is called with the id of the candidate that was clicked.
  constructor(signal, { spec }, pick) {
    this.unit = dropUnit(spec.task.kind);
    const { kind, points } = spec.objective;
    this.promise = ["max_drop", "pareto"].includes(kind) ? points : null;
    this.measures = h("select", { onchange: () => this.#show() }, h("option", { value: "drop" }, `drop, ${this.unit}`), h("option", { value: "nats" }, "what the search minimises, nats"));
    this.chart = new Chart(signal, { title: "Size against loss", pick: (point) => point.id !== undefined && pick(String(point.id)) });
    this.element = h("div", {}, h("label", {}, "Loss as ", this.measures), this.chart.element);
  }

  // `exported` is the finalist that was exported, if any; `share` is that of the blocks that the reference of drops has.
  draw(job, candidates, finalists, exported, share) {
    Object.assign(this, { job, candidates, finalists, exported, share });
    this.#show();
  }

  #show() {
    const { candidates, finalists, exported, promise, unit } = this;
    const isDrop = this.measures.value === "drop" && (finalists.length > 0 || candidates.all.some((one) => one.drop_points !== null));
    const scored = this.#scored(isDrop ? (one) => one.drop_points : lossOf);
    const last = lastGeneration(candidates);
    const samples = SAMPLES.map(colourAt);
    const generations = last === 0 ? "" : `, generations 0 to ${last}`;
    const tested = isDrop ? finalists.map((one) => this.#finalist(one)) : finalists.flatMap((one) => this.#searched(one, scored));
    const isExported = ({ finalist }) => finalist === exported;
    this.chart.draw({
      x: { label: "block parameters kept, % (← smaller)", room: 0.03 },
      y: { label: isDrop ? `drop, ${unit} (↓ better)` : "loss, nats (↓ better)", room: 0.06 },
      layers: [
        ...(isDrop ? this.#rules() : []),
        marks({ label: `candidates, search split${generations}`, mark: DOT, points: scored, samples }),
        stairs({ label: `least ${isDrop ? "drop" : "loss"} up to this size, search split`, colour: "var(--series-1)", points: lowest(scored) }),
        marks({ label: isDrop ? "finalist on fresh records, with 95 % interval" : "finalist", mark: DIAMOND, colour: "var(--series-2)", points: tested }),
        marks({ label: "exported", mark: STAR, colour: "var(--ink)", points: tested.filter(isExported).map(({ low, high, ...others }) => others) }),
      ],
      words: this.#words(),
      rows: this.#rows(),
    });
  }

  #scored(measure) {
    const last = Math.max(1, lastGeneration(this.candidates));
    return this.candidates.all.filter((one) => measure(one) != null).map((one) => ({
      x: 100 * one.kept_share,
      y: measure(one),
      colour: colourAt(one.generation / last),
      id: one.id,
      one,
      say: `candidate ${one.id} of generation ${one.generation}: ${this.#numbers(one)}`,
    }));
  }

  #numbers(one) {
    const drop = one.drop_points == null ? "" : `, drop ${signed(one.drop_points)} ${this.unit}`;
    return `${percent(one.kept_share)} kept, loss ${fixed(lossOf(one), 4)} nats${drop}`;
  }

  #finalist(one) {
    const { kept_share: kept, drop_points: drop, drop_low: low, drop_high: high } = one;
    const id = this.candidates.front.find((other) => other.kept_share === kept)?.id;
    return { x: 100 * kept, y: drop, low, high, id, finalist: one, say: `finalist, ${percent(kept)} kept: drop ${signed(drop)} [${signed(low)}, ${signed(high)}] ${this.unit}` };
  }

  // The scoring of a finalist in the search.
  #searched(finalist, scored) {
    const found = scored.find(({ one }) => one.kept_share === finalist.kept_share);
    return found === undefined ? [] : [{ ...found, finalist }];
  }

  // The promise, the model that drops are measured from and, where that had help, the one that was given.
  #rules() {
    const { promise, unit, share } = this;
    const given = denseDrop(this.job);
    const reference = share === 1 ? "dense" : `dense with ${percent(share, 0)} of the blocks`;
    const rules = [rule({ label: `${reference}${given === null ? "" : " and the same help"}: reference of drops`, colour: "var(--soft)", y: 0 })];
    if (given !== null) rules.push(rule({ label: `dense as it was given, ${given.split} split: ${signed(given.points)} ${unit}`, colour: "var(--soft)", dash: "2 3", y: given.points }));
    if (promise !== null) rules.push(rule({ label: `promised: at most ${promise} ${unit}`, colour: "var(--bad)", dash: "6 4", y: promise }));
    return rules;
  }

  #rows() {
    const named = (kind) => (one) => [kind, ...NAMES.map((name) => one[name])];
    const tested = this.finalists.map((one) => named(one === this.exported ? "exported finalist" : "finalist")(one));
    const given = denseDrop(this.job);
    const dense = [{ kept_share: this.share, drop_points: 0 }].map(named("reference"));
    if (given !== null) dense.push(named("dense as it was given")({ kept_share: 1, drop_points: given.points }));
    return [["kind", ...NAMES], ...this.candidates.all.map(named("candidate")), ...tested, ...dense];
  }

  #words() {
    const { candidates, finalists, exported, promise, unit } = this;
    const words = [`${candidates.all.length} scorings`];
    words.push(`${finalists.length} finalists`);
    if (promise !== null) words.push(`promised: at most ${promise} ${unit}`);
    if (exported !== undefined) words.push(`exported: ${percent(exported.kept_share)} kept, drop ${signed(exported.drop_points)} ${unit}`);
    return words.join("; ");
  }
}

const lastGeneration = ({ all }) => all.reduce((last, one) => Math.max(last, one.generation), 0);

// A colour for each generation, by its place between the first and the last.
const colourAt = (place) => `color-mix(in oklab, var(--last) ${Math.round(100 * place)}%, var(--first))`;
