// One job, as it goes on: what it does now, its curves, the models it has found, and what it has come to.

import { ended, events, get, post, Problem } from "./client.js";
import { Chart } from "./charts.js";
import { h } from "./elements.js";
import { otherSizes } from "./exports.js";
import { moment, percent, short, took } from "./format.js";
import { History } from "./history.js";
import { stateChip } from "./jobs.js";
import { rankMap } from "./ranks.js";
import { files, finalistTable, promise, resultTable } from "./result.js";

const EXPORTED = ""; // what the choice of models calls the one without an id

export async function showJob(place, id, signal) {
  const view = new JobView(id, signal);
  await view.read({ job: true, search: true });
  place.replaceChildren(view.element);
  await view.show();
  try {
    for await (const some of events(id, signal)) {
      await view.read(view.history.add(some));
      await view.show();
    }
  } catch (error) {
    if (!(error instanceof Problem && error.status === 410)) throw error;
    view.history.recall((await get(`jobs/${id}/generations`, signal)).generations);
    await view.show();
    view.say("The events of this job are past retention.");
  }
}

class JobView {
  history = new History();
  #ofRanks = null; // the model whose ranks are shown
  #isComplete = false;

  constructor(id, signal) {
    this.id = id;
    this.signal = signal;
    this.heading = h("header");
    this.progress = h("p", { role: "status" });
    this.message = h("p", { role: "alert" });
    this.result = section("Result");
    this.search = section("The search");
    this.models = section("Models found");
    this.finalists = section("Confirmed on fresh records");
    this.files = section("Files");
    this.others = section("Other sizes");
    this.log = section("Events");
    this.spec = section("Job file");
    this.element = h("article", {}, this.heading, this.message, this.progress, this.result, this.search, this.models);
    this.element.append(this.finalists, this.files, this.others, this.log, this.spec);

    const [steps, losses, sizes] = [chartPlace(), chartPlace(), chartPlace()];
    this.choice = h("select", { "aria-label": "Model", onchange: () => this.#attempt(() => this.#showRanks(this.choice.value)) });
    this.map = h("div");
    this.search.append(steps, losses);
    this.models.append(sizes, h("p", {}, "Ranks of ", this.choice), this.map);
    this.steps = new Chart(steps, {
      title: "Size and drop, step by step",
      x: "step",
      name: (index) => this.history.steps[index].name,
      series: [
        { label: "kept", unit: "%", digits: 1, axisLabel: "kept, %" },
        { label: "drop on the records looked at", unit: "points", digits: 2, axis: "right", axisLabel: "drop, points", dashed: true },
      ],
    });
    this.losses = new Chart(losses, {
      title: "Fitness by generation",
      x: "generation",
      name: (index) => String(this.history.generations[index].generation),
      series: [
        { label: "least loss", unit: "nats", axisLabel: "nats" },
        { label: "mean loss", unit: "nats", dashed: true },
        { label: "KL from the dense model", unit: "nats" },
      ],
    });
    this.sizes = new Chart(sizes, {
      title: "Models that no smaller one beats on the search split",
      x: "kept, %",
      series: [{ label: "loss", unit: "nats", axisLabel: "loss, nats" }],
      pick: (index) => this.#attempt(() => this.#showRanks(String(this.front[index].id))),
    });
  }

  async read({ job, search }) {
    if (job) this.job = await get(`jobs/${this.id}`, this.signal);
    if (search) this.front = (await get(`jobs/${this.id}/candidates?pareto=true&limit=1000`, this.signal)).candidates;
  }

  say(text) {
    this.message.textContent = text;
  }

  async show() {
    const { job, history } = this;
    document.title = `${job.name || job.id} · ranksieve`;
    this.#showHeading();
    this.#showProgress();
    fill(this.result, job.result?.best ? [promise(job.result), resultTable(job.result)] : []);
    fill(this.finalists, [finalistTable(job.result, history.log)]);
    fill(this.log, [logList(history.log)]);
    this.#showSpec();
    this.#showCurves();
    await this.#showModels();
    if (job.state === "succeeded" && !this.#isComplete) {
      this.#isComplete = true;
      fill(this.files, [await files(this.id, this.signal)]);
      if (job.parent === null) fill(this.others, [await otherSizes(this.id, this.signal, (act) => this.#attempt(act))]);
    }
  }

  #showHeading() {
    const { job } = this;
    const facts = job.parent === null ? [] : [h("a", { href: `#/jobs/${job.parent}` }, "another size of this job")];
    facts.push(`created ${moment(job.created_at)}`, `took ${took(job)}`, `owner ${job.owner}`);
    facts.push(...Object.entries(job.labels).map(([name, value]) => `${name}: ${value}`));
    const acts = ["pause", "resume", "stop", "cancel"].filter((request) => mayBe(request, job));
    this.heading.replaceChildren(
      h("h1", {}, job.name || job.id, " ", stateChip(job)),
      h("p", { class: "facts" }, [h("code", {}, job.id), ...facts].flatMap((fact) => [fact, " · "]).slice(0, -1)),
      h("p", {}, acts.map((request) => h("button", { type: "button", onclick: () => this.#attempt(() => this.#request(request)) }, request))),
    );
    if (job.error !== null) this.heading.append(h("p", { class: "problem" }, job.error.field ? `${job.error.field}: ${job.error.message}` : job.error.message));
  }

  #showProgress() {
    const { phase } = this.history;
    if (ended(this.job.state) || phase === null) this.progress.replaceChildren();
    else this.progress.replaceChildren(h("label", {}, `${phase.phase} `, h("progress", { value: phase.done, max: phase.total }), ` ${phase.done} of ${phase.total}`));
  }

  // A reader may have it open: it is left as it is while it says the same.
  #showSpec() {
    const text = JSON.stringify(this.job.spec, null, 2);
    if (this.spec.querySelector("pre")?.textContent === text) return;
    fill(this.spec, [h("details", {}, h("summary", {}, "as JSON"), h("pre", {}, text))]);
  }

  #showCurves() {
    const { steps, generations } = this.history;
    this.search.hidden = steps.length === 0;
    if (steps.length > 0) {
      const drops = steps.map((step) => step.drop_points ?? null);
      this.steps.draw([steps.map((_, index) => index), steps.map((step) => 100 * step.kept_share), drops]);
    }
    if (generations.length > 0) {
      const columns = ["loss_min", "loss_avg", "kl_nats"].map((name) => generations.map((one) => one[name] ?? null));
      this.losses.draw([generations.map((_, index) => index), ...columns]);
    }
  }

  async #showModels() {
    this.models.hidden = this.front.length === 0;
    if (this.front.length === 0) return;
    this.sizes.draw([this.front.map((one) => 100 * one.kept_share), this.front.map((one) => one.loss_nats)]);
    const chosen = this.choice.value;
    this.choice.replaceChildren(
      ...(this.job.result?.ranks ? [h("option", { value: EXPORTED }, "the exported model")] : []),
      ...this.front.map((one) => h("option", { value: one.id }, `candidate ${one.id}, ${percent(one.kept_share)} kept`)),
    );
    const options = [...this.choice.options].map((option) => option.value);
    await this.#showRanks(this.#ofRanks !== null && options.includes(chosen) ? chosen : options[0]);
  }

  async #showRanks(model) {
    this.choice.value = model;
    if (model === this.#ofRanks) return;
    this.#ofRanks = model;
    this.map.replaceChildren(await rankMap(this.id, model === EXPORTED ? null : model, this.signal));
  }

  async #request(request) {
    if (request === "cancel" && !window.confirm("End this job now? What it has found is kept, but not exported.")) return;
    const before = this.job.state;
    this.job = await post(`jobs/${this.id}/${request}`, undefined, this.signal);
    this.#showHeading();
    if (ended(before) && !ended(this.job.state)) window.dispatchEvent(new Event("hashchange")); // its stream is open again
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

const chartPlace = () => h("div", { class: "chart" });
const section = (title) => h("section", { hidden: true }, h("h2", {}, title));

// What stands below a section's heading; without anything the section is not there.
function fill(section, children) {
  const found = children.filter((child) => child !== null);
  section.replaceChildren(section.firstElementChild, ...found);
  section.hidden = found.length === 0;
}

function mayBe(request, job) {
  if (request === "resume") return job.pause_requested || ["paused", "crashed"].includes(job.state);
  if (request === "cancel") return !job.cancel_requested && (!ended(job.state) || job.state === "crashed");
  const asked = job.cancel_requested || job[`${request}_requested`];
  return !asked && !ended(job.state) && job.state !== "paused" && !(request === "stop" && job.state === "stopping");
}

function logList(log) {
  const told = (data) => Object.entries(data).filter(([, value]) => value !== null && typeof value !== "object");
  const item = ({ at, type, data }) =>
    h("li", {}, h("time", { datetime: at }, new Date(at).toLocaleTimeString()), " ", h("b", {}, type), " ", told(data).map(([name, value]) => `${name} ${short(value)}`).join(", "));
  return h("ol", { class: "log" }, log.toReversed().map(item));
}
