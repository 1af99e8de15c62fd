// The rank of every matrix of a model, as a map: layers from left to right.

import { get, Problem } from "./client.js";
import { h } from "./elements.js";
import { percent } from "./format.js";
import { savable } from "./saving.js";

const DENSE = -1;

// A job's matrices are in its folder, which may be on another server: then this says so. `title` names the file that the map is saved as.
export async function rankMap(id, candidate, title, signal) {
  try {
    return mapOf(await get(`jobs/${id}/ranks${candidate === null ? "" : `?candidate=${candidate}`}`, signal), title);
  } catch (error) {
    if (error instanceof Problem && error.status === 404) return h("p", { class: "facts" }, error.message);
    throw error;
  }
}

function mapOf({ layers, matrices, ranks, densities }, title) {
  const rows = matrices.map((name, column) =>
    h(
      "tr",
      {},
      h("th", { scope: "row" }, name),
      layers.map((layer, row) => cell(`${name} of layer ${layer}`, ranks[row][column], densities[row][column])),
    ),
  );
  const head = h("tr", {}, h("th", { scope: "col" }, "layer"), layers.map((layer) => h("th", { scope: "col" }, String(layer))));
  const shown = h("table", { class: "ranks" }, h("thead", {}, head), h("tbody", {}, rows));
  const key = "Columns are layers, numbers ranks; a dot is a dense matrix. The stronger the colour, the more numbers a matrix keeps.";
  return h("div", {}, savable(title, shown), h("p", { class: "facts" }, key));
}

function cell(name, rank, density) {
  if (rank === null) return h("td");
  const description = rank === DENSE ? "dense" : `rank ${rank}, ${percent(density)} of its numbers`;
  const made = h("td", { title: `${name}: ${description}` }, rank === DENSE ? "·" : String(rank));
  made.style.setProperty("--kept", density);
  return made;
}
