// Charts and tables that leave the page as files.

import { h } from "./elements.js";

const LINE = 18; // of a chart's text, in pixels of the page

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

// A plot with its title, its marks in words and a ground, which are not on its canvas.
export function picture(plot, title, ink) {
  const { canvas } = plot.ctx;
  const shown = plot.series.slice(1).filter((series) => series.show);
  const line = LINE * devicePixelRatio;
  const whole = new OffscreenCanvas(canvas.width, canvas.height + (shown.length + 3) * line);
  const ctx = whole.getContext("2d");
  const write = (text, row, colour, weight) => {
    ctx.font = `${weight} ${0.75 * line}px system-ui, sans-serif`;
    ctx.fillStyle = colour;
    ctx.fillText(text, line, row);
  };
  ctx.fillStyle = ink("--paper");
  ctx.fillRect(0, 0, whole.width, whole.height);
  write(title, 1.2 * line, ink("--ink"), "bold");
  ctx.drawImage(canvas, 0, 2 * line);
  shown.forEach((series, index) => write(series.label, canvas.height + (index + 2.5) * line, series.stroke(), "normal"));
  return whole.convertToBlob({ type: "image/png" });
}
