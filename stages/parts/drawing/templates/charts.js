"use strict";
// Values of a chart under the pointer, a finger or the arrow keys.
for (const figure of document.querySelectorAll("figure[data-chart]")) {
  const data = JSON.parse(figure.dataset.chart), svg = figure.querySelector("svg"), output = figure.querySelector("output");
  const pointer = figure.querySelector(".pointer"), rest = output.textContent, xs = data.lines[0][1].map(p => p[0]);
  let place = xs.length - 1;
  const nearest = (points, x) => points.reduce((best, p) => Math.abs(p[0] - x) < Math.abs(best[0] - x) ? p : best);
  const text = value => String(Number(value.toPrecision(4)));
  function show(x) {
    const across = data.left + (x - data.from) / (data.to - data.from || 1) * (data.right - data.left);
    pointer.setAttribute("x1", across);
    pointer.setAttribute("x2", across);
    pointer.setAttribute("visibility", "visible");
    output.textContent = data.lines.map(([name, points]) => {
      const [at, y] = nearest(points, x);
      return `${name ? name + ", " : ""}${data.x} ${text(at)}: ${text(y)}`;
    }).join("\n");
  }
  function hide() { pointer.setAttribute("visibility", "hidden"); output.textContent = rest; }
  svg.addEventListener("pointermove", event => {
    const box = svg.getBoundingClientRect(), across = (event.clientX - box.left) / box.width * svg.viewBox.baseVal.width;
    const x = data.from + (across - data.left) / (data.right - data.left) * (data.to - data.from);
    place = xs.indexOf(nearest(data.lines[0][1], x)[0]);
    show(xs[place]);
  });
  svg.addEventListener("pointerleave", hide);
  figure.addEventListener("blur", hide);
  figure.addEventListener("keydown", event => {
    const step = { ArrowLeft: -1, ArrowRight: 1 }[event.key];
    if (!step) return;
    event.preventDefault();
    place = Math.min(xs.length - 1, Math.max(0, place + step));
    show(xs[place]);
  });
}
