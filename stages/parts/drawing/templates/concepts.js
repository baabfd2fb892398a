"use strict";
const data = JSON.parse(document.getElementById("data").textContent);
const one = id => document.getElementById(id);
const known = new Set([...data.seen, ...data.unseen]);
const byId = new Map(data.concepts.map(c => [c.concept, c]));
let dirty = false, next = 0;

// A group is what becomes a class: the parts of concepts in it ("3", or "3a" for a half), and what was decided.
const group = (parts, name) => ({ key: next++, parts, name, use: false, seen: false, gone: false, marked: false });
const concept = part => byId.get(parseInt(part, 10));
const half = part => "ab".indexOf(part[part.length - 1]);
let groups = data.concepts.map(c => group([String(c.concept)], c.explained ? c.names[0][0] : ""));

const regions = part => half(part) < 0 ? concept(part).regions : concept(part).parts[half(part)].regions;
const words = part => half(part) < 0 ? concept(part).names : concept(part).parts[half(part)].words;
const size = g => g.parts.reduce((sum, part) => sum + regions(part), 0);
const shots = g => g.parts.flatMap(part => concept(part).examples.filter(e => half(part) < 0 || e.half === half(part)));
const title = g => g.name || `concept ${g.parts.join(" + ")}`;

function make(tag, values = {}, ...inside) {
  const node = document.createElement(tag);
  for (const [key, value] of Object.entries(values)) {
    if (key.startsWith("on")) node.addEventListener(key.slice(2), value);
    else if (key in node && key !== "list") node[key] = value;
    else node.setAttribute(key, value);
  }
  node.append(...inside);
  return node;
}

function changed() { dirty = true; refresh(); }

function choices() {
  const used = groups.filter(g => g.use && !g.gone);
  return {
    format: data.format, preset: data.preset, membership: data.membership,
    classes: used.map(g => ({ name: g.name.trim(), concepts: g.parts, seen: g.seen })),
    discarded: groups.filter(g => g.gone).flatMap(g => g.parts),
  };
}

function trouble(made) {
  const names = made.classes.map(c => c.name);
  if (names.some(name => !name)) return "a class has no name";
  const twice = names.find((name, i) => names.indexOf(name) !== i);
  if (twice !== undefined) return `two classes are called ${twice}: merge them, or rename one`;
  return "";
}

function card(g) {
  const name = make("input", { type: "text", value: g.name, maxLength: 100, "aria-label": `name of concept ${g.parts.join(" + ")}`,
    placeholder: "no word explains it", oninput: event => { g.name = event.target.value; dirty = true; drawMap(); status(); } });
  const box = (text, key, what) => make("label", {}, make("input", { type: "checkbox", checked: g[key],
    onchange: event => { g[key] = event.target.checked; if (what) what(); changed(); } }), ` ${text}`);
  const first = concept(g.parts[0]), whole = g.parts.length === 1 && half(g.parts[0]) < 0;
  const facts = [`${size(g)} regions`, `${first.photos} photos`];
  if (first.spread !== null) facts.push(`spread ${first.spread.toFixed(2)}`, `confidence ${first.confidence.toFixed(2)}`);
  if (first.mostly) facts.push(`evaluation: ${first.mostly.class} ${Math.round(100 * first.mostly.share)} %`);
  const suggested = make("div", { className: "row words" }, ...words(g.parts[0]).slice(0, 4).map(([word, score]) =>
    make("button", { type: "button", title: `score ${score}`, onclick: () => { g.name = word; changed(); } }, word)));
  if (whole && !first.explained) suggested.append(make("span", { className: "warn" }, "no word explains it"));
  if (whole && first["near seen"]) suggested.append(make("span", { className: "quiet" }, `nearer to ${first["near seen"]}, which has labels`));
  const company = first["seen with"].map(c => `${c.class} ${Math.round(100 * c.share)} %`).join(", ");
  const apart = g.parts.length > 1 ? "Take apart" : "Split";
  const pieces = g.parts.length > 1 ? g.parts : whole && first.parts.length > 1 ? [`${g.parts[0]}a`, `${g.parts[0]}b`] : [];
  const node = make("section", { className: `card${g.marked ? " marked" : ""}${g.use && !g.gone ? " used" : ""}${g.gone ? " gone" : ""}`,
    id: `card${g.key}`, tabIndex: -1 },
    make("header", {}, make("h2", {}, `Concept ${g.parts.join(" + ")}`), box("mark", "marked")),
    make("div", { className: "shots" }, ...shots(g).slice(0, 8).map(e => make("img", { src: e.picture, alt: `region in ${e.view}`, title: e.view }))),
    make("p", { className: "quiet" }, facts.join(" · ")),
    make("p", { className: "quiet" }, company ? `seen with ${company}` : "seen with no class in particular"),
    make("div", { className: "row" }, name), suggested,
    make("div", { className: "row" }, box("use as class", "use"),
      make("select", { "aria-label": "seen or unseen", onchange: event => { g.seen = event.target.value === "seen"; changed(); } },
        make("option", { value: "unseen", selected: !g.seen }, "unseen: found by its name"),
        make("option", { value: "seen", selected: g.seen }, "seen: its regions become labels"))),
    make("div", { className: "row" },
      make("button", { type: "button", disabled: !pieces.length, onclick: () => {
        groups.splice(groups.indexOf(g), 1, ...pieces.map(part => group([part], words(part)[0][0])));
        changed();
      } }, apart),
      make("button", { type: "button", onclick: () => { g.gone = !g.gone; changed(); } }, g.gone ? "Take back" : "Discard")));
  return node;
}

