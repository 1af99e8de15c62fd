// Elements of the page. Texts become text nodes, never HTML.

const CONTROLS = "a, button, input, select";

export function h(tag, attributes = {}, ...children) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (name.startsWith("on")) element.addEventListener(name.slice(2), value);
    else if (value === true) element.setAttribute(name, "");
    else if (value !== false && value != null) element.setAttribute(name, value);
  }
  element.append(...children.flat().filter((child) => child != null));
  return element;
}

export function table(head, rows, attributes = {}) {
  return h(
    "table",
    attributes,
    h("thead", {}, h("tr", {}, head.map((cell) => h("th", { scope: "col" }, cell)))),
    h("tbody", {}, rows.map((row) => h("tr", {}, row.map((cell) => h("td", {}, cell))))),
  );
}

export const section = (title) => h("section", { hidden: true }, h("h2", {}, title));

// Content below a section's heading; an empty section is hidden.
export function fill(place, children) {
  const found = children.filter((child) => child !== null);
  place.replaceChildren(place.firstElementChild, ...found);
  place.hidden = found.length === 0;
}

// Replace an element's children, but keep equal ones: they keep the focus and a click in progress. Kept children keep
// their handlers, which must therefore depend only on what is in their element.
export function refill(element, ...children) {
  const wanted = children.flat().filter((child) => child != null);
  for (const [index, child] of wanted.entries()) {
    const there = element.childNodes[index];
    if (there === undefined) element.append(child);
    else if (there.isEqualNode(child)) continue;
    else if (isShell(there, child)) refill(there, ...child.childNodes);
    else replace(there, child);
  }
  while (element.childNodes.length > wanted.length) element.lastChild.remove();
}

// Move the focus from a removed element to its replacement.
function replace(there, child) {
  const hadFocus = there.contains(document.activeElement);
  there.replaceWith(child);
  if (hadFocus && child.nodeType === Node.ELEMENT_NODE) (child.matches(CONTROLS) ? child : child.querySelector(CONTROLS))?.focus();
}

const isShell = (one, other) => one.nodeType === Node.ELEMENT_NODE && one.cloneNode().isEqualNode(other.cloneNode());
