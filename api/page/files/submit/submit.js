// Form for a new job: its file as text, which the server checks, estimates and takes.

import { get, key, postText } from "../client.js";
import { Editor } from "./editor.js";
import { fill, h, section } from "../elements.js";
import { estimateTable } from "./estimate.js";
import { EXAMPLES, MEANINGS } from "./examples.js";
import { size } from "../format.js";
import { nameOf } from "../jobs.js";
import { save } from "../saving.js";
import { withModel, yaml } from "./yaml.js";

const TYPE = { "Content-Type": "application/yaml" }; // JSON is YAML
const JOBS = "Jobs";
const drafts = new Map(); // unfinished texts, by the job that they started from: a new key shows the view anew

// `from` is the id of a job to start from, or null.
export async function showSubmit(place, from, signal) {
  document.title = "Submit · ranksieve";
  const form = new SubmitForm(from, signal);
  const { jobs } = await get("jobs?state=succeeded&limit=50", signal);
  const wanted = from === null ? null : await get(`jobs/${from}`, signal);
  form.offer(wanted === null || jobs.some((job) => job.id === from) ? jobs : [wanted, ...jobs]);
  place.replaceChildren(form.element);
  await form.start();
  await form.offerModels();
}

class SubmitForm {
  #isEdited = false;
  #name = newName(); // the same for every attempt to submit one text, so that it makes one job

  constructor(from, signal) {
    this.from = from;
    this.signal = signal;
    this.editor = new Editor(() => this.#changed(true), (text) => this.#say(text));
    this.sources = h("select", { "aria-label": "Start from", onchange: () => this.#showForking() });
    this.fork = h("input", { type: "checkbox" });
    this.forking = h("label", { hidden: true }, this.fork, "as a fork, from its best models");
    this.models = h("select", { "aria-label": "Model", hidden: true, onchange: () => this.#attempt("", () => this.#choose()) });
    this.message = h("p", { role: "alert" });
    this.status = h("p", { role: "status" });
    this.estimate = section("Estimate");
    this.command = h("pre", { tabindex: 0, "aria-label": "Command" });
    this.check = h("button", { type: "button", onclick: () => this.#attempt("Checking: this may take minutes.", () => this.#check()) }, "Check");
    this.submit = h("button", { type: "button", onclick: () => this.#attempt("Submitting.", () => this.#submit()) }, "Submit");
    const saved = () => save(new Blob([this.editor.text], { type: TYPE["Content-Type"] }), "job.yaml");
    const filled = h("button", { type: "button", onclick: () => this.#attempt("", () => this.start()) }, "Fill in");
    this.element = h(
      "article",
      {},
      h("h1", {}, "Submit a job"),
      h("p", { class: "choices" }, h("label", {}, "Start from ", this.sources), this.forking, filled, this.editor.chooser, this.models),
      this.editor.element,
      h("p", {}, this.check, this.submit, h("button", { type: "button", onclick: saved }, "Save as job.yaml")),
      this.status,
      this.message,
      this.estimate,
      h("section", {}, h("h2", {}, "From a terminal"), this.command),
    );
    signal.addEventListener("abort", () => this.#isEdited && drafts.set(from, this.editor.text), { once: true });
  }

  offer(jobs) {
    this.sources.append(
      h("optgroup", { label: "Examples" }, EXAMPLES.map(({ name }, index) => h("option", { value: `example ${index}` }, `${name}: ${MEANINGS[name]}`))),
      h("optgroup", { label: JOBS }, jobs.map((job) => h("option", { value: job.id }, nameOf(job)))),
    );
    if (this.from !== null) this.sources.value = this.from;
    this.#showForking();
  }

  #showForking() {
    this.forking.hidden = this.sources.selectedOptions[0].parentElement.label !== JOBS;
  }

  // Puts in the text that the reader has left, or that of what is chosen.
  async start() {
    const chosen = this.sources.value;
    const [, example] = chosen.match(/^example (\d+)$/) ?? [];
    const left = drafts.get(this.from);
    drafts.delete(this.from);
    if (left !== undefined) this.editor.text = left;
    else if (example !== undefined) this.editor.text = yaml(EXAMPLES[example]);
    else this.editor.text = yaml(again(await get(`jobs/${chosen}`, this.signal), this.fork.checked));
    this.#changed(left !== undefined);
  }

  // A server may take long to list them, and all else can be done without.
  async offerModels() {
    try {
      const { models } = await get("models", this.signal);
      const parts = ({ model, architecture, weight_bytes: bytes }) => [model.path, architecture, size(bytes)].filter((part) => part !== null);
      const options = models.map((one) => h("option", { value: one.model.path }, parts(one).join(", ")));
      this.models.replaceChildren(h("option", { value: "" }, "a model of this server"), ...options);
      this.models.hidden = models.length === 0;
    } catch (error) {
      if (!this.signal.aborted) this.#say(`No models are listed: ${error.message}`);
    }
  }

  #choose() {
    if (this.models.value === "") return;
    this.editor.text = withModel(this.editor.text, { path: this.models.value });
    this.#changed(true);
  }

  #changed(isEdited) {
    this.#isEdited = isEdited;
    this.#name = newName();
    fill(this.estimate, []);
    this.#say("");
    this.command.textContent = command(this.#name);
  }

  async #check() {
    const estimate = await postText("estimates", this.editor.text, TYPE, this.signal);
    fill(this.estimate, [estimateTable(estimate)]);
    this.estimate.scrollIntoView({ block: "nearest" });
  }

  async #submit() {
    const job = await postText("jobs", this.editor.text, { ...TYPE, "Idempotency-Key": this.#name }, this.signal);
    this.#isEdited = false;
    location.hash = `#/jobs/${job.id}`;
  }

  #say(text) {
    this.message.textContent = text;
  }

  // Does what the reader asked for. What the server has against the text is beside it, all else below.
  async #attempt(doing, act) {
    const { editor } = this;
    this.#say("");
    this.status.textContent = doing;
    this.check.disabled = this.submit.disabled = editor.area.readOnly = true;
    try {
      await act();
      editor.mark([]);
    } catch (error) {
      if (this.signal.aborted) return;
      const faults = error.errors ?? [];
      editor.mark(faults);
      this.#say(faults.length === 0 ? error.message : `${faults.length === 1 ? "One error" : `${faults.length} errors`} in the job file.`);
    } finally {
      this.status.textContent = "";
      this.check.disabled = this.submit.disabled = editor.area.readOnly = false;
    }
  }
}

// The file of a job like this one. A job keeps the models that a fork starts from among its seeds.
function again({ id, spec: { parent, search, ...spec } }, isFork) {
  if (!isFork) return { ...spec, search };
  const { seeds, ...others } = search;
  return { ...spec, search: others, parent: { job: id } };
}

// Randomness that pages without TLS have, too.
const newName = () => Array.from(crypto.getRandomValues(new Uint8Array(16)), (byte) => byte.toString(16).padStart(2, "0")).join("");

// What submits the text from a terminal. It names the key's variable, never the key, and no text of the file.
function command(name) {
  const lines = [`curl ${new URL("v1/jobs", document.baseURI.replace(/[#?].*/, ""))}`];
  if (key.get() !== "") lines.push('-H "Authorization: Bearer $RANKSIEVE_API_KEY"');
  lines.push(`-H 'Content-Type: ${TYPE["Content-Type"]}'`, `-H 'Idempotency-Key: ${name}'`, "--data-binary @job.yaml");
  return lines.join(" \\\n  ");
}
