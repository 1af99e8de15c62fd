// One job, live: its progress, its curves, the models it has found, and its result.

import { BestChart } from "./charts/best.js";
import { Rivals } from "./charts/rivals.js";
import { ended, events, get, isReport, listed, pause, post, Problem } from "./client.js";
import { fill, h, refill, section } from "./elements.js";
import { otherSizes } from "./exports.js";
import { moment, short, took } from "./format.js";
import { headline, stages } from "./headline.js";
import { History } from "./history.js";
import { nameOf, stateChip } from "./jobs.js";
import { Models } from "./models.js";
import { files, finalistTable, promise, resultTable } from "./result.js";

const PACE_MS = 250; // events may come by the hundred

export async function showJob(place, id, signal) {
  const view = new JobView(await get(`jobs/${id}`, signal), signal);
  await view.read({ search: true });
  place.replaceChildren(view.element);
  await view.show();
  try {
    await view.follow();
  } catch (error) {
    if (!(error instanceof Problem && error.status === 410)) throw error;
    view.history.recall(await listed(`jobs/${id}/generations?`, "generations", "generation", signal));
    await view.show();
    view.say("The events of this job are past retention.");
  }
}

class JobView {
  history = new History();
  #isComplete = false;
  #lastListed = 0; // the last event in the list of them
  #stale = null; // what has to be read anew, where anything has happened since it was last shown
  #news = Promise.withResolvers();

