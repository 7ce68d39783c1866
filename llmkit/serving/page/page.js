// The page: a conversation with the server's models.

import { ServerError, answer, models } from "./server.js";
import * as settings from "./settings.js";
import * as store from "./store.js";
import { render } from "./text.js";
import { WORDS, fill, say, speak, spoken } from "./words.js";

const at = (id) => document.getElementById(id);
const options = at("options");
const question = at("question");
const scroller = at("scroller");
const wide = matchMedia("(min-width: 56.01rem)");

// A turn: {question, answer, model, end: null | "stop" | "length" | "stopped" | "failed", tokens, seconds, trouble}.
let turns = [];
let offered = []; // the models that write text
let running = null; // the AbortController of the answer that is being written
let following = true; // whether the end of the talk is in view
let cleared = null; // the turns before "New chat", for "Undo"

// ---- Small pieces

function icon(name, label, act) {
  const button = document.createElement("button");
  button.type = "button";
  button.className = "icon";
  button.title = label;
  button.setAttribute("aria-label", label);
  button.append(drawing(name));
  button.addEventListener("click", act);
  return button;
}

function drawing(name) {
  const space = "http://www.w3.org/2000/svg";
  const svg = document.createElementNS(space, "svg");
  svg.setAttribute("aria-hidden", "true");
  const use = document.createElementNS(space, "use");
  use.setAttribute("href", `#i-${name}`);
  svg.append(use);
  return svg;
}

function make(tag, name, text = "") {
  const node = document.createElement(tag);
  node.className = name;
  node.textContent = text;
  return node;
}

function button(name, text, act) {
  const node = make("button", name, text);
  node.type = "button";
  node.addEventListener("click", act);
  return node;
}

function copier(text) {
  const node = icon("copy", say("copy"), async () => {
    await copy(text());
    node.replaceChildren(drawing("done"));
    at("status").textContent = say("copied");
    setTimeout(() => node.replaceChildren(drawing("copy")), 1500);
  });
  return node;
}

async function copy(text) {
  if (navigator.clipboard) return navigator.clipboard.writeText(text);
  // Over plain http from another machine there is no clipboard object; the old command works there.
  const field = make("textarea", "hidden");
  field.value = text;
  document.body.append(field);
  field.select();
  document.execCommand("copy");
  field.remove();
  return undefined;
}

// ---- The conversation

function keep() {
  if (!store.set("talk", turns)) notice(say("error.unkept"));
}

function notice(text, undo = false) {
  at("notice").hidden = !text;
  at("notice").firstElementChild.textContent = text;
  at("undo").hidden = !undo;
}

function show() {
  at("talk").replaceChildren(...turns.map(turnNode));
  at("welcome").hidden = turns.length > 0 || offered.length === 0;
  at("new").disabled = turns.length === 0;
  looked();
}

function turnNode(turn) {
  const node = make("article", "turn");
  const asked = make("p", "question", turn.question);
  const answered = make("div", "answer");
  answered.append(make("div", "text"));
  node.append(asked, answered);
  refresh(node, turn);
  return node;
}

// The answer's part of a turn anew.
function refresh(node, turn) {
  const [answered] = node.getElementsByClassName("answer");
  const [text] = answered.children;
  answered.classList.toggle("writing", turn.end === null);
  text.replaceChildren(...render(turn.answer, (head, content) => head.append(copier(() => content))));
  answered.replaceChildren(text);
  if (turn.end === null) return;
  const last = turn === turns.at(-1);
  if (turn.end === "length") answered.append(make("p", "note", say("cut")));
  if (turn.end === "stopped") answered.append(make("p", "note", say("stopped")));
  if (turn.end === "stop" && !turn.answer) answered.append(make("p", "note", say("empty")));
  if (turn.end === "failed") answered.append(trouble(turn.trouble, last ? again : null));
  const foot = make("div", "foot");
  if (turn.answer) foot.append(copier(() => turn.answer));
  if (last) {
    if (turn.end !== "failed") foot.append(icon("again", say("again"), again));
    foot.append(icon("edit", say("edit"), edit));
  }
  const facts = [];
  if (offered.length > 1 && turn.end !== "failed") facts.push(turn.model);
  if (turn.tokens) facts.push(turn.tokens === 1 ? say("token") : say("tokens", { n: turn.tokens }));
  if (turn.tokens > 1 && turn.seconds) facts.push(say("rate", { n: rounded(turn.tokens / turn.seconds) }));
  foot.append(make("p", "", facts.join(" · ")));
  answered.append(foot);
}

