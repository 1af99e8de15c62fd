// Page of one job as a file: the API's answers are in the document, and there is no server.

import { showJob } from "./job.js";

const { id, answers } = JSON.parse(document.getElementById("answers").textContent);
const absent = { status: 404, body: { detail: "This is not part of the report." } };
const silent = { status: 200, body: { events: [] } };

window.fetch = async (path) => {
  const asked = path.slice("v1/".length);
  const { status, body } = answers[asked] ?? (asked.startsWith(`jobs/${id}/events?`) ? silent : absent);
  const text = body.events?.map((event) => `data: ${JSON.stringify(event)}\n\n`).join("");
  return new Response(text ?? JSON.stringify(body), { status });
};

showJob(document.getElementById("view"), id, new AbortController().signal);
