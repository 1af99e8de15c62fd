// The rank of every matrix of a model, as a map: layers from left to right, with margins.

import { get, Problem } from "./client.js";
import { h } from "./elements.js";
import { percent } from "./format.js";
import { savable } from "./saving.js";

const DENSE = -1;
const TICKS = [0, 0.25, 0.5, 0.75, 1]; // of the scale
const MOST = 0.1; // of the matrices, which are marked

// What the API says of a model's ranks. A job's matrices are in its folder, which may be on another server: then `missing` says so.
export async function readRanks(id, candidate, signal) {
  try {
    return await get(`jobs/${id}/ranks${candidate === null ? "" : `?candidate=${candidate}`}`, signal);
  } catch (error) {
    if (error instanceof Problem && error.status === 404) return { missing: error.message };
    throw error;
  }
}

// `title` names the file that the map is saved as.
export function rankMap(found, title) {
  if (found.missing !== undefined) return h("p", { class: "facts" }, found.missing);
  const { layers, matrices, ranks, densities } = found;
  const most = leastOfMost(densities.flat().filter((one) => one !== null));
  const ofMatrix = (row, column) => {
    const [rank, density] = [ranks[row][column], densities[row][column]];
    if (rank === null) return h("td");
    const description = rank === DENSE ? "dense" : `rank ${rank}, ${percent(density)} of its numbers`;
    return cell(`${matrices[column]} of layer ${layers[row]}: ${description}`, rank === DENSE ? "·" : String(rank), density, density >= most ? "most" : null);
  };
  const ofMargin = (name, share) => cell(`${name}: ${percent(share)} of the numbers`, (100 * share).toFixed(0), share);
  const key = h("p", { class: "facts" }, "Columns are layers, numbers ranks; a dot is a dense matrix. Margins are what all matrices of a layer or a name keep together, in percent.");
  const marked = most === Infinity ? null : h("span", { class: "most" }, "one of the tenth that keep most");
  const legend = scale("Numbers kept:", TICKS.map((tick) => [percent(tick, 0), tick]), marked);
  return h("div", {}, savable(title, grid(found, ofMatrix, margins(found), ofMargin)), legend, key);
}

// A map of cells by row and column of what the API says, and a margin on either side. `margin` makes a cell of a value of `values`.
export function grid({ layers, matrices }, ofMatrix, values, margin) {
  const row = (name, cells) => h("tr", {}, h("th", { scope: "row" }, name), cells);
  const head = ["layer", ...layers.map(String), "kept, %"].map((name) => h("th", { scope: "col" }, name));
  const rows = matrices.map((name, column) => row(name, [...layers.map((_, layer) => ofMatrix(layer, column)), margin(`all ${name}`, values.matrices[column])]));
  const last = row("kept, %", [...layers.map((layer, index) => margin(`layer ${layer}`, values.layers[index])), margin("the model", values.all)]);
  return h("table", { class: "ranks" }, h("thead", {}, h("tr", {}, head)), h("tbody", {}, rows, last));
}

// Shares of the numbers that matrices of one layer, of one name, and all of them keep together.
export function margins({ matrices, densities, dense_params: sizes }) {
  const pairs = densities.map((row, layer) => row.map((density, column) => [density, sizes[layer][column]]));
  const kept = (those) => {
    const there = those.filter(([density]) => density !== null);
    const sum = (numbers) => numbers.reduce((total, one) => total + one, 0);
    return sum(there.map(([density, size]) => density * size)) / sum(there.map(([, size]) => size));
  };
  return { layers: pairs.map(kept), matrices: matrices.map((_, column) => kept(pairs.map((row) => row[column]))), all: kept(pairs.flat()) };
}

export function cell(title, text, kept, kind) {
  const made = h("td", { title, class: kind }, text);
  made.style.setProperty("--kept", kept);
  return made;
}

// Colours with what they stand for; steps are [name, kept, kind].
export function scale(name, steps, ...others) {
  const shown = steps.map(([text, kept, kind]) => {
    const step = h("span", { class: kind }, text);
    step.style.setProperty("--kept", kept);
    return step;
  });
  return h("p", { class: "scale" }, `${name} `, shown, " ", others);
}

// The least density of the tenth that keep most; infinite where none keeps more than another.
function leastOfMost(densities) {
  const sorted = densities.toSorted((one, other) => other - one);
  const least = sorted[Math.ceil(MOST * sorted.length) - 1];
  return least > sorted.at(-1) ? least : Infinity;
}
