// The exported model beside what could be used instead: weight files against the metric on the same test records.

import { get, isReport, Problem } from "../client.js";
import { fill, h, section, table } from "../elements.js";
import { count, fixed, size } from "../format.js";
import { savable } from "../saving.js";
import { Chart } from "./chart.js";
import { marks, names } from "./layers.js";
import { DIAMOND, SQUARE, STAR } from "./marks.js";

const TITLE = "Size against metric beside rivals";
const NAMES = ["kind", "name", "file_bytes", "metric", "low", "high", "tokens_per_second", "speedup"]; // in the file
const COMMAND = "ranksieve compare JOB.yaml --json > rivals.json";

export class Rivals {
  element = section("Beside its rivals");

  // `attempt` runs what the reader asked for and shows its error.
  constructor(signal, attempt) {
    this.signal = signal;
    this.chart = new Chart(signal, { title: TITLE });
    this.table = h("div");
    const read = ({ currentTarget: { files } }) => attempt(async () => this.#show(JSON.parse(await files[0].text())));
    const forget = ({ currentTarget }) => (currentTarget.value = ""); // the same file may be read again, once it has changed
    this.choice = isReport ? null : h("p", {}, h("label", {}, "What ", h("code", {}, COMMAND), " wrote: ", h("input", { type: "file", accept: ".json,application/json", onclick: forget, onchange: read })));
  }

  // Rivals of the test split's records; a model that has not met them has none. A report may have them in it.
  async show({ id, result }) {
    if (result?.data?.test === undefined || result.best?.metric.test == null) return;
    this.result = result;
    fill(this.element, [this.choice, this.table, this.chart.element]);
    this.element.hidden = isReport;
    if (!isReport) return;
    try {
      this.#show(await get(`jobs/${id}/rivals`, this.signal));
      this.element.hidden = false;
    } catch (error) {
      if (!(error instanceof Problem && error.status === 404)) throw error;
    }
  }

  #show(values) {
    if (!Array.isArray(values?.rivals) || values.data === undefined) throw new Error("This is not what ranksieve compare --json writes.");
    const { result } = this;
    if (values.data.test !== result.data.test) throw new Error("These rivals were scored on other test records than this job's.");
    const rows = [...values.rivals, exported(result)].sort((one, other) => one.file_bytes - other.file_bytes);
    const cells = rows.map((one) => [one.name, size(one.file_bytes), fixed(one.metric) + range(one), `${one.speedup.toFixed(2)}×`]);
    const caption = h("p", { class: "facts" }, `${count(values.examples)} test records; in brackets 95 % intervals. ${verdict(values)}`);
    this.table.replaceChildren(savable("Rivals", table(["", "weight files", result.metric_name, "speed"], cells, { class: "numbers" })), caption);
    this.#draw(rows);
  }

  #draw(rows) {
    const metric = this.result.metric_name;
    const points = rows.map((one) => ({
      x: one.file_bytes / 1e6,
      y: one.metric,
      low: one.interval?.[0],
      high: one.interval?.[1],
      name: one.name,
      kind: one.kind,
      say: `${one.name}: ${size(one.file_bytes)}, ${metric} ${fixed(one.metric)}${range(one)}, ${one.speedup.toFixed(2)}× as fast as dense`,
    }));
    const those = (isWanted) => points.filter(({ kind }) => isWanted(kind));
    this.chart.draw({
      x: { label: "weight files, MB (← smaller)", room: 0.05 },
      y: { label: `${metric}, test split (${metric === "perplexity" ? "↓" : "↑"} better)`, room: 0.08 },
      layers: [
        marks({ label: "rivals, with 95 % interval", mark: DIAMOND, colour: "var(--series-2)", points: those((kind) => !["dense", "exported"].includes(kind)) }),
        marks({ label: "dense", mark: SQUARE, colour: "var(--soft)", points: those((kind) => kind === "dense") }),
        marks({ label: "this job's model", mark: STAR, colour: "var(--ink)", points: those((kind) => kind === "exported") }),
        names(points),
      ],
      words: points.map(({ say }) => say).join("; "),
      rows: [NAMES, ...rows.map((one) => [one.kind, one.name, one.file_bytes, one.metric, ...(one.interval ?? [null, null]), one.tokens_per_second, one.speedup])],
    });
  }
}

function exported({ dense, best }) {
  const { file_bytes, tokens_per_second, metric, interval } = best;
  const speedup = tokens_per_second / dense.tokens_per_second;
  return { kind: "exported", name: "this job's model", file_bytes, tokens_per_second, speedup, metric: metric.test, interval: interval?.test };
}

const range = ({ interval }) => (interval == null ? "" : ` [${interval.map((end) => fixed(end)).join(", ")}]`);

function verdict({ enough, points, reference, metric_name: metric }) {
  const allowed = `at most ${points} ${metric === "perplexity" ? "% of perplexity" : points === 1 ? "point" : "points"} to ${reference} (95 %)`;
  return enough === null ? `No smaller rival is sure to lose ${allowed}.` : `The smallest rival that loses ${allowed}: ${enough}. You may not need a sieved model.`;
}
