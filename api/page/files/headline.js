// What a finished job has gained, in a line, and how far a running one has come.

import { h } from "./elements.js";
import { percent, signed } from "./format.js";
import { isHelped, splitOf } from "./result.js";

const STAGES = ["queued", "validating", "preparing", "searching", "finalizing"];

export function headline({ spec, result }) {
  const { dense, best, metric_name: metric } = result;
  const parts = [
    times(dense.block_params / best.block_params, "fewer block parameters", "more block parameters"),
    times(dense.file_bytes / best.file_bytes, "smaller files", "larger files"),
    times(best.tokens_per_second / dense.tokens_per_second, "faster", "slower"),
  ];
  const split = splitOf(best);
  if (split === undefined) return h("p", { class: "headline" }, parts.join(", "));
  const from = isHelped(result, split) ? " from the dense model with the same help" : "";
  parts.push(`${metric} ${change(best.drop[split], spec.task.kind === "lm")} on the ${split} split${from}`);
  return h("p", { class: "headline" }, parts.join(", "));
}

const times = (ratio, gained, lost) => (ratio >= 1 ? `${ratio.toFixed(1)}× ${gained}` : `${(1 / ratio).toFixed(1)}× ${lost}`);

// A drop is a loss: of points that fall, or of a perplexity that rises.
function change({ drop_points: drop, drop_low: low, drop_high: high }, rises) {
  const [sign, unit, ...ends] = rises ? [1, "%", low, high] : [-1, "points", high, low];
  const interval = low === null ? "" : ` [${ends.map((end) => signed(sign * end, 1)).join(", ")}]`;
  return `${signed(sign * drop, 1)} ${unit}${interval}`;
}

// Stages of a job that runs or waits to, and the phase that it is in. Only what comes is known, not how long it takes.
export function stages({ state, parent }, phase) {
  const own = STAGES.filter((stage) => parent === null || stage !== "searching");
  const now = own.indexOf(state === "stopping" ? "searching" : state);
  if (now === -1) return null;
  const items = own.map((stage, index) => {
    if (index !== now) return h("li", { class: index < now ? "done" : "to-come" }, index < now ? `${stage} ✓` : stage);
    return h("li", { "aria-current": "step" }, h("b", {}, state), phase === null ? null : progress(phase));
  });
  return h("ol", { class: "stages", "aria-label": "Stages" }, items);
}

function progress({ phase, done, total }) {
  const bar = h("progress", { value: done, max: total });
  return h("label", {}, ` ${phase} `, bar, ` ${percent(done / total, 0)}, ${done} of ${total}${phase === "fetch" ? " MB" : ""}`);
}
