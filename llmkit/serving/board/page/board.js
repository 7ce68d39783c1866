// The board: all runs under a folder, and one of them with its curves. What is asked of the server only reads, but for
// what a click starts.

import { Curves, figure } from "./draw.js";
import { bytes, clock, facts, figured, make, measure, number, table } from "./parts.js";
import { post, read } from "./asking.js";
import { drawnRows, sampleTable } from "./rows.js";
import { say, speak, spoken } from "./words.js";

const at = (id) => document.getElementById(id);
const LIST = 4000; // milliseconds between two looks at the list, and at a run
const RUN = 2000;
const STILL = 15000; // where nothing goes on
const DETAILS = 10000;
const SAY = 15000; // at most so often a moving number is read out

let view = null; // {name: null | run, …}: what is shown; another view takes its place
let timer = null;
let folder = "";

// ---- Small pieces

function status(name) {
  return make("span", { class: `status ${name}` }, say(`statuses.${name}`) || name);
}

function trouble(error) {
  const text = error === null ? "" : error.status === 0 ? say("away") : say("refused", { message: error.message });
  if (at("trouble").textContent !== text) at("trouble").replaceChildren(...(text ? [make("p", {}, text)] : []));
}

function floorWords(one) {
  return one.floor === null ? "" : `${say("floor")} ${measure(one.floor.value)}: ${one.floor.name}`;
}

function metricWords(one) {
  return one.value === null ? "" : `${one.metric} ${measure(one.value)}`;
}

function link(name) {
  return `#run=${encodeURIComponent(name)}`;
}

// ---- The list

function runRow(one) {
  const under = (text) => (text ? make("span", { class: "under" }, text) : null);
  const cell = (head, ...inside) => make("td", { "data-head": say(head) }, ...inside);
  const going = one.status === "running";
  return make("tr", {},
    make("td", {}, make("a", { href: link(one.id) }, one.name), under(one.id === "." ? one.folder : one.id),
      under(say("with", { learning: one.learning || "?", tuning: one.tuning || "full", model: one.model }))),
    cell("status", status(one.status), one.notes.length ? under(one.notes[0]) : null),
    cell("step", make("span", {}, number(one.steps)), one.share === null || !going ? null : make("progress", {
      class: "under", max: 1, value: one.share, "aria-label": `${Math.floor(100 * one.share)} %` })),
    cell("loss", make("span", {}, measure(one.loss))),
    cell("metric", make("span", {}, metricWords(one)), under(floorWords(one))),
    cell("time", make("span", {}, going ? (one.left === null ? "" : say("about", { time: clock(one.left) }))
      : (one.seconds === null ? "" : say("took", { time: clock(one.seconds) })))),
    cell("size", make("span", {}, bytes(one.bytes))),
    cell("when", make("span", {}, one.when)));
}

function showList(list) {
  folder = list.folder;
  at("where").textContent = folder;
  document.title = `${folder} · llmkit ${say("board")}`;
  const asked = view.find.value.trim().toLowerCase();
  const order = (one) => (one.status === "running" ? 0 : 1);
  const some = list.runs.filter((one) => `${one.name} ${one.id}`.toLowerCase().includes(asked)).sort((a, b) => order(a) - order(b));
  const heads = ["run", "status", "step", "loss", "metric", "time", "size", "when"].map((name) => make("th", { scope: "col" }, say(name)));
  const focused = document.activeElement?.getAttribute?.("href");
  view.place.replaceChildren(
    ...list.notes.map((note) => make("p", { class: "warn small" }, note)),
    some.length ? make("table", { class: "list" }, make("thead", {}, make("tr", {}, heads)), make("tbody", {}, some.map(runRow)))
      : make("p", { class: "quiet" }, say(list.runs.length ? "noneFits" : "none")));
  if (focused && view.place) [...view.place.querySelectorAll("a")].find((one) => one.getAttribute("href") === focused)?.focus();
  return list.runs.some((one) => one.status === "running") ? LIST : STILL;
}

