// Marks of charts: a path around a point for each, so that none is told by its colour alone.

import { px } from "./svg.js";

const circle = (radius) => (x, y) => `M${px(x - radius)} ${px(y)}a${radius} ${radius} 0 1 0 ${2 * radius} 0a${radius} ${radius} 0 1 0 ${-2 * radius} 0Z`;

// A corner at each radius, clockwise from the top, or from `turn` of a round after it.
const polygon = (radii, turn = 0) => (x, y) => {
  const corners = radii.map((radius, corner) => {
    const angle = 2 * Math.PI * (corner / radii.length + turn - 0.25);
    return `${px(x + radius * Math.cos(angle))} ${px(y + radius * Math.sin(angle))}`;
  });
  return `M${corners.join("L")}Z`;
};

const mark = (sign, path, isHollow = false) => ({ sign, path, isHollow });

export const DOT = mark("●", circle(3.6));
export const RING = mark("○", circle(2.8), true);
export const SQUARE = mark("■", polygon(Array(4).fill(5.6), 1 / 8));
export const DIAMOND = mark("◆", polygon(Array(4).fill(5.6)));
export const TRIANGLE = mark("▲", polygon(Array(3).fill(6)));
export const STAR = mark("★", polygon(Array.from({ length: 10 }, (_, corner) => (corner % 2 === 0 ? 10 : 4.2))));

// How a mark is filled and drawn.
export const ink = ({ isHollow }, colour) => (isHollow ? { fill: "none", stroke: colour, "stroke-width": 1.3 } : { fill: colour, stroke: "var(--paper)", "stroke-width": 0.6 });

// An interval from one height to another, as a path.
export const whisker = (x, low, high) => `M${px(x)} ${px(low)}V${px(high)}M${px(x - 4)} ${px(low)}h8M${px(x - 4)} ${px(high)}h8`;