function rounded(number) {
  return number < 10 ? number.toFixed(1) : String(Math.round(number));
}

// An error as a sentence, with a way on: a key to give, or another try.
function trouble(error, retry) {
  const node = make("div", "trouble");
  node.append(make("p", "", sentence(error)));
  if (retry && error.status === 401) node.append(keyForm(retry));
  else if (retry) node.append(button("quiet", say("retry"), retry));
  return node;
}

function sentence({ status, message }) {
  if (status === 401) return say(store.getKey() ? "error.wrongKey" : "error.needKey");
  if (status === 429) return say("error.busy");
  if (status === 0) return say(message === "broken" ? "error.broken" : "error.away");
  return say(status < 500 ? "error.refused" : "error.failed", { message });
}

function keyForm(then) {
  const form = document.createElement("form");
  const field = document.createElement("input");
  field.type = "password";
  field.autocomplete = "off";
  field.setAttribute("aria-label", say("key"));
  field.placeholder = say("key");
  const use = make("button", "quiet", say("useKey"));
  form.append(field, use);
  form.addEventListener("submit", async (event) => {
    event.preventDefault();
    useKey(field.value.trim());
    await start();
    if (offered.length && then !== start) then();
  });
  return form;
}

function useKey(key) {
  store.setKey(key);
  at("key").value = key;
}

// What the model is shown: questions that were never answered aren't part of it.
function messages() {
  const talk = [];
  const system = settings.system(options);
  if (system) talk.push({ role: "system", content: system });
  turns.forEach((turn, i) => {
    const last = i === turns.length - 1;
    if (!last && !turn.answer) return;
    talk.push({ role: "user", content: turn.question });
    if (!last) talk.push({ role: "assistant", content: turn.answer });
  });
  return talk;
}

function send(text) {
  if (running || !text.trim() || !offered.length || !checked()) return false;
  cleared = null;
  notice("");
  turns.push({ question: text.trim(), answer: "" });
  write();
  return true;
}

function again() {
  if (!running && checked()) write();
}

function edit() {
  if (running) return;
  question.value = turns.pop().question;
  keep();
  show();
  grow();
  question.focus();
}

// Let the model write the last turn's answer.
async function write() {
  const turn = turns.at(-1);
  Object.assign(turn, { answer: "", model: at("model").value, end: null, tokens: null, seconds: null, trouble: null });
  running = new AbortController();
  show();
  busy(true);
  down();
  const redraw = () => {
    if (turns.at(-1) !== turn) return;
    refresh(at("talk").lastElementChild, turn);
    if (following) down();
  };
  let began = null;
  let drawn = false; // whether a drawing is due with the next frame
  const heard = (piece) => {
    began ??= performance.now();
    turn.answer += piece;
    if (drawn) return;
    drawn = true;
    requestAnimationFrame(() => {
      drawn = false;
      if (turn.end === null) redraw();
    });
  };
  const request = { model: turn.model, messages: messages(), ...settings.request(options) };
  try {
    const { finish, tokens } = await answer(request, store.getKey(), running.signal, heard);
    turn.end = finish === "length" ? "length" : "stop";
    turn.tokens = tokens;
    turn.seconds = began === null ? null : (performance.now() - began) / 1000;
  } catch (error) {
    if (error.name === "AbortError") turn.end = "stopped";
    else if (error instanceof ServerError) {
      turn.end = "failed";
      turn.trouble = { status: error.status, message: error.message };
    } else throw error;
  } finally {
    running = null;
    keep();
    redraw();
    busy(false);
    at("status").textContent = say(turn.end === "stopped" ? "stopped" : "written");
  }
}

