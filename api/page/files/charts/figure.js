// A chart as a file of its own: SVG without a style sheet, and PNG.

const TIMES = 2; // pixels of a PNG to one of the page

const pixel = new OffscreenCanvas(1, 1).getContext("2d", { willReadFrequently: true });

// What a colour is on this page, light or dark, as programs other than browsers read it.
function plain(colour) {
  if (colour === "none") return colour;
  pixel.fillStyle = colour;
  pixel.fillRect(0, 0, 1, 1);
  const [red, green, blue] = pixel.getImageData(0, 0, 1, 1).data;
  return `#${[red, green, blue].map((one) => one.toString(16).padStart(2, "0")).join("")}`;
}

export function svgFile(svg) {
  const copy = svg.cloneNode(true);
  const those = copy.querySelectorAll("*");
  for (const [index, one] of svg.querySelectorAll("*").entries()) {
    const shown = getComputedStyle(one);
    for (const name of ["fill", "stroke"]) if (one.hasAttribute(name)) those[index].setAttribute(name, plain(shown[name]));
  }
  return new Blob([new XMLSerializer().serializeToString(copy)], { type: "image/svg+xml" });
}

export async function pngFile(svg) {
  const image = new Image();
  image.src = `data:image/svg+xml,${encodeURIComponent(await svgFile(svg).text())}`;
  await image.decode();
  const canvas = new OffscreenCanvas(TIMES * image.width, TIMES * image.height);
  canvas.getContext("2d").drawImage(image, 0, 0, canvas.width, canvas.height);
  return canvas.convertToBlob({ type: "image/png" });
}
