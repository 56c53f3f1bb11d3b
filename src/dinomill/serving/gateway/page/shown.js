"use strict";
// How what the server said is shown; page.js asks it, and has `model` and `tried`.
const MOST_CLASSES = 8, LEAST_CLASSES = 3;
const $ = (id) => document.getElementById(id);
function show(element, shown) { element.hidden = !shown; }

function size(bytes) { return bytes < 2 ** 20 ? `${Math.max(1, Math.round(bytes / 1024))} kB` : `${(bytes / 2 ** 20).toFixed(1)} MB`; }

function known(value) { return value !== undefined && value !== null && value !== ""; }

function facts(list, rows) {
  $(list).replaceChildren(...rows.filter(([, value]) => known(value)).flatMap(([name, value, kind]) => {
    const told = document.createElement("dd");
    told.append(kind ? text(kind, value) : value);
    return [text("dt", name), told];
  }));
}

function count(number) { return Number(number).toLocaleString("en"); }

// What the package knows of its model; one that was made before packages knew has less to say.
function origin(about, { lineage: told = {} }) {
  facts("origin", [
    ["model", `${model.id}, version ${about.version}`],
    ["registered", told.registered && told.registered.replace("T", " ").replace("Z", " UTC")],
    ["made by the run", told.run, "code"],
    ["trained on the dataset", told.dataset_sha256, "code"],
    ["weights", told.weights_sha256, "code"],
    ["made from", told.origin],
    ["licence", told.licence === "own" ? "your own" : told.licence],
    ["computed by", told.backend],
    ["archive", told.archive_sha256, "code"],
    ["this answer", about.id, "code"],
  ]);
}

function text(tag, words) {
  const element = document.createElement(tag);
  element.textContent = words;
  return element;
}

function colour(name) {
  const hex = getComputedStyle(document.documentElement).getPropertyValue(name).trim().slice(1);
  const full = hex.length === 3 ? [...hex].map((digit) => digit + digit).join("") : hex;
  return [0, 2, 4].map((at) => parseInt(full.slice(at, at + 2), 16));
}

// A square a value: the stronger the colour, the farther from zero.
function values(embedding) {
  const columns = Math.min(48, embedding.length), rows = Math.ceil(embedding.length / columns);
  const sorted = embedding.map(Math.abs).sort((a, b) => a - b);
  const most = sorted[Math.floor(0.98 * (sorted.length - 1))] || 1; // one huge value does not make the others pale
  const [ground, high, low] = ["--card", "--high", "--low"].map(colour);
  paint($("values"), columns, rows, (index) => {
    if (index >= embedding.length) return [...ground, 0];
    const share = Math.min(1, Math.abs(embedding[index]) / most), to = embedding[index] < 0 ? low : high;
    return [...ground.map((value, part) => value + share * (to[part] - value)), 255];
  });
}

function paint(canvas, columns, rows, pixel) {
  canvas.width = columns;
  canvas.height = rows;
  const context = canvas.getContext("2d"), image = context.createImageData(columns, rows);
  for (let index = 0; index < columns * rows; index++) image.data.set(pixel(index), 4 * index);
  context.putImageData(image, 0, 0);
}

// What follows is shown when the server's answers have it.

function patches(png) { // a PNG in base64
  show($("pca"), Boolean(png));
  if (png) $("pca-picture").src = `data:image/png;base64,${png}`;
}

function scores(said, { probe = {} }) { // {name: share, …}, the likeliest first
  const rows = Object.entries(said || {});
  show($("scores"), rows.length > 0);
  $("score-note").textContent = probe.accuracy === undefined
    ? "By the linear probe that was packaged."
    : `By a linear probe fitted on ${count(probe.learnt_images)} labelled images; it is right on ${(100 * probe.accuracy).toFixed(1)} % `
      + `of ${count(probe.scored_images)} others. It knows ${count(probe.classes)} classes, and names one whatever is shown.`;
  const worth = rows.filter(([, share], rank) => rank < LEAST_CLASSES || share >= 0.0005).slice(0, MOST_CLASSES);
  $("score-list").replaceChildren(...worth.map(([label, share]) => {
    const row = document.createElement("li"), track = document.createElement("div"), bar = document.createElement("i");
    bar.style.width = `${100 * Math.max(0, Math.min(1, share))}%`;
    track.append(bar);
    row.append(text("span", label), track, text("b", `${(100 * share).toFixed(1)} %`));
    return row;
  }));
}

function neighbours(said, { index = {}, lineage = {} } = {}) { // [{cosine, path, sha256, cluster, thumbnail: base64 of a JPEG or none}, …], the nearest first
  const rows = Array.isArray(said) ? said : [];
  show($("neighbours"), rows.length > 0);
  $("neighbour-list").classList.toggle("rows", !rows.some((one) => one.thumbnail));
  show($("neighbour"), false);
  const clusters = rows.some((one) => known(one.cluster)) ? ", of all its clusters" : ""; // of few images there are none
  $("neighbour-note").textContent = `Press one to see where it comes from.${index.images ? ` Looked up among ${count(index.images)} images of the curated dataset${clusters}.` : ""}`;
  $("neighbour-list").replaceChildren(...rows.map((one) => {
    const source = one.thumbnail ? `data:image/jpeg;base64,${one.thumbnail}` : "";
    const row = document.createElement("li"), button = document.createElement("button");
    button.type = "button";
    button.className = "tile";
    button.title = one.path || one.sha256;
    button.setAttribute("aria-label", `${one.path || one.sha256}, cosine ${one.cosine.toFixed(3)}`);
    button.setAttribute("aria-controls", "neighbour");
    button.setAttribute("aria-expanded", "false");
    button.append(...tile(source, one.cosine, String(one.path || one.sha256).split("/").pop()).childNodes);
    button.addEventListener("click", () => neighbour(button, one, lineage.index_dataset_sha256));
    row.append(button);
    return row;
  }));
}

// Where one of them comes from; pressed again, it closes.
function neighbour(button, one, dataset) {
  const open = button.getAttribute("aria-expanded") !== "true";
  for (const other of $("neighbour-list").querySelectorAll("button")) other.setAttribute("aria-expanded", "false");
  button.setAttribute("aria-expanded", String(open));
  show($("neighbour"), open);
  if (!open) return;
  facts("neighbour-facts", [
    ["path", one.path, "code"],
    ["sha256", one.sha256, "code"],
    ["cluster", known(one.cluster) ? String(one.cluster) : ""],
    ["dataset", dataset, "code"],
    ["cosine", one.cosine.toFixed(4)],
  ]);
  $("neighbour-lineage").textContent = `dinomill lineage ${one.sha256}`;
  $("neighbour").scrollIntoView({ block: "nearest" });
}

function earlier(unit, version) { // embeddings of different versions cannot be compared
  const ranked = tried
    .filter((one) => one.version === version)
    .map((one) => ({ one, cosine: one.unit.reduce((sum, value, at) => sum + value * unit[at], 0) }))
    .sort((a, b) => b.cosine - a.cosine).slice(0, 12);
  show($("earlier"), ranked.length > 0);
  $("earlier-list").replaceChildren(...ranked.map(({ one, cosine }) => tile(one.url, cosine, one.name)));
}

function tile(source, cosine, name) {
  const row = document.createElement("li"), image = document.createElement("img");
  image.alt = "";
  show(image, Boolean(source));
  if (source) image.src = source;
  const words = text("span", name || "");
  row.title = name || "";
  row.append(image, text("b", cosine.toFixed(3)), words);
  return row;
}