async function listOnce(mine) {
  const list = await read(`api/runs?lang=${spoken()}`);
  if (view !== mine) return STILL;
  if (list.runs.length === 1 && list.runs[0].id === ".") {
    location.replace(link("."));
    return STILL;
  }
  mine.list = list;
  const again = showList(list);
  return list.runs.length ? again : LIST;
}

function openList() {
  const find = make("input", { type: "search", id: "find", placeholder: say("find"), "aria-label": say("find") });
  const place = make("div", {}, make("p", { class: "quiet" }, say("loading")));
  view = { name: null, find, place, once: listOnce };
  find.addEventListener("input", () => view.list && showList(view.list));
  at("main").replaceChildren(make("div", { class: "find" }, make("h2", {}, say("runs")), find), place);
}

// ---- A run

const PARTS = ["head", "curves", "learned", "events", "samples", "rows", "cost", "recipe"];

function openRun(name) {
  const places = Object.fromEntries(PARTS.map((part) => [part, make("section", {})]));
  view = { name, places, once: runOnce, curves: new Curves(), until: 0, file: "", told: null, asked: -Infinity, spoke: -Infinity, chat: null };
  at("main").replaceChildren(make("p", { class: "acts" }, make("a", { href: "#" }, `← ${say("back")}`)),
    make("p", { class: "quiet", id: "reading" }, say("loading")), ...Object.values(places));
}

async function runOnce(mine) {
  const now = performance.now();
  const query = `run=${encodeURIComponent(mine.name)}`;
  const lines = await read(`api/lines?${query}&since=${mine.until}&file=${encodeURIComponent(mine.file)}`);
  if (view !== mine) return STILL;
  if (lines.fresh) {
    mine.curves = new Curves();
    mine.thinned = lines.thinned;
  }
  mine.broken = (lines.fresh ? 0 : mine.broken) + lines.broken;
  mine.curves.take(lines.events);
  mine.until = lines.until;
  mine.file = lines.file;
  const news = lines.fresh || lines.events.length > 0;
  if (mine.told === null || now - mine.asked > DETAILS || lines.events.some((event) => event.event === "evaluate")) {
    const [told, chat] = await Promise.all([read(`api/run?${query}&lang=${spoken()}`), read("api/chat")]);
    if (view !== mine) return STILL;
    const other = JSON.stringify({ ...told, left: 0 }) !== JSON.stringify({ ...mine.told, left: 0 }) || mine.chat !== chat.chat;
    mine.told = told;
    mine.chat = chat.chat;
    mine.asked = now;
    if (other) showDetails(mine);
    if (other || news) showCurves(mine);
  } else if (news) showCurves(mine);
  if (news) {
    const line = [...lines.events].reverse().find((event) => event.event === "train");
    if (line) {
      mine.told = { ...mine.told, steps: Math.max(mine.told.steps, line.step), loss: line.loss ?? null, speed: line.tokens_per_second ?? null };
      tell(mine);
    }
  }
  showHead(mine);
  at("reading")?.remove();
  return mine.told.status === "running" ? RUN : STILL;
}

function tell(mine) {
  const now = performance.now();
  if (mine.told.status !== "running" || now - mine.spoke < SAY) return;
  mine.spoke = now;
  at("said").textContent = say("moving", { step: number(mine.told.steps), loss: measure(mine.told.loss) })
    + (mine.told.left === null ? "" : say("movingLeft", { time: clock(mine.told.left) }));
}

function tile(name, value, more = "") {
  return value === "" ? null : make("div", { class: "tile" }, make("dt", {}, name), make("dd", {}, value, more ? make("small", {}, more) : null));
}

