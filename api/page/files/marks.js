// Marks of charts on a canvas, in its own pixels.

const SIDE = 4 * devicePixelRatio;

// A colour for each generation, from the first to the last of these candidates.
export function generationColours(ink, candidates) {
  const last = Math.max(0, ...candidates.map((one) => one.generation));
  const [first, end] = [ink("--first"), ink("--last")];
  return Array.from({ length: last + 1 }, (_, generation) => `color-mix(in oklab, ${end} ${(100 * generation) / Math.max(1, last)}%, ${first})`);
}

function circle(ctx, x, y, radius) {
  ctx.beginPath();
  ctx.arc(x, y, radius, 0, 2 * Math.PI);
}

export function ring(ctx, x, y, colour) {
  ctx.strokeStyle = colour;
  ctx.lineWidth = devicePixelRatio;
  circle(ctx, x, y, SIDE * 0.6);
  ctx.stroke();
}

export function dot(ctx, x, y, colour) {
  ctx.fillStyle = colour;
  circle(ctx, x, y, SIDE * 0.9);
  ctx.fill();
}

export function square(ctx, x, y, colour) {
  ctx.fillStyle = colour;
  ctx.fillRect(x - SIDE, y - SIDE, 2 * SIDE, 2 * SIDE);
}

export const diamond = (ctx, x, y, colour) => polygon(ctx, x, y, colour, [SIDE * 1.4, SIDE * 1.4, SIDE * 1.4, SIDE * 1.4]);

export const triangle = (ctx, x, y, colour) => polygon(ctx, x, y, colour, [SIDE * 1.6, SIDE * 1.6, SIDE * 1.6]);

export function star(ctx, x, y, colour, outline) {
  const radii = Array.from({ length: 10 }, (_, corner) => SIDE * (corner % 2 === 0 ? 2.6 : 1.1));
  polygon(ctx, x, y, colour, radii);
  ctx.strokeStyle = outline;
  ctx.lineWidth = devicePixelRatio;
  ctx.stroke();
}

// A corner at each radius, clockwise from the top.
function polygon(ctx, x, y, colour, radii) {
  ctx.fillStyle = colour;
  ctx.beginPath();
  radii.forEach((radius, corner) => {
    const angle = (2 * Math.PI * corner) / radii.length - Math.PI / 2;
    ctx.lineTo(x + radius * Math.cos(angle), y + radius * Math.sin(angle));
  });
  ctx.closePath();
  ctx.fill();
}

// An interval from one height to another.
export function whisker(ctx, x, low, high, colour) {
  ctx.strokeStyle = colour;
  ctx.lineWidth = 1.5 * devicePixelRatio;
  ctx.beginPath();
  ctx.moveTo(x, low);
  ctx.lineTo(x, high);
  for (const y of [low, high]) {
    ctx.moveTo(x - SIDE, y);
    ctx.lineTo(x + SIDE, y);
  }
  ctx.stroke();
}
