"use strict";
const data = JSON.parse(document.getElementById("data").textContent);
const LAYERS = {
  similarity: ["Similarity", data.features],
  labels: ["Seen labels", "Annotation of the seen classes: all that training reads of this image's labels."],
  pseudo: ["Pseudo mask", "Seen labels, and the latent classes mined where nothing is annotated: what the student learns from."],
  prediction: ["Prediction", "What the student sees, among all class names."],
  all: ["All labels", "The whole ground truth, unseen classes too: for evaluation only, training never reads it."],
  wrong: ["Disagreement", "Where the prediction is wrong, and what it says there. Hatched: no label, so not scored."],
  swipe: ["Swipe", "Ground truth left of the line, prediction right of it. Hatched: no label, so not scored."],
};
const COMPARED = ["wrong", "swipe"], STRIPES = 8;
const STOPS = [[0, 0, 4], [40, 11, 84], [101, 21, 110], [159, 42, 99], [212, 72, 66], [245, 125, 21], [250, 193, 39], [252, 255, 164]];
const at = id => document.getElementById(id);
const state = { image: -1, cell: -1, under: -1, pinned: false, region: null, layer: "similarity", only: null, opacity: 0.72, split: 0.5, fixed: false, shown: [], heat: null };
const entryOf = i => data.images[i], gridOf = i => data.images[i].grid, cellsOf = i => gridOf(i)[0] * gridOf(i)[1];

// -- reading the data ------------------------------------------------------------------------------------------
function bytesOf(text) {
  const raw = atob(text), bytes = new Uint8Array(raw.length);
  for (let k = 0; k < raw.length; k++) bytes[k] = raw.charCodeAt(k);
  return bytes;
}
function remembered(make) {
  const known = new Map();
  return (...key) => { const id = key.join(" "); if (!known.has(id)) known.set(id, make(...key)); return known.get(id); };
}
const tokens = remembered(i => {
  const bytes = bytesOf(entryOf(i).tokens), cells = cellsOf(i);
  return { scales: new Float32Array(bytes.buffer, 0, cells), codes: new Int8Array(bytes.buffer, 4 * cells) };
});
// The names nearest to each cell, as stages/parts/scoring/explorer.py cell_names packs them.
const cellNames = remembered(i => {
  const bytes = bytesOf(entryOf(i).cellNames), each = bytes.length / 3 / cellsOf(i), split = each * cellsOf(i);
  return { each, classes: bytes.subarray(0, split), cosines: new Int16Array(bytes.slice(split).buffer) };
});
// The same arithmetic in the same order as stages/parts/scoring/explorer.py packed_cosines.
function similarity(i, cell) {
  const { codes, scales } = tokens(i), cells = cellsOf(i), found = new Float64Array(cells), d = codes.length / cells;
  for (let c = 0; c < cells; c++) {
    let dot = 0;
    for (let k = 0; k < d; k++) dot += codes[c * d + k] * codes[cell * d + k];
    found[c] = dot * scales[c] * scales[cell];
  }
  found[cell] = scales[cell] > 0 ? 1 : 0;
  return found;
}
const mask = remembered((i, layer) => {
  const [h, w] = entryOf(i).size, whole = new Uint8Array(h * w), runs = entryOf(i).layers[layer];
  for (let k = 0, place = 0; k < runs.length; k += 2) { whole.fill(runs[k], place, place + runs[k + 1]); place += runs[k + 1]; }
  return whole;
});
const regionLayer = i => entryOf(i).layers.pseudo ? "pseudo" : entryOf(i).layers.labels ? "labels" : "all";
const inY = layer => layer === "pseudo" || layer === "labels";
const className = c => data.classes[c] + (c >= data.seen ? " *" : "");
// A latent class has no name of its own: the nearest name is a guess, and is shown as one.
function regionName(i, region) {
  if (region < data.seen) return data.classes[region];
  const found = entryOf(i).regions.find(r => r.id === region);
  return found && found.names.length ? `${found.name} = ${className(found.names[0][0])}?` : "latent" + (region - data.seen);
}
function labelName(layer, value) {
  if (value === 255) return "nothing";
  return inY(layer) ? regionName(state.image, value) : className(value);
}
function colour(layer, value) {
  return inY(layer) && value >= data.seen ? data.latentColours[value - data.seen] : data.colours[value];
}
function heatColour(share) {
  const place = Math.min(Math.max(share, 0), 1) * (STOPS.length - 1), low = Math.min(Math.floor(place), STOPS.length - 2);
  return STOPS[low].map((v, k) => v + (place - low) * (STOPS[low + 1][k] - v));
}
function layersOf(i) {
  const own = entryOf(i).layers, both = own.all && own.prediction;
  return Object.keys(LAYERS).filter(l => l === "similarity" || own[l] || (both && COMPARED.includes(l)));
}
// What is drawn: for each pixel a label, or 254: right, as it is; 253: not scored.
function drawn() {
  const i = state.image, [h, w] = entryOf(i).size, layer = state.layer;
  if (!COMPARED.includes(layer)) return mask(i, layer);
  const truth = mask(i, "all"), found = mask(i, "prediction"), border = Math.round(state.split * w);
  return truth.map((t, k) => {
    if (layer === "swipe") return k % w < border ? t : t === 255 ? 253 : found[k];
    return t === 255 ? 253 : found[k] === t ? 254 : found[k];
  });
}

