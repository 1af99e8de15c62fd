// More models of a job that has succeeded: those that were asked for, and a size to ask for.

import { get, post } from "./client.js";
import { h, table } from "./elements.js";
import { moment, percent } from "./format.js";
import { stateChip } from "./jobs.js";

const ROUNDED = 0.0005; // of a share that the page shows: whoever types it in means that model

// `attempt` does what the reader asks for, and tells what the server has against it.
export async function otherSizes(id, signal, attempt) {
  const { exports } = await get(`jobs/${id}/exports`, signal);
  const size = h("input", { type: "number", name: "percent", min: 1, max: 100, step: "any", required: true });
  const ask = async () => {
    const made = await post(`jobs/${id}/exports`, { share: Math.min(1, Number(size.value) / 100 + ROUNDED) }, signal);
    location.hash = `#/jobs/${made.id}`;
  };
  const asked = (event) => (event.preventDefault(), attempt(ask));
  const form = h("form", { onsubmit: asked }, h("label", {}, "The best model that keeps at most ", size, " %"), " ", h("button", {}, "export"));
  const rows = exports.map((one) => [h("a", { href: `#/jobs/${one.id}` }, `${percent(one.kept_share)} kept`), stateChip(one), moment(one.created_at)]);
  return h("div", {}, form, rows.length > 0 ? table(["model", "state", "created"], rows) : null);
}
