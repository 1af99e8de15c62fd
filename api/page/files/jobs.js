// The jobs, newest first, a page at a time; the first page is read anew while it is looked at.

import { ended, get, pause } from "./client.js";
import { h, table } from "./elements.js";
import { moment, took } from "./format.js";

const REFRESH_MS = 3000;
const STATES = [
  "queued", "validating", "preparing", "searching", "stopping", "finalizing", "paused",
  "succeeded", "failed", "crashed", "cancelled",
];

export async function showJobs(place, signal) {
  document.title = "ranksieve";
  const list = h("div", { "aria-busy": "true" });
  const states = h(
    "select",
    { "aria-label": "State", onchange: () => { pages = [null]; refresh().catch(fail); } },
    h("option", { value: "" }, "all states"),
    STATES.map((state) => h("option", { value: state }, state)),
  );
  let pages = [null]; // `after` of this page, behind those of the pages before it
  let fail;
  const failed = new Promise((_, reject) => { fail = reject; });

  async function refresh() {
    const query = new URLSearchParams({ limit: 25 });
    if (states.value !== "") query.set("state", states.value);
    if (pages.at(-1) !== null) query.set("after", pages.at(-1));
    const asked = query.toString();
    const found = await get(`jobs?${asked}`, signal);
    const turn = (change) => () => { change(); refresh().catch(fail); };
    list.replaceChildren(
      found.jobs.length === 0 ? h("p", {}, "No jobs. `ranksieve submit job.yaml` makes one.") : jobTable(found.jobs),
      h(
        "p",
        { class: "pages" },
        pages.length > 1 ? h("button", { type: "button", onclick: turn(() => pages.pop()) }, "newer") : null,
        found.next !== null ? h("button", { type: "button", onclick: turn(() => pages.push(found.next)) }, "older") : null,
      ),
    );
    list.setAttribute("aria-busy", "false");
  }

  place.replaceChildren(h("h1", {}, "Jobs"), h("p", {}, states), list);
  await refresh();
  for (;;) {
    await Promise.race([pause(REFRESH_MS, signal), failed]);
    if (pages.length === 1 && !document.hidden) await refresh();
  }
}

function jobTable(jobs) {
  const rows = jobs.map((job) => [
    h("a", { href: `#/jobs/${job.id}` }, job.name || job.id),
    stateChip(job),
    Object.entries(job.labels).map(([name, value]) => `${name}: ${value}`).join(", "),
    moment(job.created_at),
    took(job),
    job.error === null ? "" : job.error.message,
  ]);
  return table(["job", "state", "labels", "created", "took", "error"], rows, { class: "jobs" });
}

export function stateChip(job) {
  const asked = ended(job.state) ? [] : ["cancel", "pause", "stop"].filter((request) => job[`${request}_requested`]);
  return h("span", { class: `state ${job.state}` }, [job.state, ...asked.map((request) => `${request} asked`)].join(", "));
}