// -- drawing ---------------------------------------------------------------------------------------------------
function pixels(canvas, h, w, paint) {
  canvas.width = w; canvas.height = h;
  const context = canvas.getContext("2d"), field = context.createImageData(w, h);
  paint(field.data);
  context.putImageData(field, 0, 0);
}
function drawMask() {
  const shown = state.layer !== "similarity";
  at("mask").hidden = at("legend").hidden = !shown;
  at("swipe").hidden = at("line").hidden = state.layer !== "swipe";
  at("line").style.left = 100 * state.split + "%";
  if (!shown) return;
  const [h, w] = entryOf(state.image).size, values = drawn(), alpha = Math.round(255 * state.opacity);
  pixels(at("mask"), h, w, field => {
    for (let k = 0; k < values.length; k++) {
      // A dark and a light line where two labels meet, as in the pictures that Python draws.
      const x = k % w, value = values[k], differs = step => values[k + step] !== undefined && values[k + step] !== value;
      if ((x < w - 1 && differs(1)) || differs(w)) { field.set([25, 25, 25, 255], 4 * k); continue; }
      if ((x > 0 && differs(-1)) || differs(-w)) { field.set([245, 245, 245, 255], 4 * k); continue; }
      if (value === 254) continue;
      if (value === 253) { field.set((x + (k - x) / w) % STRIPES < 2 ? [120, 120, 120, 200] : [235, 235, 235, 150], 4 * k); continue; }
      if (value === 255) { field.set([235, 235, 235, alpha * 0.55], 4 * k); continue; }
      if (state.only !== null && state.only !== value) { field.set([235, 235, 235, 215], 4 * k); continue; }
      field.set([...colour(state.layer, value), alpha], 4 * k);
    }
  });
}
function drawLegend() {
  at("legend").replaceChildren();
  if (state.layer === "similarity") return;
  const values = drawn(), areas = new Map();
  for (const value of values) areas.set(value, (areas.get(value) || 0) + 1);
  const share = value => `${(100 * areas.get(value) / values.length).toFixed(1)} %`;
  for (const value of [...areas.keys()].filter(v => v < 253).sort((a, b) => areas.get(b) - areas.get(a))) {
    const button = make("button", null, at("legend"), { "data-value": value, "aria-pressed": false });
    chip(colour(state.layer, value), button);
    button.append(`${labelName(state.layer, value)} ${share(value)}`);
    const isolate = only => { if (state.only !== only) { state.only = only; drawMask(); } };
    const held = () => button.getAttribute("aria-pressed") === "true";
    button.addEventListener("pointerenter", () => isolate(value));
    button.addEventListener("pointerleave", () => { const kept = at("legend").querySelector("[aria-pressed=true]"); isolate(kept ? Number(kept.dataset.value) : null); });
    button.addEventListener("click", () => {
      const wanted = !held();
      for (const other of at("legend").querySelectorAll("button")) other.setAttribute("aria-pressed", false);
      button.setAttribute("aria-pressed", wanted);
      isolate(wanted ? value : null);
    });
  }
  for (const [value, text] of [[254, "right"], [253, "not scored"], [255, "no label"]])
    if (areas.has(value)) make("span", `${text} ${share(value)}`, at("legend"), { class: "soft" });
  roving(at("legend"));
}
function drawHeat() {
  const shown = state.layer === "similarity" && state.cell >= 0, [gridH, gridW] = gridOf(state.image), cells = gridH * gridW;
  at("heat").hidden = at("key").hidden = !shown;
  // Colours are the scale's alone where the photo below has none.
  at("picture").classList.toggle("grey", shown);
  at("cursor").hidden = state.cell < 0;
  at("cursor").classList.toggle("pinned", state.pinned);
  if (state.cell < 0) return;
  state.heat = similarity(state.image, state.cell);
  let least = Infinity, most = -Infinity;
  for (let c = 0; c < cells; c++) if (c !== state.cell) { least = Math.min(least, state.heat[c]); most = Math.max(most, state.heat[c]); }
  if (!(most > least)) { least = -1; most = 1; }
  if (state.fixed) { least = 0; most = 1; }
  pixels(at("heat"), gridH, gridW, field => {
    for (let c = 0; c < cells; c++) field.set([...heatColour((state.heat[c] - least) / (most - least)), 255 * state.opacity], 4 * c);
  });
  at("least").textContent = least.toFixed(2);
  at("most").textContent = most.toFixed(2);
  const box = at("cursor").style, y = Math.floor(state.cell / gridW), x = state.cell % gridW;
  box.top = 100 * y / gridH + "%"; box.left = 100 * x / gridW + "%";
  box.height = 100 / gridH + "%"; box.width = 100 / gridW + "%";
  readout();
}
function readout() {
  const i = state.image, cell = state.under >= 0 ? state.under : state.cell, gridW = gridOf(i)[1];
  if (cell < 0) return;
  const parts = [`cell ${Math.floor(cell / gridW)}, ${cell % gridW}`];
  if (cell !== state.cell) parts.push(`cosine to the ${state.pinned ? "pinned" : "marked"} cell ${state.heat[cell].toFixed(3)}`);
  else if (state.pinned) parts.push("pinned");
  if (entryOf(i).cellNames) {
    const { each, classes, cosines } = cellNames(i), named = [];
    for (let k = each * cell; k < each * (cell + 1); k++) named.push(`${className(classes[k])} ${(cosines[k] / 10000).toFixed(3)}`);
    parts.push(`nearest names: ${named.join(", ")}`);
  }
  for (const layer of Object.keys(entryOf(i).layers)) parts.push(`${LAYERS[layer][0].toLowerCase()}: ${labelName(layer, labelAt(layer, cell))}`);
  at("readout").textContent = parts.join(" · ");
}
function labelAt(layer, cell) {
  const [h, w] = entryOf(state.image).size, [gridH, gridW] = gridOf(state.image), y = Math.floor(cell / gridW), x = cell % gridW;
  const row = Math.min(h - 1, Math.floor((y + 0.5) * h / gridH)), column = Math.min(w - 1, Math.floor((x + 0.5) * w / gridW));
  return mask(state.image, layer)[row * w + column];
}
function drawOutline() {
  const r = state.region;
  at("outline").hidden = r === null;
  if (r === null) return;
  const [h, w] = entryOf(state.image).size, values = mask(state.image, regionLayer(state.image));
  pixels(at("outline"), h, w, field => {
    for (let y = 0; y < h; y++) for (let x = 0; x < w; x++) {
      const k = y * w + x;
      if (values[k] !== r) { field.set([0, 0, 0, 60], 4 * k); continue; }
      // The image's own border is no border of a region.
      const edge = reach => (x >= reach && values[k - reach] !== r) || (x < w - reach && values[k + reach] !== r) ||
        (y >= reach && values[k - reach * w] !== r) || (y < h - reach && values[k + reach * w] !== r);
      if (edge(1) || (w > 300 && edge(2))) field.set([255, 255, 255, 255], 4 * k);
    }
  });
}

