// History of a job, from its events.

const LONGEST_LOG = 500;

export class History {
  phase = null; // { phase, done, total } while one goes on
  steps = []; // rounds and generations in order, each with its name and what was told of it
  finalists = []; // those that were confirmed in the run under way, or the last one
  log = []; // events but those of progress, the newest last
  #known = new Map(); // where each step is among them, by its name

  // Takes events in; tells whether the job itself, and what its search has found, has to be read anew: the job with every
  // generation, too, as a pause that is asked for elsewhere is no event.
  add(events) {
    for (const event of events) this.#add(event);
    const search = events.some((event) => event.type === "generation.completed");
    return { job: search || events.some((event) => event.type.startsWith("job.")), search };
  }

  // What is left where events are past retention.
  recall(generations) {
    for (const record of generations) this.#step(`generation ${record.generation}`, record);
  }

  get generations() {
    return this.steps.filter((step) => step.generation !== undefined);
  }

  #add(event) {
    const { type, data } = event;
    if (type === "phase.progress") {
      this.phase = data.done < data.total ? data : null;
      return;
    }
    this.log.push(event);
    if (this.log.length > LONGEST_LOG) this.log.shift();
    if (type === "job.state") this.phase = null;
    if (type === "job.state" && data.state === "validating") this.finalists = [];
    if (type === "finalist.confirmed") this.finalists = [...this.finalists.filter((one) => !isLookBefore(one, data)), data];
    if (type === "matrices.reweighed") this.#step(`reweighing ${data.round}`, data);
    if (type === "genome.descended") this.#step(`descent ${data.round}`, data);
    if (type === "generation.completed") this.#step(`generation ${data.generation}`, data);
  }

  // A job that is taken up again does some steps again, and comes to the same.
  #step(name, data) {
    if (!this.#known.has(name)) this.#known.set(name, this.steps.length);
    this.steps[this.#known.get(name)] = { ...data, name };
  }
}

// Whether a finalist was confirmed again, on more records.
const isLookBefore = (one, other) => one.kept_share === other.kept_share && one.examples < other.examples;
