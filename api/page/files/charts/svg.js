// Elements of SVG. Colours are variables of the style sheet, which attributes may name.

const SPACE = "http://www.w3.org/2000/svg";

export function s(tag, attributes = {}, ...children) {
  const element = document.createElementNS(SPACE, tag);
  for (const [name, value] of Object.entries(attributes)) if (value != null) element.setAttribute(name, value);
  element.append(...children.flat());
  return element;
}

// Pixels with a tenth are exact enough, and a third as long.
export const px = (value) => Number(value.toFixed(1));
