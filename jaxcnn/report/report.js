"use strict";
const data = JSON.parse(document.getElementById("data").textContent);
const NS = "http://www.w3.org/2000/svg";
const COLOURS = 7;
const DASHES = ["", "7 4", "2 3", "9 3 2 3"];
const shown = data.runs.map(() => true);
let axis = "epoch";

function make(parent, tag, attributes, text) {
  const element = document.createElementNS(NS, tag);
  for (const [key, value] of Object.entries(attributes)) element.setAttribute(key, value);
  if (text !== undefined) element.textContent = text;
  parent.append(element);
  return element;
}

// Colours repeat after seven series; the dashes then tell them apart.
const look = index => ({ colour: `var(--c${index % COLOURS})`, dash: DASHES[Math.floor(index / COLOURS) % DASHES.length] });

function ticks(low, high, count, whole) {
  const rough = Math.max((high - low) / count || 1, whole ? 1 : 0);
  const power = 10 ** Math.floor(Math.log10(rough));
  const step = [1, 2, 5, 10].map(f => f * power).find(s => s >= rough);
  const found = [];
  for (let i = Math.ceil(low / step - 1e-9); i * step <= high + step * 1e-9; i++) found.push(i * step);
  return found;
}

function powers(low, high) {
  const found = [];
  for (let e = Math.floor(Math.log10(low)); e <= Math.ceil(Math.log10(high)); e++) {
    for (const f of [1, 2, 5]) if (f * 10 ** e >= low * 0.999 && f * 10 ** e <= high * 1.001) found.push(f * 10 ** e);
  }
  return found.length > 7 ? found.filter(v => Math.abs(Math.log10(v) - Math.round(Math.log10(v))) < 1e-9) : found;
}

function short(value) {
  if (value !== 0 && Math.abs(value) < 1e-3) return value.toExponential(0);
  if (Math.abs(value) >= 1e9) return +(value / 1e9).toPrecision(3) + " G";
  if (Math.abs(value) >= 1e6) return +(value / 1e6).toPrecision(3) + " M";
  if (Math.abs(value) >= 1e4) return +(value / 1e3).toPrecision(3) + " k";
  return String(+value.toPrecision(3));
}

const exact = value => Math.abs(value) >= 1e4 ? short(value) : Math.abs(value) < 1e-3 ? value.toExponential(2) : String(+value.toPrecision(4));

// A chart: { series: [{ name, points: [[x, y]], colour, dash, dots }], xWords, logX, logY }
function draw(figure, chart) {
  const svg = figure.querySelector("svg"), readout = figure.querySelector(".readout");
  const title = figure.querySelector("figcaption").textContent;
  svg.replaceChildren();
  const rest = () => {
    readout.replaceChildren();
    for (const s of chart.legend ? chart.series : []) tell(s.name, s.colour);
  };
  const tell = (text, colour) => {
    const item = document.createElement("span");
    if (colour) item.style.color = colour;
    item.textContent = text;
    readout.append(item, " ");
  };
  rest();
  const width = svg.clientWidth || 400, height = svg.clientHeight || 260;
  svg.setAttribute("viewBox", `0 0 ${width} ${height}`);
  svg.setAttribute("aria-label", `${title}: ${chart.series.map(s => s.name).join(", ")}`);
  const all = chart.series.flatMap(s => s.points);
  if (!all.length) {
    make(svg, "text", { x: width / 2, y: height / 2, "text-anchor": "middle" }, "nothing to show");
    return;
  }
  const box = { left: 52, right: width - 14, top: 10, bottom: height - 40 };
  const scale = (values, log, from, to, margin, whole) => {
    let low = Math.min(...values), high = Math.max(...values);
    if (log) {
      const room = Math.max((Math.log10(high) - Math.log10(low)) * margin, margin ? 0.08 : 0);
      low = 10 ** (Math.log10(low) - room); high = 10 ** (Math.log10(high) + room);
    } else {
      const room = (high - low) * margin || (low === high ? Math.abs(low) * 0.1 || 1 : 0);
      low -= room; high += room;
    }
    const f = log ? Math.log10 : v => v;
    const at = v => from + (f(v) - f(low)) / (f(high) - f(low) || 1) * (to - from);
    return { at, marks: log ? powers(low, high) : ticks(low, high, Math.max(2, Math.abs(to - from) / 48), whole) };
  };
  const x = scale(all.map(p => p[0]), chart.logX, box.left, box.right, chart.logX ? 0.1 : 0, chart.whole);
  const y = scale(all.map(p => p[1]), chart.logY, box.bottom, box.top, 0.05);
  for (const v of y.marks) {
    make(svg, "line", { class: "gridline", x1: box.left, x2: box.right, y1: y.at(v), y2: y.at(v) });
    make(svg, "text", { x: box.left - 6, y: y.at(v) + 4, "text-anchor": "end" }, short(v));
  }
  for (const v of x.marks) make(svg, "text", { x: x.at(v), y: box.bottom + 17, "text-anchor": "middle" }, short(v));
  make(svg, "text", { x: (box.left + box.right) / 2, y: height - 5, "text-anchor": "middle" }, chart.xWords);
  // The dots themselves are no place for a name.
  const labels = chart.series.filter(s => s.dots).map(s => {
    const [px, py] = [x.at(s.points[0][0]), y.at(s.points[0][1])];
    return { left: px - 7, right: px + 7, y: py + 4 };
  });
  // A name stands beside its dot where it covers no other name; else the colour has to tell.
  function label([px, py], name) {
    const text = make(svg, "text", { x: 0, y: 0 }, name), wide = text.getBBox().width;
    for (const side of px > width * 0.6 ? [-1, 1] : [1, -1]) {
      const left = side > 0 ? px + 10 : px - 10 - wide;
      if (left < box.left || left + wide > width) continue;
      for (const y of [0, 12, -12].map(d => py + 4 + d)) {
        if (y > box.bottom + 4 || labels.some(o => o.right > left && o.left < left + wide && Math.abs(o.y - y) < 12)) continue;
        text.setAttribute("x", left);
        text.setAttribute("y", y);
        labels.push({ left, right: left + wide, y });
        return;
      }
    }
    text.remove();
  }
  for (const s of chart.series) {
    const at = s.points.map(p => [x.at(p[0]), y.at(p[1])]);
    if (!s.dots) make(svg, "polyline", { class: "series", points: at.map(p => p.join(",")).join(" "), stroke: s.colour, "stroke-dasharray": s.dash, "data-name": s.name });
    for (const p of s.dots || at.length <= 20 ? at : []) make(svg, "circle", { cx: p[0], cy: p[1], r: s.dots ? 6 : 2.5, fill: s.colour, "data-name": s.name });
    if (s.dots) label(at[0], s.name);
  }
  const cursor = make(svg, "line", { class: "cursor", y1: box.top, y2: box.bottom, visibility: "hidden" });
  const stops = [...new Set(all.map(p => p[0]))].sort((a, b) => a - b);
  const read = stop => {
    cursor.setAttribute("x1", x.at(stop)); cursor.setAttribute("x2", x.at(stop));
    cursor.setAttribute("visibility", "visible");
    readout.replaceChildren();
    tell(`${chart.xWords} ${exact(stop)}`);
    for (const s of chart.series) {
      const near = s.points.reduce((a, b) => Math.abs(b[0] - stop) < Math.abs(a[0] - stop) ? b : a);
      if (near[0] !== stop && (chart.logX || chart.whole)) continue;
      tell(`${s.name} ${exact(near[1])}`, s.colour);
    }
  };
  let place = -1;
  svg.onpointermove = event => {
    const px = (event.clientX - svg.getBoundingClientRect().left) * width / svg.getBoundingClientRect().width;
    place = stops.reduce((a, v, i) => Math.abs(x.at(v) - px) < Math.abs(x.at(stops[a]) - px) ? i : a, 0);
    read(stops[place]);
  };
  svg.onpointerleave = () => { cursor.setAttribute("visibility", "hidden"); rest(); };
  svg.onkeydown = event => {
    const move = { ArrowLeft: -1, ArrowRight: 1 }[event.key];
    if (!move) return;
    event.preventDefault();
    place = Math.min(stops.length - 1, Math.max(0, place + move));
    read(stops[place]);
  };
}

