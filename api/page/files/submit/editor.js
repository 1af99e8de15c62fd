// Text of a job file with numbered lines, and what is wrong with them beside it.

import { h } from "../elements.js";

const MOST_BYTES = 1_000_000; // of a file to open; the server's limit is lower

export class Editor {
  #faults = [];

  // `changed` is called after every change by the reader, `failed` with what keeps a file from being opened.
  constructor(changed, failed) {
    this.changed = changed;
    this.failed = failed;
    this.numbers = h("pre", { class: "lines", "aria-hidden": "true" });
    this.faults = h("ol", { class: "faults", id: "faults" });
    this.area = h("textarea", {
      "aria-label": "Job file",
      "aria-describedby": this.faults.id,
      spellcheck: "false",
      autocomplete: "off",
      wrap: "off",
      rows: 22,
      oninput: () => this.#edited(),
      onscroll: () => { this.numbers.scrollTop = this.area.scrollTop; },
      ondragover: (event) => event.dataTransfer.types.includes("Files") && event.preventDefault(),
      ondrop: (event) => this.#drop(event),
    });
    const file = h("input", { type: "file", accept: ".yaml,.yml,.json", onchange: () => file.files[0] && this.#open(file.files[0]) });
    this.chooser = h("label", {}, "Open a file ", file);
    this.element = h("div", { class: "editor" }, h("div", { class: "text" }, this.numbers, this.area), this.faults);
  }

  get text() {
    return this.area.value;
  }

  set text(text) {
    this.area.value = text;
    this.mark([]);
  }

  // Shows errors of the server, each with the line that it is about if it has one.
  mark(faults) {
    this.#faults = faults;
    const lines = this.text.split("\n");
    this.faults.replaceChildren(...faults.map((fault) => this.#faultItem(fault, lines)));
    this.area.setAttribute("aria-invalid", String(faults.length > 0));
    this.#number();
  }

  #faultItem({ field, line, column, detail }, lines) {
    const message = h("p", { class: "problem" }, field === "spec" ? detail : `${field}: ${detail}`);
    if (line === undefined) return h("li", {}, message);
    const there = h("button", { type: "button", onclick: () => this.#goTo(line, column) }, `line ${line}`);
    return h("li", {}, there, h("code", {}, lines[line - 1]), message);
  }

  #goTo(line, column) {
    const { area } = this;
    const before = area.value.split("\n").slice(0, line - 1);
    const start = before.reduce((length, text) => length + text.length + 1, 0);
    area.focus();
    area.setSelectionRange(start + column - 1, start + area.value.slice(start).split("\n", 1)[0].length);
    area.scrollTop = (area.scrollHeight * before.length) / area.value.split("\n").length - area.clientHeight / 2;
  }

  #edited() {
    if (this.#faults.length > 0) this.mark([]); // they were about another text
    this.#number();
    this.changed();
  }

  #number() {
    const wrong = new Set(this.#faults.map((fault) => fault.line));
    const lines = this.text.split("\n").map((_, index) => h("span", { class: wrong.has(index + 1) && "wrong" }, `${index + 1}\n`));
    this.numbers.replaceChildren(...lines);
    this.numbers.scrollTop = this.area.scrollTop;
  }

  #drop(event) {
    const [file] = event.dataTransfer.files;
    if (file === undefined) return; // a text, which the browser puts in
    event.preventDefault();
    this.#open(file);
  }

  async #open(file) {
    if (file.size > MOST_BYTES) {
      this.failed(`${file.name} has ${file.size} bytes; a job file has at most ${MOST_BYTES}.`);
      return;
    }
    try {
      this.text = await file.text();
      this.changed();
    } catch (error) {
      this.failed(`${file.name} cannot be read: ${error.message}`);
    }
  }
}