// -- the parts of the page -----------------------------------------------------------------------------------------
function make(tag, text, parent, attributes) {
  const made = document.createElement(tag);
  if (text !== null) made.textContent = text;
  for (const [name, value] of Object.entries(attributes || {})) made.setAttribute(name, value);
  parent.append(made);
  return made;
}
function chip(rgb, parent) { make("span", null, parent, { class: "chip" }).style.background = `rgb(${rgb.join(",")})`; }
// One stop of the Tab key for a group of buttons; arrows move inside it.
function roving(group) {
  const buttons = [...group.querySelectorAll("button")];
  const current = buttons.find(b => b.getAttribute("aria-current") === "true" || b.getAttribute("aria-pressed") === "true") || buttons[0];
  for (const button of buttons) button.tabIndex = button === current ? 0 : -1;
}
document.addEventListener("keydown", event => {
  const group = event.target.closest && event.target.tagName === "BUTTON" && event.target.closest("[role=group]");
  const step = { ArrowRight: 1, ArrowDown: 1, ArrowLeft: -1, ArrowUp: -1 }[event.key];
  if (!group || !step) return;
  event.preventDefault();
  const buttons = [...group.querySelectorAll("button")], next = buttons[buttons.indexOf(event.target) + step];
  if (!next) return;
  for (const button of buttons) button.tabIndex = button === next ? 0 : -1;
  next.focus();
});
function classesOf(entry) {
  const found = new Set();
  for (const [layer, runs] of Object.entries(entry.layers))
    for (let k = 0; k < runs.length; k += 2)
      if (runs[k] !== 255 && !(inY(layer) && runs[k] >= data.seen)) found.add(runs[k]);
  return found;
}
const shows = data.images.map(classesOf);
const pairName = ([truth, found]) => `${className(truth)} taken for ${className(found)}`;
function fillFilter() {
  make("option", `anything (${data.images.length})`, at("filter"), { value: "" });
  data.classes.forEach((_, c) => {
    const count = shows.filter(s => s.has(c)).length;
    if (count) make("option", `${className(c)} (${count})`, at("filter"), { value: c });
  });
  at("filter").addEventListener("change", () => { fillGallery(); if (!state.shown.includes(state.image)) show(state.shown[0]); });
}
const ORDERS = {
  stored: ["as they come", () => 0],
  worst: ["IoU, worst first", (a, b) => a.iou - b.iou],
  best: ["IoU, best first", (a, b) => b.iou - a.iou],
  wrong: ["most disagreement", (a, b) => b.wrong - a.wrong],
};
function fillOrder() {
  const scored = data.images.some(entry => entry.iou !== undefined);
  at("ordered").hidden = !scored;
  for (const [name, [text]] of Object.entries(ORDERS)) make("option", text, at("order"), { value: name });
  const pairs = new Map();
  for (const entry of data.images) for (const [truth, found, share] of entry.confused || []) {
    const key = truth + " " + found;
    pairs.set(key, (pairs.get(key) || 0) + share);
  }
  for (const [key] of [...pairs].sort((a, b) => b[1] - a[1]).slice(0, 10)) make("option", pairName(key.split(" ").map(Number)), at("order"), { value: key });
  at("order").addEventListener("change", () => { fillGallery(); show(state.shown[0]); });
}
function orderOf(name) {
  if (ORDERS[name]) return ORDERS[name][1];
  const share = entry => Math.max(0, ...(entry.confused || []).filter(c => `${c[0]} ${c[1]}` === name).map(c => c[2]));
  return (a, b) => share(b) - share(a);
}
function fillGallery() {
  const wanted = at("filter").value, order = orderOf(at("order").value || "stored");
  state.shown = data.images.map((_, i) => i).filter(i => wanted === "" || shows[i].has(Number(wanted)));
  state.shown.sort((a, b) => order(entryOf(a), entryOf(b)));
  at("gallery").replaceChildren();
  for (const i of state.shown) {
    const entry = entryOf(i), score = typeof entry.iou === "number" ? `IoU ${(100 * entry.iou).toFixed(0)}` : "";
    const button = make("button", null, at("gallery"), { "aria-label": `${entry.id} ${score}`.trim(), "data-image": i });
    button.title = entry.id;
    make("img", null, button, { src: entry.picture, alt: "" });
    if (score) make("span", score, button);
    button.addEventListener("click", () => show(i));
  }
  markCurrent();
}
function markCurrent() {
  for (const button of at("gallery").children) {
    const current = Number(button.dataset.image) === state.image;
    button.setAttribute("aria-current", current);
    if (current) button.scrollIntoView({ block: "nearest", inline: "nearest" });
  }
  roving(at("gallery"));
}
function fillBar() {
  const here = layersOf(state.image), there = [...at("layers").children].map(b => b.dataset.layer);
  if (!here.includes(state.layer)) state.layer = here.includes("prediction") ? "prediction" : "similarity";
  if (here.join() !== there.join()) {  // else the button that has the focus keeps it
    at("layers").replaceChildren();
    for (const layer of here) make("button", LAYERS[layer][0], at("layers"), { "data-layer": layer }).addEventListener("click", () => choose(layer));
  }
  for (const button of at("layers").children) button.setAttribute("aria-pressed", button.dataset.layer === state.layer);
  roving(at("layers"));
  at("sentence").textContent = LAYERS[state.layer][1];
}
function choose(layer) {
  state.layer = layer; state.only = null;
  fillBar(); drawMask(); drawLegend(); drawHeat(); remember();
}
function fillRegions() {
  const entry = entryOf(state.image);
  at("heading").hidden = at("regions").hidden = data.split === "val";
  at("regions").replaceChildren();
  if (!entry.regions.length) make("span", "none", at("regions"), { class: "soft" });
  for (const region of entry.regions) {
    const button = make("button", null, at("regions"), { "aria-pressed": region.id === state.region, "data-region": region.id });
    chip(colour("pseudo", region.id), button);
    button.append(regionName(state.image, region.id));
    button.addEventListener("click", () => pick(state.region === region.id ? null : region.id));
  }
  roving(at("regions"));
}
function bars(box, rows, most, text) {
  for (const [name, value] of rows) {
    const row = make("div", null, box, { class: "name" });
    make("span", name, row, { class: "text" });
    make("span", text(value), row, { class: "value" });
    make("i", null, make("span", null, row, { class: "track" })).style.width = Math.max(0, 100 * value / most) + "%";
  }
}
function fillScores() {
  const entry = entryOf(state.image), box = at("scores");
  box.replaceChildren();
  if (!entry.ious) return;
  make("h2", `Scores of this image: mean IoU ${(100 * entry.iou).toFixed(1)}`, box);
  bars(box, entry.ious.map(([c, iou]) => [className(c), 100 * iou]), 100, value => value.toFixed(1));
  make("p", `Axis 0 to 100. ${(100 * entry.wrong).toFixed(1)} % of the labelled pixels are wrong.` +
    (entry.confused.length ? ` Mostly: ${entry.confused.slice(0, 3).map(c => `${pairName(c)} (${(100 * c[2]).toFixed(1)} %)`).join(", ")}.` : ""), box, { class: "soft" });
}
function fillDetails() {
  const box = at("details"), region = entryOf(state.image).regions.find(r => r.id === state.region);
  box.replaceChildren();
  if (!region) {
    if (data.split !== "val") make("p", "Pick a region, here or in the image, to see its nearest class names and its nearest regions elsewhere.", box, { class: "soft" });
    return;
  }
  make("h2", `${region.name}: nearest class names`, box);
  bars(box, region.names.map(([c, cosine]) => [className(c), cosine]), data.nameScale, value => value.toFixed(3));
  make("p", `Cosine, axis 0 to ${data.nameScale.toFixed(2)}: the highest of this page.`, box, { class: "soft" });
  make("h2", "Nearest regions elsewhere", box).style.marginTop = "1rem";
  const near = make("div", null, box, { class: "near" });
  for (const [id, name, cosine, thumb] of region.near) {
    const place = data.images.findIndex(e => e.id === id);
    const holder = make(place < 0 ? "figure" : "button", null, near);
    make("img", null, holder, { src: data.thumbs[thumb], alt: "" });
    make("div", `${cosine.toFixed(3)} ${name}`, holder);
    make("div", id, holder, { class: "soft" });
    if (place >= 0) holder.addEventListener("click", () => { show(place); const r = entryOf(place).regions.find(x => x.name === name); if (r) pick(r.id); });
  }
}

