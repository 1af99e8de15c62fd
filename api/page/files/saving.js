// Charts and tables that leave the page as files.

import { h } from "./elements.js";

// Texts that a spreadsheet might run begin like a formula; numbers and intervals do, too, and stay as they are.
const FORMULA = /^[=+\-@\t\r]/;
const NUMBERS = /^[-+\d.,%×[\] to]*$/;

function cell(value) {
  const text = value == null ? "" : String(value);
  const safe = FORMULA.test(text) && !NUMBERS.test(text) ? `'${text}` : text;
  return /[",\r\n]/.test(safe) ? `"${safe.replaceAll('"', '""')}"` : safe;
}

export const csv = (rows) => new Blob(rows.map((row) => `${row.map(cell).join(",")}\r\n`), { type: "text/csv" });

export function save(blob, name) {
  const url = URL.createObjectURL(blob);
  h("a", { href: url, download: name }).click();
  URL.revokeObjectURL(url);
}

export const saveButton = (kind, name, onclick) => h("button", { type: "button", class: "save", "aria-label": `${name} as ${kind}`, onclick }, kind);

// A table that can be saved as it is shown. Its button reads the table beside it, so that either may be kept by `refill`.
export function savable(name, table) {
  const saved = ({ currentTarget }) => {
    const rows = [...currentTarget.parentElement.querySelectorAll("tr")];
    save(csv(rows.map((row) => [...row.cells].map((one) => one.textContent))), `${name}.csv`);
  };
  return h("div", { class: "wide" }, table, saveButton("CSV", name, saved));
}
