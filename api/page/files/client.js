// Client of the API. The reader's key goes with every request, and lives as long as the tab.

const NAME = "ranksieve.key";
const PAGE = 1000;
const RETRY_MS = 2000;
const SILENT_MS = 45_000; // a stream has a sign of life every 15 s, and no answer should take so long

// Whether this is the page of a job in a file, without a server behind it.
export const isReport = document.getElementById("answers") !== null;

export const key = {
  get: () => sessionStorage.getItem(NAME) ?? "",
  set: (value) => (value === "" ? sessionStorage.removeItem(NAME) : sessionStorage.setItem(NAME, value)),
};

// Error answer; `message` is the detail of its problem document, `errors` has the fields that are wrong.
export class Problem extends Error {
  constructor(status, detail, errors) {
    super(detail);
    this.status = status;
    this.errors = errors;
  }
}

let tell = () => {};

// Call `listener` with the reason why the server does not answer, and with nothing once it answers again.
export const onTrouble = (listener) => { tell = listener; };

// The server is gone or busy; a retry may succeed.
const passes = (error) => !(error instanceof Problem) || error.status >= 500 || error.status === 429;

async function ask(path, { headers = {}, ...request }) {
  const sent = { Accept: "application/json", ...headers };
  if (key.get() !== "") sent.Authorization = `Bearer ${key.get()}`;
  const answer = await fetch(`v1/${path}`, { ...request, headers: sent, cache: "no-store" });
  if (answer.ok) return answer;
  const problem = await answer.json().catch(() => ({}));
  throw new Problem(answer.status, problem.detail ?? `${answer.status} ${answer.statusText}`, problem.errors ?? []);
}

// `headers` has the type of the text.
export const postText = async (path, text, headers, signal) => (await ask(path, { method: "POST", headers, body: text, signal })).json();

export const post = (path, body, signal) => postText(path, JSON.stringify(body), { "Content-Type": "application/json" }, signal);

// Get a path; retry until the server can answer.
export async function get(path, signal) {
  for (;;) {
    try {
      const found = await (await ask(path, { signal: AbortSignal.any([signal, AbortSignal.timeout(SILENT_MS)]) })).json();
      tell("");
      return found;
    } catch (error) {
      if (signal.aborted || !passes(error)) throw error;
      tell(error.message);
    }
    await pause(RETRY_MS, signal);
  }
}

// Items of a list after the one whose `key` is `last`, page by page.
export async function listed(path, name, key, signal, last = null) {
  for (const found = []; ; ) {
    const page = (await get(`${path}limit=${PAGE}${last === null ? "" : `&after=${last}`}`, signal))[name];
    found.push(...page);
    if (page.length < PAGE) return found;
    last = page.at(-1)[key];
  }
}

// The events of a job from the first, in batches, until it has ended for good. A broken connection is made again. A
// hidden tab has none: browsers keep at most six to a server, for all tabs together.
export async function* events(id, signal) {
  for (let after = 0, state = ""; ; ) {
    await looked(signal);
    const left = new AbortController();
    const leave = () => document.hidden && left.abort();
    document.addEventListener("visibilitychange", leave);
    let silence;
    const heard = () => {
      clearTimeout(silence);
      silence = setTimeout(() => left.abort(new Error("the server has stopped sending")), SILENT_MS);
    };
    heard();
    try {
      const some = { headers: { Accept: "text/event-stream" }, signal: AbortSignal.any([signal, left.signal]) };
      const answer = await ask(`jobs/${id}/events?after=${after}`, some);
      tell("");
      const over = answer.status === 204; // nothing will follow, unless the job crashed and is resumed
      for await (const found of over ? [] : messages(answer.body, heard)) {
        after = found.at(-1).seq;
        state = found.findLast((event) => event.type === "job.state")?.data.state ?? state;
        yield found;
      }
      if (ended(state) && state !== "crashed") return; // one that crashed may be resumed
    } catch (error) {
      if (signal.aborted || !passes(error)) throw error;
      if (error !== left.signal.reason || !document.hidden) tell(error.message);
    } finally {
      clearTimeout(silence);
      document.removeEventListener("visibilitychange", leave);
      left.abort(); // its reader may have left before its end
    }
    await pause(RETRY_MS, signal);
  }
}

// Wait until the tab is visible.
async function looked(signal) {
  while (document.hidden) await occurs(document, "visibilitychange", signal);
}

// Whether a job has ended; a crashed one may still be resumed.
export const ended = (state) => ["succeeded", "failed", "cancelled", "crashed"].includes(state);

// Parse server-sent events from a stream of bytes: the JSON data of all that have arrived. `heard` is called at every
// chunk, comments included.
async function* messages(body, heard) {
  const reader = body.pipeThrough(new TextDecoderStream()).getReader();
  for (let rest = ""; ; ) {
    const { done, value } = await reader.read();
    if (done) return;
    heard();
    const parts = (rest + value).split(/\r?\n\r?\n/);
    rest = parts.pop();
    const data = parts.map(dataOf).filter((text) => text !== "");
    if (data.length > 0) yield data.map((text) => JSON.parse(text));
  }
}

function dataOf(message) {
  const lines = message.split(/\r?\n/).filter((line) => line.startsWith("data:"));
  return lines.map((line) => line.slice("data:".length)).join("\n");
}

export async function pause(milliseconds, signal) {
  const clock = new EventTarget();
  const timer = setTimeout(() => clock.dispatchEvent(new Event("rings")), milliseconds);
  try {
    await occurs(clock, "rings", signal);
  } finally {
    clearTimeout(timer);
  }
}

// Wait for an event; listeners are removed from both the target and the signal.
function occurs(target, name, signal) {
  signal.throwIfAborted();
  return new Promise((resolve, reject) => {
    const settle = () => {
      target.removeEventListener(name, settle);
      signal.removeEventListener("abort", settle);
      if (signal.aborted) reject(signal.reason);
      else resolve();
    };
    target.addEventListener(name, settle);
    signal.addEventListener("abort", settle);
  });
}
