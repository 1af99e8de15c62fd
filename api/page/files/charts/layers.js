// Layers of a chart, from the bottom to the top. Each has
//
//   label     what the legend calls it, if anything
//   points    { x, y, low, high } of what it shows; those with `say` can be hovered
//   xs, ys    values that the axes make room for besides those
//   isGround  whether it is there without points, too
//   sample    its elements in the legend, in the middle of a place for them
//   draw      its elements; `at` has `x` and `y`, which turn values into pixels, and the `box` of the chart

import { ink, whisker } from "./marks.js";
import { px, s } from "./svg.js";

// Marks of one kind in one colour, or in the `colour` that a point has of its own, with the interval of those that have
// one. All of a colour are one path: there may be thousands.
export function marks({ label, mark, colour, points, samples = [colour] }) {
  const draw = (at) => {
    const paths = Map.groupBy(points, (point) => point.colour ?? colour);
    const bars = points.filter((point) => point.low != null).map(({ x, low, high }) => whisker(at.x(x), at.y(low), at.y(high)));
    return [
      ...(bars.length > 0 ? [s("path", { d: bars.join(""), stroke: colour, "stroke-width": 1.5, fill: "none" })] : []),
      ...Array.from(paths, ([one, same]) => s("path", { d: same.map(({ x, y }) => mark.path(at.x(x), at.y(y))).join(""), ...ink(mark, one) })),
    ];
  };
  const sample = (x, y) => samples.map((one, index) => s("path", { d: mark.path(x + 5 * (index - (samples.length - 1) / 2), y), ...ink(mark, one) }));
  return { label, points, draw, sample };
}

// The name of each point beside it, to the left where there is no room to the right.
export function names(points) {
  const draw = ({ x, y, box }) => points.map((point) => {
    const at = x(point.x);
    const isLeft = at + 10 + textWidth(point.name) > box.right;
    return s("text", { x: px(at + (isLeft ? -10 : 10)), y: px(y(point.y) - 5), "text-anchor": isLeft ? "end" : "start", fill: "var(--ink)" }, point.name);
  });
  return { points: [], isGround: true, draw };
}

// A curve that keeps its height up to its next point.
export function stairs({ label, colour, dash, points }) {
  const look = { ...line(colour), "stroke-dasharray": dash };
  const draw = (at) => {
    const [first, ...others] = points.map(({ x, y }) => [px(at.x(x)), px(at.y(y))]);
    return s("path", { d: `M${first.join(" ")}${others.map(([x, y]) => `H${x}V${y}`).join("")}`, ...look });
  };
  return { label, points, draw, sample: (x, y) => s("path", { d: `M${x - 10} ${y - 4}h10v8h10`, ...look }) };
}

// A line at one height, from edge to edge.
export function rule({ label, colour, dash, y: height }) {
  const look = { ...line(colour), "stroke-dasharray": dash };
  const draw = ({ y, box }) => s("path", { d: `M${box.left} ${px(y(height))}H${box.right}`, ...look });
  return { label, points: [], ys: [height], isGround: true, draw, sample: (x, y) => s("path", { d: `M${x - 10} ${y}h20`, ...look }) };
}

// A ground from one x to another, with its name on top where there is room.
export function band({ from, to, colour, text }) {
  const draw = ({ x, box }) => {
    const within = (value) => Math.min(box.right, Math.max(box.left, x(value)));
    const [left, right] = [within(from), within(to)];
    const ground = colour && s("rect", { x: px(left), y: box.top, width: px(right - left), height: box.bottom - box.top, fill: colour, "fill-opacity": 0.12 });
    const name = textWidth(text) < right - left && s("text", { x: px((left + right) / 2), y: box.top + 14, "text-anchor": "middle", fill: "var(--ink)" }, text);
    return [ground, name].filter(Boolean);
  };
  return { points: [], xs: [from, to], isGround: true, draw };
}

const line = (colour) => ({ fill: "none", stroke: colour, "stroke-width": 1.7 });

// Least heights up to each of some points that are in order from left to right: those that lower it.
export function lowest(points) {
  const found = [];
  for (const point of points) if (found.length === 0 || point.y < found.at(-1).y) found.push(point);
  return found;
}

export const FONT = { "font-family": "system-ui, sans-serif", "font-size": 12 };
const ruler = new OffscreenCanvas(1, 1).getContext("2d");

export function textWidth(text) {
  ruler.font = `${FONT["font-size"]}px ${FONT["font-family"]}`;
  return ruler.measureText(text).width;
}
