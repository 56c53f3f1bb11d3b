"use strict";
// What the page does: it asks the server, and has shown.js show what came back.
// The token comes in the fragment, which browsers send nowhere; it is kept for this tab alone.
const fragment = new URLSearchParams(location.hash.slice(1));
if (fragment.has("token")) {
  sessionStorage.setItem("token", fragment.get("token"));
  history.replaceState(null, "", location.pathname);
}
let token = sessionStorage.getItem("token") || "";
let model = null; // {id, version, limits, offers, lineage, probe, index}
let asking = 0; // the number of the last question: answers to earlier ones are not shown
let last = null; // {embedding, name}
const tried = []; // {name, url, unit, version}
const MOST_TRIED = 24;

function problem(text) { $("problem").textContent = text; show($("problem"), Boolean(text)); }
function headers(more) { return Object.assign({ Authorization: `Bearer ${token}` }, more); }

async function light() {
  try {
    const answer = await fetch("readyz", { cache: "no-store" });
    const said = await answer.json();
    $("light").className = said.ready ? "light good" : "light";
    const workers = `${said.workers.ready} of ${said.workers.wanted} worker${said.workers.wanted === 1 ? "" : "s"}`;
    $("served-text").textContent = said.model
      ? `${said.model}, version ${said.version}: ${said.ready ? "ready" : "not ready"}, ${workers}`
      : "the model is starting …";
    if (said.model && token && (!model || model.version !== said.version)) await look();
    else if (!token) askForToken("");
  } catch {
    $("light").className = "light bad";
    $("served-text").textContent = "the server does not answer";
  }
}

function askForToken(why) {
  show($("token-form"), true);
  show($("ask"), false);
  $("token-error").textContent = why;
  show($("token-error"), Boolean(why));
}

async function look() {
  const answer = await fetch("v1/models", { headers: headers(), cache: "no-store" });
  if (answer.status === 401) {
    sessionStorage.removeItem("token");
    token = "";
    askForToken("That token is not valid, or not any more.");
    return;
  }
  if (!answer.ok) return; // it is starting; the light will look again
  model = (await answer.json()).data[0];
  const limits = model.limits;
  $("limits").textContent = `at most ${limits.max_request_mb} MB and ${limits.max_megapixels} million pixels`;
  show($("token-form"), false);
  show($("ask"), true);
}

$("token-form").addEventListener("submit", async (event) => {
  event.preventDefault();
  token = $("token").value.trim();
  if (!/^[\x21-\x7e]+$/.test(token)) { askForToken("That is no token."); return; }
  sessionStorage.setItem("token", token);
  $("token").value = "";
  await look().catch(() => askForToken("The server does not answer."));
});

// An image that is larger than a request may be is made smaller here, which is said.
async function fitting(file) {
  const most = model.limits.max_request_mb * 2 ** 20;
  if (file.size <= most) return { body: file, note: "" };
  const bitmap = await createImageBitmap(file).catch(() => null);
  if (!bitmap) throw new Error(`The file has more than ${model.limits.max_request_mb} MB, and this browser cannot make it smaller.`);
  const scale = Math.min(1, 2048 / Math.max(bitmap.width, bitmap.height));
  const canvas = document.createElement("canvas");
  canvas.width = Math.max(1, Math.round(bitmap.width * scale));
  canvas.height = Math.max(1, Math.round(bitmap.height * scale));
  canvas.getContext("2d").drawImage(bitmap, 0, 0, canvas.width, canvas.height);
  const body = await new Promise((done) => canvas.toBlob(done, "image/jpeg", 0.92));
  if (!body || body.size > most) throw new Error(`The file has more than ${model.limits.max_request_mb} MB.`);
  return { body, note: `, made smaller to ${canvas.width} × ${canvas.height} before it was sent` };
}

function predict(body, want) {
  const sent = { "Content-Type": "application/octet-stream", Accept: "application/json" };
  if (want.length > 1) sent["X-Want"] = want.join(",");
  return fetch(`predictions/${encodeURIComponent(model.id)}`, { method: "POST", body, headers: headers(sent) });
}

