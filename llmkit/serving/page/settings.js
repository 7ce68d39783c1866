// The settings: how the form's fields become a request, and what is wrong with them.

import * as store from "./store.js";

// A field, or a line of the examples, that can't be sent; `say` is the key of its sentence.
export class Wrong extends Error {
  constructor(field, say, blanks = null) {
    super(say);
    this.field = field;
    this.missing = blanks === null && (field === "instruction" || field === "examples");
    this.say = `wrong.${say}`;
    this.blanks = blanks ?? {};
  }
}

const NUMBERS = {
  temperature: (n) => n >= 0 && n <= 2,
  top_p: (n) => n > 0 && n <= 1,
  max_tokens: (n) => Number.isInteger(n) && n >= 1,
  seed: (n) => Number.isSafeInteger(n) && n >= 0,
};
const FIELDS = [...Object.keys(NUMBERS), "system", "mode", "instruction", "examples"];

export function load(form) {
  const kept = store.get("settings") ?? {};
  for (const name of FIELDS) if (typeof kept[name] === "string") form.elements[name].value = kept[name];
  if (!form.elements.mode.value) form.elements.mode.value = "none";
}

export function save(form) {
  store.set("settings", Object.fromEntries(FIELDS.map((name) => [name, form.elements[name].value])));
}

// "cold => hot" -> [{text: "cold", answer: "hot"}], a pair a line.
export function pairs(text) {
  const found = [];
  text.split("\n").forEach((line, at) => {
    if (!line.trim()) return;
    const cut = /\t+|\s*(?:=>|->|→)\s*/.exec(line);
    const text = cut ? line.slice(0, cut.index).trim() : "";
    const answer = cut ? line.slice(cut.index + cut[0].length).trim() : "";
    if (!text || !answer) throw new Wrong("examples", "line", { n: at + 1 });
    found.push({ text, answer });
  });
  return found;
}

function number(form, name) {
  const field = form.elements[name];
  const text = field.value.trim();
  if (!text && !field.validity.badInput) return null;
  const value = Number(text.replace(",", "."));
  if (!text || !NUMBERS[name](value)) throw new Wrong(name, name);
  return value;
}

export function prompting(form) {
  const name = form.elements.mode.value;
  if (name === "none") return null;
  const mode = { name };
  if (name !== "example") {
    mode.instruction = form.elements.instruction.value.trim();
    if (!mode.instruction) throw new Wrong("instruction", "instruction");
  }
  if (name !== "prefix") {
    mode.examples = pairs(form.elements.examples.value);
    if (!mode.examples.length) throw new Wrong("examples", "examples");
    mode.k = mode.examples.length; // all of them, as they stand
    mode.selection = "first";
  }
  return mode;
}

// The request's fields but for its model and messages; throws Wrong.
export function request(form) {
  const fields = {};
  for (const name of Object.keys(NUMBERS)) {
    const value = number(form, name);
    if (value !== null) fields[name] = value;
  }
  const mode = prompting(form);
  if (mode) fields.prompting = mode;
  return fields;
}

export function system(form) {
  return form.elements.system.value.trim();
}