function showHead(mine) {
  const one = mine.told;
  const going = one.status === "running";
  at("where").textContent = one.folder;
  document.title = `${one.name} · llmkit ${say("board")}`;
  const why = ["completed", "stopped", "failed"].includes(one.status) && one.why ? one.why : say(`meant.${one.status}`);
  const fresh = make("div", {},
    make("h2", {}, one.name),
    make("p", { class: "quiet" }, say("with", { learning: one.learning || "?", tuning: one.tuning || "full", model: one.model })),
    make("p", {}, status(one.status), make("span", { class: "quiet small" }, ` — ${why}. ${one.when ? say("utc", { when: one.when }) : ""}`)),
    going && one.share !== null ? make("progress", { class: "whole", max: 1, value: one.share, "aria-label": `${Math.floor(100 * one.share)} %` }) : null,
    make("dl", { class: "tiles" },
      tile(say("step"), number(one.steps), one.share !== null && going ? `${Math.floor(100 * one.share)} %` : ""),
      tile(say("loss"), measure(one.loss), say("training")),
      tile(`${one.metric}, ${say("validation")}`, measure(one.value), floorWords(one)),
      tile(say("left"), going && one.left !== null ? clock(one.left) : ""),
      tile(say("tokens_per_second"), one.speed === null ? "" : number(Math.round(one.speed))),
      tile(say("costs.wall_seconds"), !going && one.seconds !== null ? clock(one.seconds) : ""),
      tile(say("size"), bytes(one.bytes))),
    ...[...one.notes, ...one.verdicts.map((text) => `${text}.`)].map((text) => make("p", { class: "warn" }, text)));
  if (mine.head?.isEqualNode(fresh)) return; // nothing that is read out or pointed at is replaced in vain
  mine.head = fresh;
  if (mine.acts === undefined) mine.acts = actions(mine);
  mine.places.head.replaceChildren(fresh, mine.acts);
}

// ---- What a click starts

function actions(mine) {
  const one = mine.told;
  const place = make("div", { class: "asked", "aria-live": "polite" });
  const row = make("div", { class: "acts" },
    make("a", { class: "open", href: `report?run=${encodeURIComponent(mine.name)}&lang=${spoken()}`, target: "_blank", rel: "noopener" }, say("report"),
      make("span", { class: "hidden" }, ` ${say("newTab")}`)));
  if (one.can.chat) {
    const open = make("button", { type: "button", class: "do first", act: () => talk(mine, open, place) }, say("chat"));
    row.append(open);
    if (mine.chat === mine.name) opened(mine, place);
  } else if (one.can.predict !== null) {
    const show = make("button", { type: "button", class: "do first", "aria-expanded": "false", act: () => {
      show.setAttribute("aria-expanded", String(place.childElementCount === 0));
      place.replaceChildren(...(place.childElementCount ? [] : [form(mine)]));
      place.querySelector("textarea")?.focus();
    } }, say("predict"));
    row.append(show);
  } else row.append(make("p", { class: "quiet small" }, say(`whyNot.${one.can.why}`)));
  return make("div", {}, row, place);
}

function failed(place, error) {
  place.append(make("p", { class: "trouble" }, error.status === 0 ? say("away") : say("refused", { message: error.message })));
}

async function talk(mine, button, place) {
  button.disabled = true;
  place.replaceChildren(make("p", { class: "note" }, say("opening")));
  try {
    await post("api/open", { run: mine.name });
    mine.chat = mine.name;
    place.replaceChildren();
    opened(mine, place);
  } catch (error) {
    place.replaceChildren();
    failed(place, error);
  }
  button.disabled = false;
}

function opened(mine, place) {
  place.replaceChildren(make("div", { class: "acts" }, make("span", {}, say("opened")),
    make("a", { class: "open", href: "chat/", target: "_blank", rel: "noopener" }, say("goChat"), make("span", { class: "hidden" }, ` ${say("newTab")}`)),
    make("button", { type: "button", class: "do", act: async () => {
      try {
        await post("api/close", {});
        mine.chat = null;
        place.replaceChildren(make("p", { class: "note" }, say("closed")));
      } catch (error) {
        failed(place, error);
      }
    } }, say("closeChat"))));
}

