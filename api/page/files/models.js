// Models that a job has found: their sizes and drops, and the ranks of the one that is looked at.

import { CandidateTable } from "./candidate_table.js";
import { Candidates, candidateFacts } from "./candidates.js";
import { SizeChart } from "./charts/sizes.js";
import { isReport } from "./client.js";
import { h, refill, section } from "./elements.js";
import { exportCandidate } from "./exports.js";
import { dropUnit, percent } from "./format.js";
import { rankMap, readRanks } from "./ranks.js";

const EXPORTED = ""; // what the choice of models calls the one without an id

export class Models {
  element = section("Models found");
  #ofRanks = null; // the model whose ranks are shown
  #picked = null; // the model that the reader chose

  // `attempt` runs what the reader asked for and shows its error.
  constructor(job, signal, attempt) {
    this.job = job;
    this.signal = signal;
    this.attempt = attempt;
    this.candidates = new Candidates(job.id);
    this.choice = h("select", { "aria-label": "Model", onchange: () => this.#pick(this.choice.value) });
    this.facts = h("div");
    this.map = h("div");
    this.chosen = h("p", {}, "Ranks of ", this.choice);
    this.chart = new SizeChart(signal, job, (id) => this.#pick(id));
    this.table = new CandidateTable(dropUnit(job.spec.task.kind), (id) => this.#pick(id));
    this.element.append(this.chart.element, this.chosen, this.facts, this.map, this.table.element);
  }

  read() {
    return this.candidates.read(this.signal);
  }

  // The history has the finalists and the reference of a job that has no result yet.
  async show(job, history) {
    this.job = job;
    const { all } = this.candidates;
    this.element.hidden = all.length === 0 && !job.result?.ranks;
    if (this.element.hidden) return;
    const finalists = job.result?.finalists ?? history.finalists;
    const exported = finalists.find((one) => job.result && String(one.genome) === String(job.result.genome));
    const [blocks, of] = job.result?.reference?.blocks ?? [];
    const share = job.result?.reference?.tuned ? blocks / of : history.referenceShare;
    this.chart.draw(job, this.candidates, finalists, exported, share);
    this.table.show(all);
    await this.#showModel(this.#offer());
  }

  // Fills the choice with the exported model, the front, and what the reader picked; returns which of them to show.
  #offer() {
    const { front } = this.candidates;
    const picked = this.candidates.find(this.#picked);
    const others = picked === undefined || front.includes(picked) ? front : [...front, picked];
    refill(
      this.choice,
      this.job.result?.ranks ? h("option", { value: EXPORTED }, "the exported model") : null,
      others.map((one) => h("option", { value: one.id }, `candidate ${one.id}, ${percent(one.kept_share)} kept`)),
    );
    const options = [...this.choice.options].map((option) => option.value);
    return [this.#picked, options.includes(EXPORTED) ? EXPORTED : this.#ofRanks, options[0]].find((model) => options.includes(model));
  }

  #pick(model) {
    this.#picked = model;
    return this.attempt(() => this.#showModel(this.#offer()));
  }

  async #showModel(model) {
    this.chosen.hidden = model === undefined;
    if (model === undefined) return;
    this.choice.value = model;
    this.#showFacts(model);
    if (model === this.#ofRanks) return;
    this.#ofRanks = model;
    const ranks = await readRanks(this.job.id, model === EXPORTED ? null : model, this.signal);
    if (model === this.#ofRanks) this.map.replaceChildren(rankMap(ranks, "Ranks")); // else another was chosen meanwhile
  }

  #showFacts(model) {
    const { job, signal } = this;
    const one = this.candidates.find(model);
    const exported = () => this.attempt(() => exportCandidate(job.id, one.id, signal));
    const mayExport = job.state === "succeeded" && job.parent === null && !isReport;
    refill(this.facts, one === undefined ? null : candidateFacts(one, job, mayExport ? exported : undefined));
  }
}