function stop() {
  running?.abort();
}

function busy(yes) {
  at("talk").setAttribute("aria-busy", String(yes)); // read aloud once it is whole, not word by word
  at("send").hidden = yes;
  at("stop").hidden = !yes;
  at("new").disabled = turns.length === 0;
  if (yes) at("status").textContent = say("writing");
}

// ---- Scrolling: the page follows the text while its end is in view

function below() {
  return scroller.scrollHeight - scroller.scrollTop - scroller.clientHeight;
}

function looked() {
  following = below() < 60;
  at("down").hidden = following;
}

function down() {
  scroller.scrollTop = scroller.scrollHeight;
  looked();
}

// ---- Settings

function openSettings(field = null) {
  const panel = at("settings");
  if (!panel.open) {
    if (wide.matches) panel.show();
    else panel.showModal();
  }
  at("open-settings").setAttribute("aria-expanded", "true");
  (field ?? at("close-settings")).focus();
}

// What is wrong with the settings, or null. What is only missing yet is wrong once it is needed.
function wrong() {
  try {
    settings.request(options);
    return null;
  } catch (error) {
    if (!(error instanceof settings.Wrong)) throw error;
    return error;
  }
}

function checked() {
  const error = wrong();
  if (error) {
    openSettings(options.elements[error.field]);
    mark(error);
  }
  return !error;
}

// Say beside a field what is wrong with it, in the place of its hint.
function mark(error) {
  for (const field of options.elements) field.removeAttribute("aria-invalid");
  fill(options);
  if (!error) return;
  options.elements[error.field].setAttribute("aria-invalid", "true");
  at(`${error.field}-hint`).textContent = say(error.say, error.blanks);
}

// Show the fields that the prompt mode has, and above the question what is at work.
function arrange() {
  const mode = options.elements.mode.value;
  at("with-instruction").hidden = mode !== "prefix" && mode !== "hybrid";
  at("with-examples").hidden = mode !== "example" && mode !== "hybrid";
  const n = counted();
  at("count").textContent = n === 1 ? say("pair") : say("pairs", { n });
  const chips = [];
  if (settings.system(options)) chips.push(button("", say("active.system"), () => openSettings(at("system"))));
  if (mode !== "none") {
    const field = at(mode === "example" ? "examples" : "instruction");
    chips.push(button("", say(`active.${mode}`, { n }), () => openSettings(field)));
  }
  at("active").replaceChildren(...chips);
  at("active").hidden = chips.length === 0;
}

function counted() {
  try {
    return settings.pairs(at("examples").value).length;
  } catch {
    return 0;
  }
}

// ---- Language, theme, models

function turnTo(language) {
  speak(language);
  fill(document);
  const other = at("language");
  other.textContent = say("otherLanguage");
  other.lang = language === "zh" ? "en" : "zh-Hans";
  greet();
  arrange();
  show();
}

function greet() {
  const model = at("model").value;
  question.placeholder = model ? say("ask", { model }) : say("askAny");
  const english = language === "zh" && offered.find(({ id }) => id === model)?.chinese === false;
  at("welcome-more").textContent = say("welcomeMore", { model }) + (english ? say("noChinese", { model }) : "");
  at("suggestions").replaceChildren(...(english ? WORDS.en.suggestions : say("suggestions")).map((text) => {
    const item = document.createElement("li");
    item.append(button("", text, () => send(text)));
    return item;
  }));
}

function dress(theme) {
  if (theme === "auto") delete document.documentElement.dataset.theme;
  else document.documentElement.dataset.theme = theme;
}

