// Several jobs side by side: what they were asked, what they found, and the ranks of what they export.

import { Candidates } from "../candidates.js";
import { get } from "../client.js";
import { ComparisonChart, markOf } from "./comparison.js";
import { differences } from "./differences.js";
import { rankDifference } from "./rank_difference.js";
import { fill, h, section, table } from "../elements.js";
import { dropUnit, percent, signed, took } from "../format.js";
import { MOST_COMPARED, nameOf, stateChip } from "../jobs.js";
import { rankMap, readRanks } from "../ranks.js";
import { interval, splitOf } from "../result.js";
import { savable } from "../saving.js";

export async function showCompare(place, ids, signal) {
  document.title = "Compare · ranksieve";
  if (ids.length > MOST_COMPARED) throw new Error(`At most ${MOST_COMPARED} jobs can be compared; got ${ids.length}.`);
  const jobs = await Promise.all(ids.map((id) => get(`jobs/${id}`, signal)));
  const [results, specs, ranks] = ["In numbers", "What differs in the job files", "Ranks of the exported models"].map(section);
  const chart = new ComparisonChart(signal, await Promise.all(jobs.map((job) => found(job, signal))), unitOf(jobs));
  place.replaceChildren(h("article", {}, h("h1", {}, `Compare ${jobs.length} jobs`), results, chart.element, specs, ranks));
  chart.draw();
  fill(results, [resultsTable(jobs)]);
  fill(specs, [specTable(jobs)]);
  const exported = jobs.filter((job) => job.result?.ranks);
  const read = await Promise.all(exported.map((job) => readRanks(job.id, null, signal)));
  fill(ranks, exported.length > 0 ? [h("div", { class: "beside" }, maps(exported, read))] : []);
}

// The ranks of every model, and what each keeps that the first does not.
function maps(jobs, ranks) {
  const names = jobs.map(nameOf);
  const shown = ranks.map((one, index) => [names[index], rankMap(one, `Ranks of ${names[index]}`)]);
  const differences = ranks.slice(1).map((one, index) => {
    const title = `${names[index + 1]} against ${names[0]}`;
    return [title, rankDifference(ranks[0], one, title)];
  });
  return [...shown, ...differences].filter(([, map]) => map !== null).map(([title, map]) => h("section", {}, h("h3", {}, title), map));
}

async function found(job, signal) {
  const candidates = new Candidates(job.id);
  await candidates.read(signal);
  return { name: nameOf(job), candidates, finalists: job.result?.finalists ?? [] };
}

// Points of one metric are not those of another.
function unitOf(jobs) {
  return [...new Set(jobs.map((job) => dropUnit(job.spec.task.kind)))].join(" or ");
}

function resultsTable(jobs) {
  const rows = jobs.map((job, index) => {
    const { result, spec } = job;
    const link = h("a", { href: `#/jobs/${job.id}` }, nameOf(job));
    const name = h("span", {}, `${markOf(index)} `, link, " ", stateChip(job));
    if (!result?.best) return [name, "–", "–", "–", took(job), "–"];
    const { best, dense, promise_held: held } = result;
    return [
      name,
      percent(best.kept_block_params),
      dropOf(best, dropUnit(spec.task.kind)),
      `${(best.tokens_per_second / dense.tokens_per_second).toFixed(2)}×`,
      took(job),
      held == null ? "–" : held ? "met" : "not met",
    ];
  });
  return savable("Comparison", table(["job", "kept", "drop", "speed", "took", "objective"], rows, { class: "numbers" }));
}

function dropOf(best, unit) {
  const split = splitOf(best);
  return split === undefined ? "–" : `${signed(best.drop[split].drop_points)}${interval(best.drop[split])} ${unit}, ${split}`;
}

function specTable(jobs) {
  const rows = differences(jobs.map((job) => job.spec));
  if (rows.length === 0) return h("p", {}, "Nothing.");
  return savable("Differences", table(["field", ...jobs.map((job, index) => `${markOf(index)} ${nameOf(job)}`)], rows, { class: "differences" }));
}
