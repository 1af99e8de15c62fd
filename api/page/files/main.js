// Which view an address shows, `#/` the jobs and `#/jobs/ID` one of them, and the key that the server may want.

import { key, Problem } from "./client.js";
import { h } from "./elements.js";
import { showJob } from "./job.js";
import { showJobs } from "./jobs.js";

const place = document.getElementById("view");
const dialog = document.getElementById("ask-key");
let leave = new AbortController();

function show() {
  leave.abort(); // whatever the view before was still waiting for
  leave = new AbortController();
  const [, id] = location.hash.match(/^#\/jobs\/([0-9a-zA-Z]+)$/) ?? [];
  const here = leave.signal;
  const view = id === undefined ? showJobs(place, here) : showJob(place, id, here);
  view.catch((error) => here.aborted || report(error));
}

function report(error) {
  const wanted = error instanceof Problem && error.status === 401;
  place.replaceChildren(h("p", { role: "alert", class: "problem" }, wanted ? "This server wants an API key." : error.message));
  if (wanted) askKey();
}

function askKey() {
  dialog.querySelector("input").value = key.get();
  dialog.showModal();
}

dialog.addEventListener("close", () => {
  if (dialog.returnValue === "use") key.set(dialog.querySelector("input").value.trim());
  if (dialog.returnValue === "forget") key.set("");
  if (dialog.returnValue !== "") show();
});
document.getElementById("key").addEventListener("click", askKey);
window.addEventListener("hashchange", show);
show();
