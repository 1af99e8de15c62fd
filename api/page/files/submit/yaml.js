// Writes job files as YAML. The server reads them.

const PLAIN = /^[a-z_]+$/; // keys that need no quotes
const WORDS = ["true", "false", "null"];

// A mapping as YAML, without what is null or empty: that is the default of every field of a job file.
export function yaml(mapping, indent = "") {
  return Object.entries(mapping).filter(([, value]) => !isEmpty(value)).map(([name, value]) => `${indent}${key(name)}:${below(value, indent)}`).join("");
}

function below(value, indent) {
  if (Array.isArray(value)) {
    const items = value.map(text);
    return value.some((item) => typeof item === "object") ? `\n${items.map((item) => `${indent}  - ${item}\n`).join("")}` : ` [${items.join(", ")}]\n`;
  }
  return typeof value === "object" ? `\n${yaml(value, `${indent}  `)}` : ` ${text(value)}\n`;
}

const isEmpty = (value) => value === null || value === "" || (typeof value === "object" && Object.values(value).every(isEmpty));

const key = (name) => (PLAIN.test(name) && !WORDS.includes(name) ? name : text(name));

// JSON is YAML but for characters that YAML takes for the end of a line, or refuses.
const text = (value) => JSON.stringify(value).replace(/[\u007f-\u009f\u2028\u2029\ufeff]/g, (one) => `\\u${one.charCodeAt(0).toString(16).padStart(4, "0")}`);

// A job file with another model, and all else as it was written.
export function withModel(file, model) {
  if (file.trimStart().startsWith("{")) return JSON.stringify({ ...JSON.parse(file), model }, null, 2);
  const block = yaml({ model });
  const there = /^model[ \t]*:.*\n?(?:[ \t]+.*\n?|[ \t]*\n)*/m;
  return there.test(file) ? file.replace(there, () => block) : `${block}${file}`;
}
