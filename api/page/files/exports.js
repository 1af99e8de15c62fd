// Exports of a succeeded job: the list, and a form for another size.

import { ended, get, pause, post } from "./client.js";
import { h, refill, table } from "./elements.js";
import { moment, percent } from "./format.js";
import { stateChip } from "./jobs.js";
import { savable } from "./saving.js";

const REFRESH_MS = 3000;

// `front` gives the models that no smaller one beats, smallest first; `attempt` runs a request and shows its error.
export async function otherSizes(id, front, signal, attempt) {
  const list = h("div");
  const show = async () => {
    const { exports } = await get(`jobs/${id}/exports`, signal);
    const rows = exports.map((one) => [h("a", { href: `#/jobs/${one.id}` }, `${percent(one.kept_share)} kept`), stateChip(one), moment(one.created_at)]);
    refill(list, rows.length > 0 ? savable("Exports", table(["model", "state", "created"], rows)) : null);
    return exports.every((one) => ended(one.state));
  };
  const watch = async () => {
    for (let areOver = false; !areOver; ) {
      await pause(REFRESH_MS, signal);
      if (!document.hidden) areOver = await show();
    }
  };
  if (!(await show())) watch().catch((error) => attempt(() => Promise.reject(error)));
  const size = h("input", { type: "number", name: "percent", min: 1, max: 100, step: "any", required: true });
  const ask = () => exportCandidate(id, best(front(), Number(size.value)).id, signal);
  const asked = (event) => (event.preventDefault(), attempt(ask));
  const form = h("form", { onsubmit: asked }, h("label", {}, "The best model that keeps at most ", size, " %"), " ", h("button", {}, "export"));
  return h("div", {}, form, list);
}

// Exports a candidate, and leads to the export.
export async function exportCandidate(id, candidate, signal) {
  const made = await post(`jobs/${id}/exports`, { candidate }, signal);
  location.hash = `#/jobs/${made.id}`;
}

// The largest model shown as keeping at most this many percent.
function best(front, most) {
  const found = front.findLast((one) => Number.parseFloat(percent(one.kept_share)) <= most);
  if (found !== undefined) return found;
  throw new Error(front.length > 0 ? `The smallest model keeps ${percent(front[0].kept_share)}: choose this size or a larger one.` : "The search found no model.");
}
