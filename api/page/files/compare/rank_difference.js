// What one model keeps more or less than another of the same architecture, matrix by matrix.

import { h } from "../elements.js";
import { percent, signed } from "../format.js";
import { cell, grid, margins, scale } from "../ranks.js";
import { savable } from "../saving.js";

const STEPS = [-1, -0.5, 0, 0.5, 1];

// Of readings of the API. Null where the models have other matrices, or ranks are missing.
export function rankDifference(first, other, title) {
  const shapes = [first, other].map(({ layers, matrices, dense_params: sizes }) => JSON.stringify([layers, matrices, sizes]));
  if (first.missing !== undefined || other.missing !== undefined || shapes[0] !== shapes[1]) return null;
  const { layers, matrices } = first;
  const ofMatrix = (row, column) => {
    const [before, after] = [first, other].map(({ densities }) => densities[row][column]);
    if (before === null) return h("td");
    return changed(`${matrices[column]} of layer ${layers[row]}: ${percent(before)} of its numbers, ${percent(after)} here`, after - before);
  };
  const [before, after] = [margins(first), margins(other)];
  const difference = (name) => after[name].map((one, index) => one - before[name][index]);
  const values = { layers: difference("layers"), matrices: difference("matrices"), all: after.all - before.all };
  const legend = scale("Points of its numbers that a matrix keeps more or less:", STEPS.map((step) => [signed(100 * step, 0), Math.abs(step), kindOf(step)]));
  return h("div", {}, savable(title, grid(first, ofMatrix, values, (name, value) => changed(name, value))), legend);
}

const changed = (title, value) => cell(title, signed(100 * value, 0), Math.abs(value), kindOf(value));

const kindOf = (value) => (value < 0 ? "less" : null);
