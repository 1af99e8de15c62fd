// What a job has come to: both models in numbers, the finalists, and the files.

import { get, key } from "./client.js";
import { h, table } from "./elements.js";
import { count, fixed, percent, signed, size } from "./format.js";

const SPLITS = ["confirm", "test"];

export function resultTable({ dense, best, metric_name: metric }) {
  const interval = (values) => (values == null ? "" : ` [${values.map((value) => fixed(value)).join(", ")}]`);
  const measured = (model, split) => fixed(model.metric[split]) + interval(model.interval?.[split]);
  const rows = [
    ["block parameters", count(dense.block_params), `${count(best.block_params)} (${percent(best.kept_block_params)} kept)`],
    ["all parameters", count(dense.total_params), count(best.total_params)],
    ["weight files", size(dense.file_bytes), size(best.file_bytes)],
    ...SPLITS.filter((split) => dense.metric[split] != null).map((split) => [
      `${metric}, ${split}`,
      measured(dense, split),
      `${measured(best, split)}${drop(best.drop_points?.[split])}`,
    ]),
    ["tokens/s", count(dense.tokens_per_second), count(best.tokens_per_second)],
  ];
  return table(["", "dense", "sieved"], rows, { class: "numbers" });
}

const drop = (points) => (points == null ? "" : `, drop ${signed(points[0])} [${signed(points[1])}, ${signed(points[2])}]`);

// What was asked for, and whether it is promised.
export function promise({ objective, promise_held: held }) {
  const wanted = h("p", {}, wish(objective));
  if (held != null) wanted.append(" ", h("strong", { class: held ? "held" : "problem" }, held ? "The promise is held." : "The promise is not held."));
  return wanted;
}

function wish({ kind, points, confidence, share, size: bytes, milliseconds }) {
  const within = `loses at most ${points} ${points === 1 ? "point" : "points"}, with ${percent(confidence, 0)} confidence`;
  if (kind === "max_drop") return `Wanted: the smallest model that ${within}.`;
  if (kind === "pareto") return `Wanted: the best models of many sizes, and of these the smallest that ${within}.`;
  if (kind === "target_params") return `Wanted: the best model with ${percent(share)} of the parameters.`;
  const least = share == null ? (bytes == null ? `${milliseconds} ms` : size(bytes)) : `${percent(share)} of the dense model's`;
  return `Wanted: the best model whose ${kind === "target_bytes" ? "files take" : "pass takes"} at most ${least}.`;
}

// The models that were tested on the confirm split, with intervals of the drop: as the result has them, or so far.
export function finalistTable(result, log) {
  const rows = result?.finalists?.map(({ kept_share: kept, drop_points: drop }) => [kept, ...drop]) ?? confirmed(log);
  if (rows.length === 0) return null;
  const shown = rows
    .toSorted(([one], [other]) => other - one)
    .map(([kept, points, low, high]) => [percent(kept), signed(points), `${signed(low)} to ${signed(high)}`]);
  return table(["kept", "drop", "interval"], shown, { class: "numbers" });
}

const confirmed = (log) =>
  log
    .filter(({ type }) => type === "finalist.confirmed")
    .map(({ data }) => [data.kept_share, data.drop_points, data.drop_low, data.drop_high]);

export async function files(id, signal) {
  const { artifacts } = await get(`jobs/${id}/artifacts`, signal);
  const rows = artifacts.map(({ name, bytes }) => [link(id, name), size(bytes)]);
  return h("div", {}, table(["file", "size"], rows, { class: "numbers" }), h("p", {}, "All of them: ", h("code", {}, `ranksieve download ${id} -o FOLDER`)));
}

// A browser does not send the key by itself.
function link(id, name) {
  const path = `v1/jobs/${id}/artifacts/${name.split("/").map(encodeURIComponent).join("/")}`;
  return key.get() === "" ? h("a", { href: path, download: "" }, name) : name;
}