function drawMap() {
  const svg = one("map"), most = Math.max(...data.concepts.map(c => c.regions), 1);
  svg.replaceChildren(...groups.flatMap(g => g.parts.flatMap(part => {
    const c = concept(part), dot = document.createElementNS("http://www.w3.org/2000/svg", "circle");
    const shift = half(part) < 0 ? 0 : 16 * (2 * half(part) - 1);
    for (const [key, value] of Object.entries({ cx: 500 + 450 * c.at[0] + shift, cy: 210 - 175 * c.at[1], tabindex: 0, role: "button",
      r: 6 + 22 * Math.sqrt(regions(part) / most), "aria-label": title(g), class: g.gone ? "gone" : g.use ? "used" : "" })) dot.setAttribute(key, value);
    const show = () => one("tip").replaceChildren(make("div", {}, ...shots({ parts: [part] }).slice(0, 3).map(e => make("img", { src: e.picture, alt: "" }))),
      `${title(g)}: ${regions(part)} regions`);
    const jump = () => { const there = one(`card${g.key}`); there.scrollIntoView({ block: "center" }); there.focus(); };
    dot.addEventListener("mouseenter", show); dot.addEventListener("focus", show); dot.addEventListener("click", jump);
    dot.addEventListener("mouseleave", () => one("tip").replaceChildren()); dot.addEventListener("blur", () => one("tip").replaceChildren());
    dot.addEventListener("keydown", event => { if (event.key === "Enter" || event.key === " ") { event.preventDefault(); jump(); } });
    const label = document.createElementNS("http://www.w3.org/2000/svg", "text");
    label.setAttribute("x", dot.getAttribute("cx")); label.setAttribute("y", Number(dot.getAttribute("cy")) - dot.getAttribute("r") - 5);
    label.textContent = g.name; label.setAttribute("aria-hidden", "true");
    return [dot, label];
  })));
}

function status() {
  const made = choices(), wrong = trouble(made), marked = groups.filter(g => g.marked).length;
  const exists = made.classes.filter(c => known.has(c.name)).map(c => c.name);
  one("said").textContent = wrong || `${made.classes.length} classes chosen, ${made.discarded.length} concepts discarded`
    + (exists.length ? `; already a class: ${exists.join(", ")}` : "");
  one("said").className = wrong ? "warn" : "quiet";
  one("save").disabled = Boolean(wrong) || !made.classes.length;
  one("merge").disabled = marked < 2;
  one("json").value = JSON.stringify(made, null, 1);
}

function refresh() {
  const held = document.activeElement, where = held && held.closest ? held.closest(".card") : null;
  const place = where ? [...where.querySelectorAll("input, button, select")].indexOf(held) : -1;
  one("cards").replaceChildren(...groups.map(card));
  const again = where && one(where.id);
  if (again) (place < 0 ? again : again.querySelectorAll("input, button, select")[place]).focus();
  drawMap();
  status();
}

const orders = {
  size: (a, b) => size(b) - size(a), name: (a, b) => title(a).localeCompare(title(b)),
  spread: (a, b) => (concept(b.parts[0]).spread || 0) - (concept(a.parts[0]).spread || 0),
  unnamed: (a, b) => Boolean(a.name) - Boolean(b.name) || size(b) - size(a),
};
one("sort").addEventListener("change", event => { groups.sort(orders[event.target.value]); refresh(); });
one("merge").addEventListener("click", () => {
  const marked = groups.filter(g => g.marked), kept = marked[0];
  kept.parts = marked.flatMap(g => g.parts);
  kept.name = marked.map(g => g.name).find(Boolean) || "";
  kept.use = marked.some(g => g.use); kept.marked = false; kept.gone = false;
  groups = groups.filter(g => g === kept || !g.marked);
  changed();
});
one("save").addEventListener("click", () => {
  const link = make("a", { href: URL.createObjectURL(new Blob([one("json").value], { type: "application/json" })), download: "choices.json" });
  link.click(); URL.revokeObjectURL(link.href); dirty = false;
});
addEventListener("beforeunload", event => { if (dirty) event.preventDefault(); });
refresh();
