// Scales of charts, and the ticks of their axes.

const SLACK = 1e-9; // of a step: what rounding may do to a tick at the end

// A function from values between `low` and `high` to pixels between `start` and `end`.
export const scale = ([low, high], [start, end]) => (value) => start + ((value - low) / (high - low)) * (end - start);

// Least and largest of some values, with room on both sides as a share of what lies between them.
export function range(values, room) {
  let [low, high] = [Infinity, -Infinity];
  for (const value of values) [low, high] = [Math.min(low, value), Math.max(high, value)];
  const around = high > low ? room * (high - low) : Math.abs(low) * room || 1;
  return [low - around, high + around];
}

// Ticks at multiples of 1, 2 or 5 times a power of ten, about as many as wanted: their values, and texts that are exact.
export function ticks([low, high], wanted, least = 0) {
  const rough = (high - low) / wanted;
  const power = 10 ** Math.floor(Math.log10(rough));
  const step = Math.max(least, power * [1, 2, 5, 10].find((one) => one * power >= rough));
  const digits = Math.max(0, -Math.floor(Math.log10(step) + SLACK));
  const [first, last] = [Math.ceil(low / step - SLACK), Math.floor(high / step + SLACK)];
  return Array.from({ length: last - first + 1 }, (_, index) => {
    const value = (first + index) * step;
    return [value, value.toFixed(digits)];
  });
}