function form(mine) {
  const fields = mine.told.can.predict.map((field, i) => {
    const name = field.lines ? say("linesOf", { name: field.name }) : field.needed ? field.name : say("optional", { name: field.name });
    return { ...field, key: field.name, area: make("textarea", { id: `field-${i}`, rows: field.lines ? 4 : 2, required: field.needed }), name, id: `field-${i}` };
  });
  const button = make("button", { class: "do first" }, say("ask"));
  const place = make("div", {});
  return make("form", { class: "ask", act: async (event) => {
    event.preventDefault();
    button.disabled = true;
    place.replaceChildren(make("p", { class: "note" }, say("asking")));
    try {
      const given = Object.fromEntries(fields.map((field) => [field.key, field.lines
        ? field.area.value.split("\n").map((line) => line.trim()).filter((line) => line) : field.area.value]));
      const { said } = await post("api/predict", { run: mine.name, fields: given });
      place.replaceChildren(make("h4", {}, say("saidIs")), facts(Object.entries(said).map(([name, value]) =>
        [name, typeof value === "number" ? number(value) : typeof value === "string" ? value : JSON.stringify(value)])));
    } catch (error) {
      place.replaceChildren();
      failed(place, error);
    }
    button.disabled = false;
  } }, fields.map((field) => make("div", {}, make("label", { for: field.id }, field.name), field.area)), make("div", {}, button), place);
}

// ---- The parts below

function showCurves(mine) {
  const panels = mine.curves.panels(mine.told.floor_lines);
  mine.places.curves.replaceChildren(make("h3", {}, say("curves")),
    panels.length ? make("div", { class: "curves" }, panels.map(figure)) : make("p", { class: "quiet" }, say("noCurves")),
    mine.thinned > 1 ? make("p", { class: "note" }, say("thinned", { n: number(mine.thinned) })) : "",
    mine.broken ? make("p", { class: "warn small" }, say("broken", { n: number(mine.broken) })) : "");
}

function happened(one) {
  const more = one.what === "spike" ? say("spikeMore", { loss: measure(one.loss), deviations: Math.round(one.deviations) }) : one.at ?? one.why ?? "";
  return [one.step, say(`happened.${one.what}`) || one.what, more];
}

function showDetails(mine) {
  const one = mine.told;
  mine.acts = mine.acts && mine.can === JSON.stringify(one.can) ? mine.acts : actions(mine);
  mine.can = JSON.stringify(one.can);
  mine.head = null;
  mine.places.learned.replaceChildren(make("h3", {}, say("learned")), one.figures.length
    ? table([say("figure"), say("before"), say("after"), ...one.floors.map((what) => `${say("floor")}: ${what}`)],
      one.figures.map((line) => [line.name, ...[line.before, line.after, ...line.floors].map(figured)]))
    : make("p", { class: "quiet" }, say("noFigures")));
  mine.places.events.replaceChildren(make("h3", {}, say("events")),
    one.happened.length ? table([say("step"), say("what"), say("more")], one.happened.map(happened)) : make("p", { class: "quiet" }, say("noEvents")),
    one.bad.count ? make("details", {}, make("summary", {}, say("bad", { n: number(one.bad.count) })), make("ul", { class: "plain small" }, one.bad.first.map((line) => make("li", {}, line)))) : "");
  const shown = (event) => [make("h4", {}, event.step ? say("afterStep", { step: number(event.step) }) : say("beforeFirst")), ...(event.about ? [make("p", { class: "note" }, event.about)] : []), sampleTable(event)];
  const [last, ...before] = [...one.samples].reverse();
  mine.places.samples.replaceChildren(make("h3", {}, say("samples")), ...(last ? shown(last) : [make("p", { class: "quiet" }, say("noSamples"))]),
    before.length ? make("details", {}, make("summary", {}, say("earlier", { n: before.length })), before.flatMap(shown)) : "");
  if (!mine.places.rows.childElementCount && one.can.rows) {
    mine.places.rows.replaceChildren(make("h3", {}, say("rows")), drawnRows(mine.name, failed));
  }
  showCost(mine, one);
  showRecipe(mine, one);
}

