// Scored candidates of a job's search: those known so far, the front among them, and one in words.

import { listed } from "./client.js";
import { h } from "./elements.js";
import { dropUnit, fixed, percent, signed } from "./format.js";

// Fields of a candidate that the page shows; `ranksieve report` keeps the answers to the same query.
const FIELDS = ["id", "generation", "kept_share", "kl_nats", "loss_nats", "drop_points", "drop_bound", "failure"];

export const lossOf = (one) => one.loss_nats ?? one.kl_nats;

// Scorings that did not fail, smallest first. `read` fetches those that are new.
export class Candidates {
  all = [];
  front = []; // no smaller one has a lower loss
  #last = null;

  constructor(id) {
    this.id = id;
  }

  async read(signal) {
    const fields = FIELDS.map((name) => `fields=${name}&`).join("");
    const found = await listed(`jobs/${this.id}/candidates?${fields}`, "candidates", "id", signal, this.#last);
    if (found.length === 0) return;
    this.#last = found.at(-1).id;
    const scored = found.filter((one) => one.failure === null);
    this.all = [...this.all, ...scored].sort((one, other) => one.kept_share - other.kept_share || lossOf(one) - lossOf(other));
    this.front = [];
    for (const one of this.all) {
      if (this.front.length === 0 || lossOf(one) < lossOf(this.front.at(-1))) this.front.push(one);
    }
  }

  find(id) {
    return this.all.find((one) => String(one.id) === id);
  }
}

// A candidate in words, with a button that exports it if `exported` is given.
export function candidateFacts(one, { spec }, exported) {
  const unit = dropUnit(spec.task.kind);
  const facts = [`candidate ${one.id} of generation ${one.generation}`, `${percent(one.kept_share)} kept`];
  facts.push(`loss ${fixed(lossOf(one), 4)} nats`);
  if (one.drop_points !== null) facts.push(`drop ${signed(one.drop_points)} ${unit}`);
  if (one.drop_bound !== null) facts.push(`at most ${signed(one.drop_bound)} expected on fresh records`);
  const offers = exported !== undefined && one.drop_points !== null;
  return h("p", { class: "facts" }, facts.join(", "), offers ? [" ", h("button", { type: "button", onclick: exported }, "export this model")] : []);
}
