// What the API says. The reader's key goes with every request, and lives as long as the tab.

const NAME = "ranksieve.key";
const RETRY_MS = 2000;

export const key = {
  get: () => sessionStorage.getItem(NAME) ?? "",
  set: (value) => (value === "" ? sessionStorage.removeItem(NAME) : sessionStorage.setItem(NAME, value)),
};

// An answer that is an error; `message` is the detail of its problem document.
export class Problem extends Error {
  constructor(status, detail) {
    super(detail);
    this.status = status;
  }
}

async function ask(path, { method = "GET", accept = "application/json", body, signal } = {}) {
  const headers = { Accept: accept };
  if (body !== undefined) headers["Content-Type"] = "application/json";
  if (key.get() !== "") headers.Authorization = `Bearer ${key.get()}`;
  const answer = await fetch(`v1/${path}`, { method, headers, body: JSON.stringify(body), signal, cache: "no-store" });
  if (answer.ok) return answer;
  const problem = await answer.json().catch(() => ({}));
  throw new Problem(answer.status, problem.detail ?? `${answer.status} ${answer.statusText}`);
}

export const get = async (path, signal) => (await ask(path, { signal })).json();
export const post = async (path, body, signal) => (await ask(path, { method: "POST", body, signal })).json();

// The events of a job from its first, as many at once as there are, until it has ended. A broken connection is mended,
// and there is none while nobody looks: browsers keep six to a server at most, for all tabs together.
export async function* events(id, signal) {
  for (let after = 0; ; ) {
    await looked(signal);
    const left = new AbortController();
    const leave = () => document.hidden && left.abort();
    document.addEventListener("visibilitychange", leave);
    try {
      const some = { accept: "text/event-stream", signal: AbortSignal.any([signal, left.signal]) };
      const answer = await ask(`jobs/${id}/events?after=${after}`, some);
      for await (const found of messages(answer.body)) {
        after = found.at(-1).seq;
        yield found;
      }
      if (ended((await get(`jobs/${id}`, signal)).state)) return;
    } catch (error) {
      if (signal.aborted || (error instanceof Problem && error.status < 500 && error.status !== 429)) throw error;
    } finally {
      document.removeEventListener("visibilitychange", leave);
    }
    await pause(RETRY_MS, signal); // the server has gone, or is busy
  }
}

// Waits until somebody looks at the tab.
async function looked(signal) {
  while (document.hidden) {
    await new Promise((resolve, reject) => {
      document.addEventListener("visibilitychange", resolve, { once: true });
      signal.addEventListener("abort", () => reject(signal.reason), { once: true });
    });
  }
}

// Nothing more will happen to such a job, unless one that crashed is resumed.
export const ended = (state) => ["succeeded", "failed", "cancelled", "crashed"].includes(state);

// Server-sent events out of a stream of bytes: the data of all that have come, which is JSON.
async function* messages(body) {
  const reader = body.pipeThrough(new TextDecoderStream()).getReader();
  for (let rest = ""; ; ) {
    const { done, value } = await reader.read();
    if (done) return;
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

export function pause(milliseconds, signal) {
  return new Promise((resolve, reject) => {
    const timer = setTimeout(resolve, milliseconds);
    signal.addEventListener("abort", () => (clearTimeout(timer), reject(signal.reason)), { once: true });
  });
}