function showCost(mine, one) {
  const word = { wall_seconds: clock, data_wait: (share) => `${(100 * share).toFixed(1)} %`, peak_memory_bytes: bytes, peak_gpu_memory_bytes: bytes,
    tokens_per_second: (speed) => number(Math.round(speed)) };
  const pairs = Object.entries(one.cost).filter(([name]) => one.status !== "running" || !["wall_seconds", "tokens", "tokens_per_second", "data_wait", "skipped_steps"].includes(name))
    .map(([name, value]) => [say(`costs.${name}`) || name, (word[name] ?? number)(value)]);
  const versions = Object.entries(one.versions).filter(([, value]) => value).map(([name, value]) => `${name} ${value}`).join(", ");
  mine.places.cost.replaceChildren(make("h3", {}, say("cost")), pairs.length ? make("div", { class: "wide" }, facts([...pairs, [say("onDisk"), bytes(one.bytes)],
    ...(versions ? [[say("versions"), versions]] : [])])) : make("p", { class: "quiet" }, say("noCost")));
}

function showRecipe(mine, one) {
  const changed = one.recipe.filter((line) => line[3] || !one.checked);
  const rest = one.recipe.filter((line) => !line[3] && one.checked);
  const open = mine.places.recipe.querySelector("details")?.open;
  mine.places.recipe.replaceChildren(make("h3", {}, say("recipe")), one.recipe.length ? make("p", { class: "note" }, one.checked ? say("changed") : "") : make("p", { class: "quiet" }, say("noRecipe")),
    changed.length ? table([...(one.checked ? [""] : []), say("field"), say("value"), ...(one.checked ? [say("usual")] : [])],
      changed.map(([name, value, usual]) => (one.checked ? ["★", name, value, usual] : [name, value])), say("recipe")) : "",
    rest.length ? make("details", { open }, make("summary", {}, say("others", { n: rest.length })), table([say("field"), say("value")], rest.map(([name, value]) => [name, value]))) : "");
}

// ---- Going on

async function tick() {
  clearTimeout(timer);
  const mine = view;
  let again = STILL;
  if (!document.hidden) {
    try {
      again = await mine.once(mine);
      trouble(null);
    } catch (error) {
      if (view !== mine) return;
      trouble(error.status === undefined ? { status: 500, message: String(error) } : error);
      again = LIST;
    }
  }
  if (view === mine) {
    clearTimeout(timer);
    timer = setTimeout(tick, again);
  }
}

function go() {
  const found = /^#run=(.+)$/.exec(location.hash);
  let name = null;
  try {
    name = found ? decodeURIComponent(found[1]) : null;
  } catch {
    name = null;
  }
  if (name === null) openList();
  else openRun(name);
  trouble(null);
  at("main").focus({ preventScroll: true });
  scrollTo(0, 0);
  tick();
}

function changeLanguage(name) {
  speak(name);
  const button = at("language");
  button.textContent = say("other");
  button.lang = name === "zh" ? "en" : "zh-Hans";
  button.setAttribute("aria-label", say("otherLabel"));
}

function kept() {
  try {
    return localStorage.getItem("llmkit.board.language");
  } catch {
    return null;
  }
}

at("language").addEventListener("click", () => {
  const name = spoken() === "zh" ? "en" : "zh";
  changeLanguage(name);
  try {
    localStorage.setItem("llmkit.board.language", name);
  } catch {
    // then it is chosen again after a reload
  }
  go();
});
addEventListener("hashchange", go);
document.addEventListener("visibilitychange", () => {
  if (!document.hidden) tick();
});
changeLanguage(kept() ?? (navigator.language.toLowerCase().startsWith("zh") ? "zh" : "en"));
go();
