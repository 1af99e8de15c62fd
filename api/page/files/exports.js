// More models of a job that has succeeded: those that were asked for, and a size to ask for.

import { get, post } from "./client.js";
import { h, table } from "./elements.js";
import { moment, percent } from "./format.js";
import { stateChip } from "./jobs.js";

// `front` gives the models that no smaller one beats, smallest first; `attempt` does what the reader asks for, and tells
// what there is against it.
export async function otherSizes(id, front, signal, attempt) {
  const { exports } = await get(`jobs/${id}/exports`, signal);
  const size = h("input", { type: "number", name: "percent", min: 1, max: 100, step: "any", required: true });
  const ask = async () => {
    const made = await post(`jobs/${id}/exports`, { candidate: best(front(), Number(size.value)).id }, signal);
    location.hash = `#/jobs/${made.id}`;
  };
  const asked = (event) => (event.preventDefault(), attempt(ask));
  const form = h("form", { onsubmit: asked }, h("label", {}, "The best model that keeps at most ", size, " %"), " ", h("button", {}, "export"));
  const rows = exports.map((one) => [h("a", { href: `#/jobs/${one.id}` }, `${percent(one.kept_share)} kept`), stateChip(one), moment(one.created_at)]);
  return h("div", {}, form, rows.length > 0 ? table(["model", "state", "created"], rows) : null);
}

// The largest one that is shown as keeping that many percent or fewer.
function best(front, most) {
  const found = front.findLast((one) => Number.parseFloat(percent(one.kept_share)) <= most);
  if (found !== undefined) return found;
  throw new Error(front.length > 0 ? `The smallest model keeps ${percent(front[0].kept_share)}: ask for as much, or more.` : "The search found no model.");
}