  constructor(job, signal) {
    this.id = job.id;
    this.job = job;
    this.signal = signal;
    this.heading = h("header");
    this.progress = h("div");
    this.message = h("p", { role: "alert" });
    this.result = section("Result");
    this.models = new Models(job, signal, (act) => this.#attempt(act));
    this.rivals = new Rivals(signal, (act) => this.#attempt(act));
    this.search = section("The search");
    this.finalists = section("Confirmed on fresh records");
    this.files = section("Files");
    this.others = section("Other sizes");
    this.log = section("Events");
    this.spec = section("Job file");
    this.element = h("article", {}, this.heading, this.message, this.progress, this.result, this.models.element, this.rivals.element, this.search);
    this.element.append(this.finalists, this.files, this.others, this.log, this.spec);

    this.list = h("ol", { class: "log", tabindex: 0, "aria-label": "Events" });
    this.log.append(this.list);
    this.best = new BestChart(signal, job);
    this.search.append(this.best.chart.element);
  }

  async read({ job, search }) {
    if (job) this.job = await get(`jobs/${this.id}`, this.signal);
    if (search) await this.models.read();
  }

  say(text) {
    this.message.textContent = text;
    if (text !== "") this.message.scrollIntoView({ block: "nearest" }); // what it is about may be far below
  }

  // Takes the job's events in until it has ended, and shows what has come of them a few times a second.
  async follow() {
    let isOver = false;
    const take = async () => {
      for await (const some of events(this.id, this.signal)) {
        const { job, search } = this.history.add(some);
        this.#stale = { job: this.#stale?.job || job, search: this.#stale?.search || search };
        this.#news.resolve();
      }
      isOver = true;
      this.#news.resolve();
    };
    const keepShown = async () => {
      while (!isOver || this.#stale !== null) {
        if (this.#stale === null) {
          this.#news = Promise.withResolvers();
          await this.#news.promise;
          continue;
        }
        const stale = this.#stale;
        this.#stale = null;
        await this.read(stale);
        await this.show();
        await pause(PACE_MS, this.signal);
      }
    };
    await Promise.all([take(), keepShown()]);
  }

  async show() {
    const { job, history } = this;
    document.title = `${nameOf(job)} · ranksieve`;
    this.#showHeading();
    refill(this.progress, stages(job, history.phase));
    fill(this.result, job.result?.best ? [headline(job), promise(job), resultTable(job)] : []);
    fill(this.finalists, [finalistTable(job, history.finalists)]);
    this.#showLog();
    this.#showSpec();
    this.best.draw(history.generations, ended(job.state) || job.state === "finalizing");
    this.search.hidden = this.best.chart.element.hidden;
    await this.models.show(job, history);
    if (job.state === "succeeded" && !this.#isComplete) {
      this.#isComplete = true;
      fill(this.files, [await files(this.id, this.signal)]);
      await this.rivals.show(job);
      if (job.parent === null && !isReport) fill(this.others, [await otherSizes(this.id, () => this.models.candidates.front, this.signal, (act) => this.#attempt(act))]);
    }
  }

  #showHeading() {
    const { job } = this;
    const parent = isReport ? `export of job ${job.parent}` : h("a", { href: `#/jobs/${job.parent}` }, "another size of this job");
    const facts = job.parent === null ? [] : [parent];
    const times = ended(job.state) ? `took ${took(job)}` : `started ${moment(job.started_at)}`;
    facts.push(`created ${moment(job.created_at)}`, times, `owner ${job.owner}`);
    facts.push(...Object.entries(job.labels).map(([name, value]) => `${name}: ${value}`));
    const acts = isReport ? [] : ["pause", "resume", "stop", "cancel"].filter((request) => mayBe(request, job));
    const again = isReport || job.parent !== null ? null : h("a", { href: `#/submit?from=${job.id}` }, "submit one like it");
    refill(
      this.heading,
      h("h1", {}, nameOf(job), " ", h("span", { role: "status" }, stateChip(job))),
      h("p", { class: "facts" }, [h("code", {}, job.id), ...facts].flatMap((fact) => [fact, " · "]).slice(0, -1)),
      h("p", {}, acts.map((request) => h("button", { type: "button", name: request, onclick: () => this.#attempt(() => this.#request(request)) }, request)), again),
      job.error === null ? null : h("p", { class: "problem" }, job.error.field ? `${job.error.field}: ${job.error.message}` : job.error.message),
    );
  }

  // What is new goes on top, and what is there stays where a reader has scrolled to.
  #showLog() {
    const { log } = this.history;
    this.log.hidden = log.length === 0;
    this.list.prepend(...log.filter((event) => event.seq > this.#lastListed).toReversed().map(logItem));
    this.#lastListed = log.at(-1)?.seq ?? 0;
    while (this.list.childNodes.length > log.length) this.list.lastChild.remove();
  }

  // A reader may have it open: it is left as it is while it says the same.
  #showSpec() {
    const text = JSON.stringify(this.job.spec, null, 2);
    if (this.spec.querySelector("pre")?.textContent === text) return;
    fill(this.spec, [h("details", {}, h("summary", {}, "as JSON"), h("pre", { tabindex: 0 }, text))]);
  }

  async #request(request) {
    if (request === "cancel" && !window.confirm("End this job now? Its models are kept, but not exported.")) return;
    this.job = await post(`jobs/${this.id}/${request}`, undefined, this.signal);
    this.#showHeading();
  }

  // Does what the reader asked for; what the server has against it is told beside the job.
  async #attempt(act) {
    this.say("");
    try {
      await act();
    } catch (error) {
      if (!this.signal.aborted) this.say(error.message);
    }
  }
}

// Mirrors the server's rule in `service/store/user_requests.py`.
function mayBe(request, job) {
  const { state, cancel_requested: cancelled, pause_requested: paused, stop_requested: stopped } = job;
  if (cancelled || (ended(state) && state !== "crashed")) return false;
  if (request === "cancel") return true;
  if (request === "resume") return paused || ["paused", "crashed"].includes(state);
  if (request === "pause") return !paused && !stopped && !["paused", "crashed"].includes(state);
  return job.parent === null && job.started_at !== null && !stopped && state !== "finalizing";
}

function logItem({ at, type, data }) {
  const isPlain = (value) => value !== null && typeof value !== "object";
  const inside = ([name, value]) => (isPlain(value) || Array.isArray(value) ? [[name, value]] : Object.entries(value ?? {}));
  const plain = Object.entries(data).flatMap(inside).filter(([, value]) => isPlain(value));
  const time = h("time", { datetime: at }, new Date(at).toLocaleString());
  return h("li", {}, time, " ", h("b", {}, type), " ", plain.map(([name, value]) => `${name} ${short(value)}`).join(", "));
}