// -- what the user does ----------------------------------------------------------------------------------------------
// The cell in the middle of what is worth looking at: the largest latent class, or else the largest region.
function tellingCell(i) {
  const [gridH, gridW] = gridOf(i), cells = new Map();
  state.image = i;
  for (let c = 0; c < gridH * gridW; c++) {
    const value = labelAt(regionLayer(i), c);
    if (value !== 255) cells.set(value, [...(cells.get(value) || []), c]);
  }
  const latent = [...cells].filter(([value]) => value >= data.seen), among = latent.length ? latent : [...cells];
  if (!among.length) return Math.floor(gridH / 2) * gridW + Math.floor(gridW / 2);
  const [, own] = among.sort((a, b) => b[1].length - a[1].length)[0];
  const y = own.reduce((sum, c) => sum + Math.floor(c / gridW), 0) / own.length, x = own.reduce((sum, c) => sum + c % gridW, 0) / own.length;
  const far = c => (Math.floor(c / gridW) - y) ** 2 + (c % gridW - x) ** 2;
  return own.reduce((best, c) => far(c) < far(best) ? c : best);
}
function show(i) {
  if (i === undefined) return;
  const entry = entryOf(i);
  state.cell = tellingCell(i);
  Object.assign(state, { image: i, region: null, under: -1, pinned: false, only: null });
  at("picture").src = entry.picture;
  at("picture").alt = "Image " + entry.id;
  at("stage").style.aspectRatio = `${entry.size[1]} / ${entry.size[0]}`;
  at("stage").style.maxWidth = `min(100%, ${78 * entry.size[1] / entry.size[0]}vh)`;
  markCurrent(); fillBar(); fillRegions(); fillScores(); fillDetails(); drawMask(); drawLegend(); drawHeat(); drawOutline(); remember();
}
function moveTo(cell) {
  if (cell === state.cell) return;
  state.cell = cell;
  drawHeat();
}
function pick(region) {
  state.region = region;
  for (const button of at("regions").querySelectorAll("button")) button.setAttribute("aria-pressed", Number(button.dataset.region) === region);
  roving(at("regions")); fillDetails(); drawOutline(); remember();
}
// Pins the cell that lies there, or lets it go where it is the pinned one, and picks the region under it.
function pin(cell) {
  const again = state.pinned && cell === state.cell;
  moveTo(cell);
  state.pinned = !again; state.under = cell;
  drawHeat();
  const value = labelAt(regionLayer(state.image), cell);
  pick(!again && entryOf(state.image).regions.some(r => r.id === value) ? value : null);
}
function cellUnder(event) {
  const box = at("stage").getBoundingClientRect(), [gridH, gridW] = gridOf(state.image);
  const y = Math.floor((event.clientY - box.top) / box.height * gridH), x = Math.floor((event.clientX - box.left) / box.width * gridW);
  return Math.min(gridH - 1, Math.max(0, y)) * gridW + Math.min(gridW - 1, Math.max(0, x));
}
at("stage").addEventListener("pointermove", event => {
  const cell = cellUnder(event);
  if (cell === state.under) return;
  state.under = cell;
  if (state.pinned) readout(); else moveTo(cell);
});
at("stage").addEventListener("pointerleave", () => { state.under = -1; readout(); });
at("stage").addEventListener("click", event => pin(cellUnder(event)));
at("stage").addEventListener("keydown", event => {
  const step = { ArrowUp: [-1, 0], ArrowDown: [1, 0], ArrowLeft: [0, -1], ArrowRight: [0, 1] }[event.key], [gridH, gridW] = gridOf(state.image);
  if (step) {
    event.preventDefault();
    const y = Math.min(gridH - 1, Math.max(0, Math.floor(state.cell / gridW) + step[0]));
    const x = Math.min(gridW - 1, Math.max(0, state.cell % gridW + step[1]));
    state.under = -1; state.pinned = false;
    moveTo(y * gridW + x);
  } else if (event.key === "Enter") pin(state.cell);
});
document.addEventListener("keydown", event => {
  if (event.target.tagName === "SELECT" || event.ctrlKey || event.metaKey || event.altKey) return;
  const layers = [...at("layers").children];
  if (event.key === "Escape") { state.pinned = false; drawHeat(); pick(null); }
  else if (/^[1-7]$/.test(event.key) && layers[event.key - 1]) choose(layers[event.key - 1].dataset.layer);
  else if (event.key === "n" || event.key === "p") {
    const here = state.shown.indexOf(state.image), next = here + (event.key === "n" ? 1 : -1);
    show(state.shown[Math.min(state.shown.length - 1, Math.max(0, next))]);
  }
});
at("strength").value = state.opacity;
at("strength").addEventListener("input", () => { state.opacity = Number(at("strength").value); drawMask(); drawHeat(); });
at("swipe").addEventListener("input", () => { state.split = Number(at("swipe").value); drawMask(); drawLegend(); });
at("fixed").addEventListener("change", () => { state.fixed = at("fixed").checked; drawHeat(); });

