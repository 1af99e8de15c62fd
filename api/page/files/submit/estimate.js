// Needs of a job that was checked: time, memory and disk.

import { h, table } from "../elements.js";
import { count, size, span } from "../format.js";
import { savable } from "../saving.js";

export function estimateTable({ machine, evaluations_at_most: evaluations, phases, total, notes }) {
  const accelerator = phases.some((phase) => phase.accelerator_bytes > 0);
  const row = (name, needs) => [
    name,
    `${span(needs.seconds_low)} to ${span(needs.seconds_high)}`,
    size(needs.host_bytes),
    ...(accelerator ? [size(needs.accelerator_bytes)] : []),
    size(needs.disk_bytes),
  ];
  const rows = [...phases.map((phase) => row(phase.phase, phase)), row("in all", total)];
  const head = ["phase", "time", "memory", ...(accelerator ? ["memory of a GPU"] : []), "disk"];
  const facts = h("p", { class: "facts" }, `On ${machine.name}, with at most ${count(evaluations)} evaluations.`);
  return h("div", {}, savable("Estimate", table(head, rows, { class: "numbers" })), facts, h("ul", {}, notes.map((note) => h("li", {}, note))));
}