async function start() {
  at("trouble").replaceChildren();
  at("loading").hidden = false;
  try {
    offered = (await models(store.getKey())).filter(writes);
    if (!offered.length) at("trouble").replaceChildren(make("p", "note", say("noModel")));
  } catch (error) {
    if (!(error instanceof ServerError)) throw error;
    offered = [];
    at("trouble").replaceChildren(trouble(error, start));
  }
  at("loading").hidden = true;
  const kept = store.get("model");
  at("model").replaceChildren(...offered.map(({ id }) => new Option(id, id, false, id === kept)));
  at("model").disabled = offered.length === 0;
  at("send").disabled = offered.length === 0;
  greet();
  show();
  down();
}

function writes(model) {
  return model.kind !== "embedding";
}

function grow() {
  question.style.height = "auto";
  question.style.height = `${question.scrollHeight}px`;
}

// ---- What a person does

at("ask").addEventListener("submit", (event) => {
  event.preventDefault();
  if (!send(question.value)) return;
  question.value = "";
  grow();
});
question.addEventListener("input", grow);
question.addEventListener("keydown", (event) => {
  // While a Chinese word is being composed, Enter belongs to it; Safari says so by 229 alone.
  if (event.key !== "Enter" || event.shiftKey || event.isComposing || event.keyCode === 229) return;
  event.preventDefault();
  at("ask").requestSubmit();
});
document.addEventListener("keydown", (event) => {
  if (event.key === "Escape" && !event.isComposing && running && !at("settings").matches(":modal")) stop();
});
at("stop").addEventListener("click", () => {
  stop();
  question.focus();
});
at("new").addEventListener("click", () => {
  stop();
  cleared = turns;
  turns = [];
  keep();
  show();
  notice(say("cleared"), true);
  question.focus();
});
at("undo").addEventListener("click", () => {
  turns = cleared;
  cleared = null;
  keep();
  notice("");
  show();
  down();
});
at("down").addEventListener("click", down);
scroller.addEventListener("scroll", looked);
new ResizeObserver(() => {
  if (following) down();
}).observe(scroller);
at("open-settings").addEventListener("click", () => {
  if (at("settings").open) at("settings").close();
  else openSettings();
});
at("close-settings").addEventListener("click", () => at("settings").close());
at("settings").addEventListener("close", () => {
  at("open-settings").setAttribute("aria-expanded", "false");
  at("open-settings").focus();
});
options.addEventListener("input", () => {
  settings.save(options);
  mark(null);
  arrange();
});
options.addEventListener("change", () => {
  const error = wrong();
  mark(error?.missing ? null : error);
});
options.addEventListener("submit", (event) => event.preventDefault());
at("defaults").addEventListener("click", () => {
  options.reset();
  useKey(store.getKey());
  options.elements.mode.value = "none";
  at("theme").value = store.get("theme") ?? "auto";
  settings.save(options);
  mark(null);
  arrange();
});
at("key").addEventListener("change", () => {
  useKey(at("key").value.trim());
  start();
});
at("theme").addEventListener("change", () => {
  store.set("theme", at("theme").value);
  dress(at("theme").value);
});
at("model").addEventListener("change", () => {
  store.set("model", at("model").value);
  greet();
});
at("language").addEventListener("click", () => {
  const other = spoken() === "zh" ? "en" : "zh";
  store.set("language", other);
  turnTo(other);
});
// Before the browser breaks the connection, which would be told as an error; phones know pagehide alone.
for (const leaving of ["beforeunload", "pagehide"]) {
  addEventListener(leaving, () => {
    if (!running) return;
    stop();
    keep();
  });
}

at("theme").value = store.get("theme") ?? "auto";
dress(at("theme").value);
settings.load(options);
useKey(store.getKey());
turns = store.get("talk") ?? [];
for (const turn of turns) turn.end ??= "stopped"; // a reload in mid-answer ended it
turnTo(store.get("language") ?? (navigator.language.toLowerCase().startsWith("zh") ? "zh" : "en"));
start();
