// What differs between the files of several jobs.

const LONGEST = 200; // characters of a value that is shown

// Rows of a table: a field, and its value in each of the specs, in the order of a job file.
export function differences(specs) {
  const all = specs.map((spec) => new Map(fields(spec, "")));
  const names = new Set(all.flatMap((one) => [...one.keys()]));
  const rows = [...names].map((name) => [name, ...all.map((one) => one.get(name) ?? "–")]);
  return rows.filter(([, ...values]) => new Set(values).size > 1).map(([name, ...values]) => [name, ...values.map(shown)]);
}

// Lists are compared as a whole. What is null is left out, as in a file.
function fields(value, name) {
  if (value === null) return [];
  if (typeof value === "object" && !Array.isArray(value)) return Object.entries(value).flatMap(([key, inner]) => fields(inner, name === "" ? key : `${name}.${key}`));
  return [[name, typeof value === "string" ? value : JSON.stringify(value)]];
}

const shown = (text) => (text.length > LONGEST ? `${text.slice(0, LONGEST)}… (${text.length} characters)` : text);