async function ask(file) {
  if (!file || !model) return;
  const number = ++asking;
  problem("");
  $("drop").classList.add("busy");
  try {
    const { body, note } = await fitting(file);
    const start = performance.now();
    const want = ["embedding", "scores", "neighbours", "pca"].filter((view) => model.offers.includes(view));
    let answer = await predict(body, want), said = await answer.json();
    if (answer.status === 400 && want.length > 1) { // a network may have no patches: then its embedding alone
      const plain = await predict(body, ["embedding"]);
      if (plain.ok) { answer = plain; said = await plain.json(); }
    }
    const ms = performance.now() - start;
    if (number !== asking) return;
    if (answer.status === 401) { askForToken("That token is not valid any more."); return; }
    if (!answer.ok) { problem(typeof said.error === "string" ? said.error : said.error.message); return; }
    render(file, said, { ms, note, id: answer.headers.get("x-request-id"), version: answer.headers.get("x-model-version") });
  } catch (error) {
    if (number === asking) problem(error instanceof TypeError ? "The server does not answer." : error.message);
  } finally {
    if (number === asking) $("drop").classList.remove("busy");
  }
}

function render(file, said, about) {
  // While another version takes over, what was said of the one before is not of this answer.
  const told = about.version === model.version ? model : {};
  const name = file.name || "pasted image";
  const url = URL.createObjectURL(file);
  const embedding = said.embedding;
  const length = Math.hypot(...embedding);
  const unit = embedding.map((value) => value / (length || 1));
  last = { embedding, name };
  document.body.classList.add("small");
  show($("result"), true);
  $("preview").src = url;
  $("about").textContent = `${name}, ${size(file.size)}${about.note}`;
  values(embedding);
  facts("facts", [
    ["numbers", String(embedding.length)],
    ["length", length.toPrecision(4)],
    ["smallest, largest", `${Math.min(...embedding).toPrecision(3)}, ${Math.max(...embedding).toPrecision(3)}`],
    ["answered in", `${about.ms.toFixed(0)} ms`],
  ]);
  origin(about, told);
  $("lineage").textContent = `dinomill lineage ${about.id}`;
  patches(said.pca);
  scores(said.scores, told);
  neighbours(said.neighbours, told);
  earlier(unit, about.version);
  tried.push({ name, url, unit, version: about.version });
  if (tried.length > MOST_TRIED) URL.revokeObjectURL(tried.shift().url);
}

async function copy(button, words) {
  const before = button.textContent;
  try {
    await navigator.clipboard.writeText(words);
    button.textContent = "Copied";
  } catch {
    button.textContent = "Not allowed here";
  }
  setTimeout(() => { button.textContent = before; }, 1500);
}

$("copy").addEventListener("click", () => copy($("copy"), JSON.stringify(last.embedding)));
$("copy-lineage").addEventListener("click", () => copy($("copy-lineage"), $("lineage").textContent));
$("copy-neighbour").addEventListener("click", () => copy($("copy-neighbour"), $("neighbour-lineage").textContent));
$("file").addEventListener("change", () => { ask($("file").files[0]); $("file").value = ""; });
$("drop").addEventListener("keydown", (event) => { if (event.key === "Enter" || event.key === " ") { event.preventDefault(); $("file").click(); } });
for (const name of ["dragover", "dragenter"]) addEventListener(name, (event) => { event.preventDefault(); $("drop").classList.add("over"); });
addEventListener("dragleave", (event) => { if (!event.relatedTarget) $("drop").classList.remove("over"); });
addEventListener("drop", (event) => { event.preventDefault(); $("drop").classList.remove("over"); ask(event.dataTransfer.files[0]); });
addEventListener("paste", (event) => { const file = [...event.clipboardData.files].find((one) => one.type.startsWith("image/")); if (file) { event.preventDefault(); ask(file); } });

light();
setInterval(light, 5000);
