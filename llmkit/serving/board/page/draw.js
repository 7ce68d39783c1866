// Curves as SVG: colours are the page's, and what is seen stands in words in each of them.

import { make, number } from "./parts.js";
import { say } from "./words.js";

const WIDTH = 560;
const HEIGHT = 260;
const LEFT = 62;
const RIGHT = 12;
const TOP = 12;
const BOTTOM = 40;
const WIDE = 50; // how many times its smallest figure a curve's largest is, for a logarithmic scale to show more

function shape(tag, attributes, text = "") {
  const node = document.createElementNS("http://www.w3.org/2000/svg", tag);
  for (const [name, value] of Object.entries(attributes)) node.setAttribute(name, value);
  if (text) node.textContent = text;
  return node;
}

// Round figures from one to the other: even(0.3, 9.2) -> [0, 2, 4, 6, 8, 10]
export function even(low, high, least = 0) {
  if (low === high) {
    const spread = Math.abs(low) || 1;
    [low, high] = [low - spread / 2, high + spread / 2];
  }
  const rough = (high - low) / 5;
  const unit = 10 ** Math.floor(Math.log10(rough));
  const step = Math.max(least, unit * [1, 2, 5, 10].find((times) => times * unit >= rough * 0.999));
  const ticks = [];
  for (let place = Math.floor(low / step); place <= Math.ceil(high / step); place += 1) ticks.push(Number((place * step).toPrecision(12)));
  return ticks;
}

function decades(values) {
  const first = Math.floor(Math.log10(Math.min(...values)));
  const last = Math.max(first + 1, Math.ceil(Math.log10(Math.max(...values))));
  return Array.from({ length: last - first + 1 }, (_, i) => 10 ** (first + i));
}

function scale(ticks, start, stop, log = false) {
  const at = (value) => (log ? Math.log10(value) : value);
  const low = at(ticks[0]);
  const high = at(ticks[ticks.length - 1]);
  return (value) => start + ((at(value) - low) / (high - low || 1)) * (stop - start);
}

function short(value) {
  const size = Math.abs(value);
  for (const [unit, name] of [[1e9, "G"], [1e6, "M"], [1e4, "k"]]) {
    if (size >= unit) return `${Number((value / (name === "k" ? 1e3 : unit)).toPrecision(6))}${name}`;
  }
  return size && size < 1e-4 ? value.toExponential().replace("e-", "e-") : String(Number(value.toPrecision(6)));
}

// A curve in words, for who doesn't see it.
function words(line) {
  const values = line.points.map((point) => point[1]);
  const [first, last] = [line.points[0], line.points[line.points.length - 1]];
  return say("curve", { name: line.name, first: number(first[1]), start: number(first[0]), last: number(last[1]),
    end: number(last[0]), low: number(Math.min(...values)), high: number(Math.max(...values)) });
}

