// History of a job, from its events.

const LONGEST_LOG = 500;

export class History {
  phase = null; // { phase, done, total } while one goes on
  #generations = new Map(); // by number; a job that is resumed does some again, and comes to the same
  finalists = []; // those that were confirmed in the run under way, or the last one
  referenceShare = 1; // of the blocks, in the dense model that drops are measured from
  log = []; // events but those of progress, the newest last

  // Takes events in; tells whether the job itself, and what its search has found, has to be read anew: the job with every
  // generation, too, as a pause that is asked for elsewhere is no event.
  add(events) {
    for (const event of events) this.#add(event);
    const search = events.some((event) => event.type === "generation.completed");
    return { job: search || events.some((event) => event.type.startsWith("job.")), search };
  }

  // What is left where events are past retention.
  recall(generations) {
    for (const record of generations) this.#generations.set(record.generation, record);
  }

  get generations() {
    return [...this.#generations.values()];
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
    if (type === "finalist.confirmed") this.finalists.push(data);
    if (type === "model.tuned") this.referenceShare = data.used ? data.blocks / data.all_blocks : 1;
    if (type === "generation.completed") this.#generations.set(data.generation, data);
  }
}