function points(run, key) {
  return run.records.filter(r => key in r).map(r => [r[axis], r[key]]);
}

// One network that begins with a loss of hundreds would press all others flat.
function isWide(key, series) {
  const values = series.flatMap(s => s.points.map(p => p[1]));
  return key.endsWith("loss") && Math.min(...values) > 0 && Math.max(...values) > 20 * Math.min(...values);
}

function content(key) {
  const words = document.querySelector("#axis").selectedOptions[0].textContent;
  const visible = data.runs.map((run, i) => [run, i]).filter(([, i]) => shown[i]);
  if (key.startsWith("own_")) {
    const [, index, what] = key.split("_");
    const series = [["train", "training", 0], ["eval", "validation", 1]].map(([part, name, i]) => ({
      name, points: points(data.runs[index], `${part}_${what}`), ...look(i), dash: i ? "7 4" : "" }));
    return { xWords: words, logY: isWide(key, series), legend: true, whole: axis === "epoch", series };
  }
  if (key.startsWith("cost_")) {
    const kind = key.slice("cost_".length);
    const series = visible.map(([run, i]) => ({
      name: run.name, dots: true, ...look(i), points: [[run.costs[kind], run.eval_accuracy]] }));
    return { xWords: data.costs[kind], logX: true, legend: true, series };
  }
  if (key.startsWith("gradients_")) {
    const lines = data.gradients.filter(g => g.when === key.slice("gradients_".length));
    const series = lines.map((g, i) => ({ name: g.name, ...look(i), points: g.norms.map((n, j) => [j + 1, n]).filter(p => p[1] > 0) }));
    return { xWords: "convolution, from the image", logY: true, legend: true, whole: true, series };
  }
  const series = visible.map(([run, i]) => ({ name: run.name, ...look(i), points: points(run, key) }));
  return { xWords: words, logY: isWide(key, series), whole: axis === "epoch", series };
}

function drawAll() {
  for (const figure of document.querySelectorAll(".chart")) {
    if (figure.closest("[hidden]") === null) draw(figure, content(figure.dataset.chart));
  }
}

for (const input of document.querySelectorAll("input[data-run]")) {
  input.addEventListener("change", () => {
    shown[input.dataset.run] = input.checked;
    document.querySelector(`[data-own="${input.dataset.run}"]`).hidden = !input.checked;
    drawAll();
  });
}
for (const svg of document.querySelectorAll(".swatch")) {
  const { colour, dash } = look(+svg.dataset.swatch);
  make(svg, "line", { x1: 0, x2: 26, y1: 5, y2: 5, stroke: colour, "stroke-width": 3, "stroke-dasharray": dash });
}
document.querySelector("#axis").addEventListener("change", event => { axis = event.target.value; drawAll(); });
let waiting = 0;
window.addEventListener("resize", () => { cancelAnimationFrame(waiting); waiting = requestAnimationFrame(drawAll); });
window.addEventListener("beforeprint", () => { for (const d of document.querySelectorAll("details")) d.open = true; drawAll(); });
drawAll();
