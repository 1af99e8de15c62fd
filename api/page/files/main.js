// Views by address, and the form for the API key.

import { key, onTrouble, Problem } from "./client.js";
import { showCompare } from "./compare/compare.js";
import { h } from "./elements.js";
import { showJob } from "./job.js";
import { showJobs } from "./jobs.js";
import { showSubmit } from "./submit/submit.js";

const place = document.getElementById("view");
const trouble = document.getElementById("trouble");
const dialog = document.getElementById("ask-key");
let leave = new AbortController();

// Address below `#/`, and the view there.
const VIEWS = [
  [/^jobs\/([0-9a-zA-Z]+)$/, ([id], signal) => showJob(place, id, signal)],
  [/^submit(?:\?from=([0-9a-zA-Z]+))?$/, ([from = null], signal) => showSubmit(place, from, signal)],
  [/^compare\/([0-9a-zA-Z]+(?:,[0-9a-zA-Z]+)*)$/, ([ids], signal) => showCompare(place, ids.split(","), signal)],
  [/^(?:\?(.*)$)?/, ([query = ""], signal) => showJobs(place, query, signal)],
];

function show() {
  leave.abort(); // whatever the view before was still waiting for
  leave = new AbortController();
  tell("");
  const here = leave;
  const address = location.hash.replace(/^#\//, "");
  const [pattern, view] = VIEWS.find(([pattern]) => pattern.test(address));
  view(address.match(pattern).slice(1), here.signal).catch((error) => {
    if (here.signal.aborted) return;
    here.abort(); // whatever else of it goes on
    report(error);
  });
}

// Reason why the server does not answer; requests are repeated until it does.
function tell(reason) {
  const text = reason === "" ? "" : `The server does not answer; retrying: ${reason}`;
  if (trouble.textContent !== text) trouble.textContent = text;
}

function report(error) {
  const wanted = error instanceof Problem && error.status === 401;
  tell("");
  document.title = "ranksieve";
  place.replaceChildren(h("p", { role: "alert", class: "problem" }, wanted && key.get() === "" ? "This server needs an API key." : error.message));
  if (wanted) askKey();
}

function askKey() {
  if (dialog.open) return; // what is typed stays
  dialog.querySelector("input").value = key.get();
  dialog.returnValue = ""; // what it was left by the last time
  dialog.showModal();
}

dialog.addEventListener("close", () => {
  if (dialog.returnValue === "use") key.set(dialog.querySelector("input").value.trim());
  if (dialog.returnValue === "forget") key.set("");
  dialog.querySelector("input").value = "";
  if (dialog.returnValue !== "") show();
});
document.getElementById("key").addEventListener("click", askKey);
window.addEventListener("hashchange", () => {
  show();
  place.focus(); // the link that was followed has gone, and whoever listens hears that this is another page
});
onTrouble(tell);
show();
