// Result of a job: both models in numbers, the finalists, and the files.

import { get, isReport, key } from "./client.js";
import { h, table } from "./elements.js";
import { count, dropUnit, exactly, fixed, percent, signed, size, sizeExactly } from "./format.js";
import { savable } from "./saving.js";

const SPLITS = ["confirm", "test"];
const OF_EXPORTS = ["search", ...SPLITS];

export function resultTable({ spec, result }) {
  const { dense, reference, best, metric_name: metric, latency } = result;
  const unit = dropUnit(spec.task.kind);
  const range = (values) => (values == null ? "" : ` [${values.map((value) => fixed(value)).join(", ")}]`);
  const measured = (model, split) => fixed(model.metric[split]) + range(model.interval?.[split]);
  const rows = [
    ["block parameters", count(dense.block_params), `${count(best.block_params)} (${percent(best.kept_block_params)} kept)`],
    ["all parameters", count(dense.total_params), count(best.total_params)],
    ["weight files", size(dense.file_bytes), size(best.file_bytes)],
    ...(result.export ? OF_EXPORTS : SPLITS).filter((split) => best.metric[split] != null).flatMap((split) => [
      [`${metric}, ${split}`, measured(dense, split), `${measured(best, split)}${drop(best.drop[split], unit)}`],
      ...(isHelped(result, split) ? [["dense with the same help", measured(reference, split), ""]] : []),
    ]),
    ["tokens/s", count(dense.tokens_per_second), count(best.tokens_per_second)],
  ];
  if (latency != null) {
    const { kind, rows: prompts, length } = latency.workload;
    const share = `${percent(latency.measured_share)}, ${percent(latency.expected_share)} expected`;
    rows.push([`${kind} of ${prompts} × ${length}, ms`, fixed(latency.measured_dense_ms, 1), `${fixed(latency.measured_ms, 1)} (${share})`]);
  }
  const leftOut = best.left_out_params
    ? ` ${count(best.left_out_params)} parameters that the search counted are left out: their sublayers have no output any more.`
    : "";
  const facts = h("p", { class: "facts" }, `In brackets 95 % intervals.${leftOut}`);
  return h("div", {}, savable("Result", table(["", "dense", "sieved"], rows, { class: "numbers" })), facts);
}

export const interval = ({ drop_low: low, drop_high: high }) => (low == null ? "" : ` [${signed(low)}, ${signed(high)}]`);

// Whether drops are measured from another model than the dense one as it was given.
export const isHelped = ({ dense, reference }, split) => reference.metric[split] !== dense.metric[split];

// Drop of the dense model as it was given where drops are measured from another one: { points, split }; else null.
export function denseDrop({ spec, result }) {
  const { dense, reference } = result ?? {};
  const split = SPLITS.find((name) => dense?.metric[name] != null && reference?.metric[name] != null && isHelped(result, name));
  if (split === undefined) return null;
  const [given, helped] = [dense.metric[split], reference.metric[split]];
  return { points: 100 * (spec.task.kind === "lm" ? given / helped - 1 : helped - given), split };
}

// The split that a model's drop is best known on.
export const splitOf = ({ drop: drops }) => ["test", "confirm", "search"].find((name) => drops[name] !== undefined);

const drop = (one, unit) => (one === undefined ? "" : `, drop ${signed(one.drop_points)}${interval(one)} ${unit}`);

// The objective, and whether it is met.
export function promise({ spec, result }) {
  const { export: one, objective, promise_held: held } = result;
  if (one != null) return h("p", {}, `Wanted: ${wishOfExport(one)}`);
  const wanted = h("p", {}, `Objective: ${wish(objective, spec.task.kind)}.`);
  if (held != null && objective.kind !== "target_params") {
    wanted.append(" ", h("strong", { class: held ? "held" : "problem" }, held ? "The objective is met." : "The objective is not met."));
  }
  const notes = held === false ? (result.notes ?? []) : [];
  return h("div", {}, wanted, ...notes.map((note) => h("p", {}, `${note}.`)));
}

function wish({ kind, points, confidence, share, size: bytes, milliseconds }, task) {
  const limit = task === "lm" ? `whose perplexity rises by at most ${points} %` : `that loses at most ${points} ${points === 1 ? "point" : "points"}`;
  const within = `smallest model ${limit}, with ${exactly(confidence)} confidence`;
  if (kind === "max_drop") return `the ${within}`;
  if (kind === "pareto") return `the best models of many sizes, and of these the ${within}`;
  if (kind === "target_params") return `the best model with ${exactly(share)} of the parameters`;
  const least = share == null ? (bytes == null ? `${milliseconds} ms` : sizeExactly(bytes)) : `${exactly(share)} of the dense model's`;
  return `the best model whose ${kind === "target_bytes" ? "files take" : "pass takes"} at most ${least}`;
}

function wishOfExport({ asked, measured_on: splits }) {
  const which = asked.share == null ? `candidate ${asked.candidate}` : `the best candidate that keeps at most ${percent(asked.share)} of the parameters`;
  const flattered = splits.includes("search") ? " The search chose it by the search split, which flatters it." : "";
  return `${which}, of another job. The test split was not touched.${flattered}`;
}

// The models tested on the confirm split, with intervals of the drop, from the result or from the events so far.
export function finalistTable({ spec, result }, confirmed) {
  const finalists = (result?.finalists ?? confirmed).toSorted((one, other) => other.kept_share - one.kept_share);
  if (finalists.length === 0) return null;
  const outcome = result?.finalists == null ? [] : ["outcome"];
  const rows = finalists.map((one) => {
    const range = `${signed(one.drop_low)} to ${signed(one.drop_high)}`;
    const numbers = [percent(one.kept_share), signed(one.drop_points), range];
    return [...numbers, ...outcome.map(() => outcomeOf(one, result.genome))];
  });
  const columns = ["kept", `drop, ${dropUnit(spec.task.kind)}`, "95 % interval", ...outcome];
  return savable("Finalists", table(columns, rows, { class: "numbers" }));
}

// The spent risk, not the interval, decides whether a finalist passed.
function outcomeOf({ genome, risk, passed }, exported) {
  const tested = risk == null ? [] : [passed ? "passed" : "not passed"];
  return [...tested, ...(String(genome) === String(exported) ? ["exported"] : [])].join(", ");
}

export async function files(id, signal) {
  const { artifacts } = await get(`jobs/${id}/artifacts`, signal);
  const rows = artifacts.map(({ name, bytes }) => [link(id, name), size(bytes)]);
  return h("div", {}, savable("Files", table(["file", "size"], rows, { class: "numbers" })), h("p", {}, "All of them: ", h("code", {}, `ranksieve download ${id} -o FOLDER`)));
}

// A browser does not send the key by itself, and a report has no files.
function link(id, name) {
  const path = `v1/jobs/${id}/artifacts/${name.split("/").map(encodeURIComponent).join("/")}`;
  return key.get() === "" && !isReport ? h("a", { href: path, download: "" }, name) : name;
}