// -- the page's address ------------------------------------------------------------------------------------------
function remember() {
  const parts = new URLSearchParams({ image: entryOf(state.image).id, layer: state.layer });
  if (state.pinned) parts.set("cell", state.cell);
  if (state.region !== null) parts.set("region", state.region);
  history.replaceState(null, "", "#" + parts);
}
function follow() {
  const parts = new URLSearchParams(location.hash.slice(1)), place = data.images.findIndex(e => e.id === parts.get("image"));
  const cell = Number(parts.get("cell") ?? -1), region = Number(parts.get("region") ?? -1);
  if (Object.hasOwn(LAYERS, parts.get("layer"))) state.layer = parts.get("layer");
  show(Math.max(0, place));
  if (place < 0) return;
  if (Number.isInteger(cell) && cell >= 0 && cell < cellsOf(place)) { moveTo(cell); state.pinned = true; drawHeat(); }
  if (entryOf(place).regions.some(r => r.id === region)) pick(region);
  remember();
}
addEventListener("hashchange", follow);

document.title = `clip2seg explorer: ${data.preset}`;
at("title").textContent = `${data.preset}: ${data.split === "val" ? "what the student sees" : "what the teacher sees"}`;
at("about").textContent = `${data.source} · ${data.images.length} ${data.split === "val" ? "evaluation" : "training"} images · cosines as stored to ${data.error} (99 %)`;
at("scale").style.background = `linear-gradient(90deg, ${STOPS.map(s => `rgb(${s.join(",")})`).join(",")})`;
fillFilter(); fillOrder(); fillGallery(); follow();
globalThis.explorer = { data, state, similarity, mask };