// panel: {title, lines: [{name, points: [[step, value]], dots}], floors: [[what, value]], marks: [[step, value]], wide}
export function figure(panel) {
  const values = [...panel.lines.flatMap((line) => line.points), ...panel.marks].map((point) => point[1]);
  const steps = panel.lines.flatMap((line) => line.points).map((point) => point[0]);
  const lowest = Math.min(...values);
  const log = panel.wide && lowest > 0 && Math.max(...values) > WIDE * lowest;
  const all = [...values, ...panel.floors.map((floor) => floor[1])];
  const upTicks = log ? decades(all) : even(Math.min(...all), Math.max(...all));
  const [first, last] = [Math.min(...steps), Math.max(...steps)];
  const acrossTicks = first === last ? even(0, Math.max(1, 2 * last), 1) : even(first, last, 1);
  const up = scale(upTicks, HEIGHT - BOTTOM, TOP, log);
  const across = scale(acrossTicks, LEFT, WIDTH - RIGHT);
  const told = `${panel.title}: ${[...panel.lines.map(words), ...panel.floors.map(([what, value]) =>
    say("floorAt", { what, value: number(value) }))].join("; ")}.`;
  const svg = shape("svg", { viewBox: `0 0 ${WIDTH} ${HEIGHT}`, role: "img", "aria-label": told });
  svg.append(shape("title", {}, told));
  const low = HEIGHT - BOTTOM;
  for (const tick of upTicks) {
    svg.append(shape("line", { x1: LEFT, x2: WIDTH - RIGHT, y1: up(tick), y2: up(tick), class: "net" }));
    svg.append(shape("text", { x: LEFT - 6, y: up(tick) + 4, "text-anchor": "end" }, short(tick)));
  }
  for (const tick of acrossTicks) {
    svg.append(shape("text", { x: across(tick), y: low + 16, "text-anchor": "middle" }, short(tick)));
  }
  svg.append(shape("line", { x1: LEFT, x2: WIDTH - RIGHT, y1: low, y2: low, class: "axis" }));
  svg.append(shape("text", { x: (LEFT + WIDTH - RIGHT) / 2, y: HEIGHT - 6, "text-anchor": "middle" }, say("step")));
  for (const [, value] of panel.floors) {
    svg.append(shape("line", { x1: LEFT, x2: WIDTH - RIGHT, y1: up(value), y2: up(value), class: "floor" }));
  }
  panel.lines.forEach((line, i) => {
    svg.append(shape("polyline", { class: `curve k${i}`, points: line.points.map(([step, value]) =>
      `${across(step).toFixed(1)},${up(value).toFixed(1)}`).join(" ") }));
    if (line.dots || line.points.length === 1) {
      for (const [step, value] of line.points.slice(-60)) {
        svg.append(shape("circle", { cx: across(step), cy: up(value), r: 3, class: `dot k${i}` }));
      }
    }
  });
  for (const [step, value] of panel.marks) {
    svg.append(shape("circle", { cx: across(step), cy: up(value), r: 4, class: "dot k3" }));
  }
  return make("figure", {}, make("figcaption", {}, make("strong", {}, panel.title),
    panel.lines.length > 1 || panel.floors.length ? panel.lines.map((line, i) => make("span", { class: `key k${i}` }, line.name)) : [],
    panel.marks.length ? make("span", { class: "key k3" }, say("jumped")) : null,
    panel.floors.map(([what, value]) => make("span", { class: "key floor" }, say("floorAt", { what, value: number(value) })))), svg);
}

const MOST = 1200; // points of a curve that are held: of more, neighbours become one

export function thinned(points) {
  if (points.length <= MOST) return points;
  const out = [];
  for (let i = 0; i + 1 < points.length - 1; i += 2) {
    out.push([(points[i][0] + points[i + 1][0]) / 2, (points[i][1] + points[i + 1][1]) / 2]);
  }
  out.push(points[points.length - 1]);
  return out;
}

function add(series, name, event) {
  if (typeof event[name] === "number") series.push([event.step, event[name]]);
  return series.length > MOST ? thinned(series) : series;
}

// The curves of a run, as far as its lines are known.
export class Curves {
  constructor() {
    this.train = { loss: [], learning_rate: [], grad_norm: [], tokens_per_second: [] };
    this.evaluate = {};
    this.marks = [];
    this.count = 0;
  }

  take(events) {
    for (const event of events) {
      this.count += 1;
      if (event.event === "train") {
        for (const name of Object.keys(this.train)) this.train[name] = add(this.train[name], name, event);
      } else if (event.event === "evaluate") {
        for (const name of Object.keys(event)) {
          if (name !== "step" && name !== "event") this.evaluate[name] = add(this.evaluate[name] ?? [], name, event);
        }
      } else if (event.event === "spike" && typeof event.loss === "number") this.marks.push([event.step, event.loss]);
    }
  }

  // floors: {metric: {what: value}}
  panels(floors) {
    const of = (name) => Object.entries(floors[name] ?? {});
    const line = (name, points, dots = false) => (points.length ? [{ name, points, dots }] : []);
    const found = [{ title: say("loss"), floors: of("loss"), marks: this.marks.slice(-50),
      lines: [...line(say("training"), this.train.loss), ...line(say("validation"), this.evaluate.loss ?? [], true)] }];
    for (const [name, points] of Object.entries(this.evaluate)) {
      if (name !== "loss") found.push({ title: name, floors: of(name), marks: [], lines: line(say("validation"), points, true) });
    }
    for (const name of ["learning_rate", "grad_norm", "tokens_per_second"]) {
      found.push({ title: say(name), floors: [], marks: [], lines: line(say(name), this.train[name]), wide: name === "grad_norm" });
    }
    return found.filter((panel) => panel.lines.length);
  }
}
