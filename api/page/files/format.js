// Numbers and times as people read them.

const whole = new Intl.NumberFormat("en");

export const count = (value) => (value == null ? "–" : whole.format(Math.round(value)));
export const percent = (share, digits = 1) => (share == null ? "–" : `${(100 * share).toFixed(digits)} %`);
export const exactly = (share) => `${Number((100 * share).toPrecision(6))} %`; // as requested
export const fixed = (value, digits = 3) => (value == null ? "–" : value.toFixed(digits));
export function signed(value, digits = 2) {
  if (value == null) return "–";
  const text = value.toFixed(digits);
  return Number(text) < 0 ? text : `+${text.replace("-", "")}`; // what is rounded to zero has no sign of its own
}

// Bytes in the largest unit that leaves a digit before the point.
export function size(bytes, format = (value, power) => value.toFixed(power === 0 ? 0 : 1)) {
  if (bytes == null) return "–";
  const power = Math.min(4, Math.max(0, Math.floor(Math.log10(Math.max(1, bytes)) / 3)));
  return `${format(bytes / 1000 ** power, power)} ${["B", "kB", "MB", "GB", "TB"][power]}`;
}
export const sizeExactly = (bytes) => size(bytes, (value) => String(Number(value.toPrecision(6)))); // as requested

// Unit of drops, by the kind of task: the service's "points".
export const dropUnit = (kind) => (kind === "lm" ? "% of perplexity" : "points");

// A number of any size, to four digits.
export const short = (value) => (typeof value === "number" && !Number.isInteger(value) ? String(Number(value.toPrecision(4))) : String(value));

export const moment = (text) => (text == null ? "–" : new Date(text).toLocaleString());

export function span(seconds) {
  const [hours, minutes, rest] = [Math.floor(seconds / 3600), Math.floor(seconds / 60) % 60, Math.floor(seconds % 60)];
  if (hours > 0) return `${hours} h ${minutes} min`;
  return minutes > 0 ? `${minutes} min ${rest} s` : `${rest} s`;
}

// Run time of a job: until now, if it has not ended; unknown while it does not run.
export function took(job) {
  if (job.started_at == null || ["queued", "paused"].includes(job.state)) return "–";
  const end = job.finished_at == null ? Date.now() : Date.parse(job.finished_at);
  return span(Math.max(0, (end - Date.parse(job.started_at)) / 1000));
}
