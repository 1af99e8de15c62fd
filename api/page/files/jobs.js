// The jobs, newest first, a page at a time; the page refreshes while it is visible.

import { ended, get, pause } from "./client.js";
import { h, refill, table } from "./elements.js";
import { moment, percent, signed, span, took } from "./format.js";
import { savable } from "./saving.js";

const REFRESH_MS = 3000;
export const MOST_COMPARED = 6; // each has a colour and a mark
const STATES = [
  "queued", "validating", "preparing", "searching", "stopping", "finalizing", "paused",
  "succeeded", "failed", "crashed", "cancelled",
];

// `query` is what the address says of the list: `state` and `search`, as the API has them.
export async function showJobs(place, query, signal) {
  document.title = "ranksieve";
  const asked = new URLSearchParams(query);
  let [state, search] = ["state", "search"].map((name) => asked.get(name) ?? "");
  if (!STATES.includes(state)) state = "";
  // `after` of the page that is asked for, behind those of the pages before it: Back leads to them.
  let { pages } = history.state ?? { pages: [null] };
  let shown = null; // the page that is shown, and its `pages`
  let asking = new AbortController();
  const want = (others) => {
    [pages, state, search] = [others, states.value, searched.value.trim()];
    history.replaceState({ pages }, "", `#/${filters().size > 0 ? `?${filters()}` : ""}`);
    asking.abort(); // the answer to what was asked before comes too late
  };
  const filters = () => new URLSearchParams(Object.entries({ state, search }).filter(([, value]) => value !== ""));
  const newer = h("button", { type: "button", hidden: true, onclick: () => want(shown.pages.slice(0, -1)) }, "newer");
  const older = h("button", { type: "button", hidden: true, onclick: () => want([...shown.pages, shown.next]) }, "older");
  const anew = () => {
    newer.hidden = older.hidden = true;
    want([null]);
  };
  const states = h(
    "select",
    { "aria-label": "State", onchange: anew },
    h("option", { value: "" }, "all states"),
    STATES.map((name) => h("option", { value: name }, name)),
  );
  states.value = state;
  const searched = h("input", { type: "search", value: search, maxlength: 100, placeholder: "name, owner or id", "aria-label": "Search", onchange: anew });
  const ticked = new Set(); // ids, in the order in which they were ticked
  const compared = h("button", { type: "button", onclick: () => { location.hash = `#/compare/${[...ticked].join(",")}`; } });
  const tick = ({ currentTarget: { value, checked } }) => {
    if (checked) ticked.add(value);
    else ticked.delete(value);
    offerComparison();
  };
  function offerComparison() {
    compared.disabled = ticked.size < 2 || ticked.size > MOST_COMPARED;
    compared.textContent = ticked.size < 2 ? "compare the ticked jobs" : `compare ${ticked.size} jobs${ticked.size > MOST_COMPARED ? `: at most ${MOST_COMPARED}` : ""}`;
  }
  offerComparison();
  const list = h("div");
  place.replaceChildren(h("h1", {}, "Jobs"), h("p", {}, searched, states, compared), list, h("p", { class: "pages" }, newer, older));

  async function show(here) {
    const query = new URLSearchParams([["limit", 25], ...filters()]);
    if (pages.at(-1) !== null) query.set("after", pages.at(-1));
    shown = { ...(await get(`jobs?${query}`, here)), pages };
    list.setAttribute("aria-busy", "false");
    const none = filters().size === 0 && pages.length === 1 ? "No jobs. `ranksieve submit job.yaml` makes one." : "No such jobs.";
    refill(list, shown.jobs.length > 0 ? jobTable(shown.jobs, ticked, tick) : h("p", {}, none));
    const at = document.activeElement;
    newer.hidden = pages.length === 1;
    older.hidden = shown.next === null;
    if (at === older && older.hidden) newer.focus(); // who is at what goes is at what stays
    if (at === newer && newer.hidden) older.focus();
  }

  for (;;) {
    asking = new AbortController();
    const here = AbortSignal.any([signal, asking.signal]);
    list.setAttribute("aria-busy", "true");
    try {
      await show(here);
      for (;;) {
        await pause(REFRESH_MS, here);
        if (!document.hidden) await show(here);
      }
    } catch (error) {
      if (signal.aborted || !asking.signal.aborted) throw error;
    }
  }
}

// Name of a column, and what a job has there, if anything. Those that no job has anything in are left out.
const COLUMNS = [
  ["state", stateChip],
  ["phase", ({ progress }) => progress && `${progress.phase} ${percent(progress.done / progress.total, 0)}`],
  ["left in phase", ({ progress }) => progress?.left_s != null && `about ${span(progress.left_s)}`],
  ["kept", ({ outcome }) => outcome && percent(outcome.kept_block_params)],
  ["drop", ({ outcome }) => outcome?.drop_points != null && `${signed(outcome.drop_points)} ${outcome.metric_name === "perplexity" ? "%" : "points"}`],
  ["objective", ({ outcome }) => outcome?.promise_held != null && (outcome.promise_held ? "met" : "not met")],
  ["took", took],
  ["labels", ({ labels }) => Object.entries(labels).map(([name, value]) => `${name}: ${value}`).join(", ")],
  ["owner", ({ owner }) => owner],
  ["created", ({ created_at: created }) => moment(created)],
  ["error", ({ error }) => error?.message],
];

function jobTable(jobs, ticked, tick) {
  const links = jobs.map((job) => [tickBox(job, ticked.has(job.id), tick), h("a", { href: `#/jobs/${job.id}` }, nameOf(job))]);
  const columns = COLUMNS.map(([name, value]) => [name, jobs.map((job) => value(job) || "")]).filter(([, cells]) => cells.some((cell) => cell !== ""));
  const rows = jobs.map((_, index) => [links[index], ...columns.map(([, cells]) => cells[index])]);
  return savable("Jobs", table(["job", ...columns.map(([name]) => name)], rows, { class: "jobs" }));
}

const tickBox = (job, checked, tick) => h("input", { type: "checkbox", value: job.id, checked, "aria-label": `compare ${nameOf(job)}`, onchange: tick });

export const nameOf = (job) => (job.name.trim() === "" ? job.id : job.name);

export function stateChip(job) {
  const isAsked = (request) => job[`${request}_requested`] && !(request === "stop" && job.state === "stopping");
  const asked = ended(job.state) ? [] : ["cancel", "pause", "stop"].filter(isAsked);
  return h("span", { class: `state ${job.state}` }, [job.state, ...asked.map((request) => `${request} asked`)].join(", "));
}
