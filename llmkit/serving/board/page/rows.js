// Rows of the data as the model sees them, and what it said of some.

import { post } from "./asking.js";
import { make, number, table } from "./parts.js";
import { say } from "./words.js";

const KINDS = ["kept", "masked", "replaced", "target", "padding", "document"];

// A cell of a sample: a figure, a text, a list, or pieces [text, mark, note], whose note stands beside the mark.
function told(value) {
  if (!Array.isArray(value)) return value;
  if (value.length && Array.isArray(value[0])) {
    return make("span", {}, value.map(([text, mark, note]) => (mark
      ? [make("mark", { class: /^\w+$/.test(mark) ? mark : null }, text), note ? ` [${note}]` : null] : text)));
  }
  return make("ul", { class: "plain" }, value.map((one) => make("li", {}, one)));
}

export function sampleTable(event) {
  return table(event.names, event.rows.map((row) => row.map(told)));
}

function token(one) {
  const known = KINDS.includes(one.kind) ? one.kind : "kept";
  const title = one.kind === "kept" ? null : `${one.text}: ${say(`kinds.${known}`)}${one.label ? ` ${one.label}` : ""}`;
  return [" ", make("span", { class: `t ${known}`, title }, one.text, one.label ? make("small", {}, one.label) : null)];
}

function drawn(one) {
  const sides = one.seen.map((side) => [one.seen.length > 1 ? make("p", { class: "note" }, say(`sides.${side.side}`) || side.side) : null,
    make("p", { class: "tokens" }, side.tokens.flatMap(token))]);
  const shown = one.seen.length ? [] : Object.entries(one.shown).map(([name, words]) => make("p", {}, make("strong", {}, `${name}: `), words));
  return make("div", {}, make("h4", {}, say("rowN", { n: number(one.row) })), ...sides.flat().filter((node) => node), ...shown);
}

// A button that draws rows, three at a time. failed(place, error) shows what went wrong.
export function drawnRows(run, failed) {
  const place = make("div", { "aria-live": "polite" });
  let next = 0;
  const button = make("button", { type: "button", class: "do", act: async () => {
    button.disabled = true;
    place.replaceChildren(make("p", { class: "note" }, say("drawing")));
    try {
      const found = await post("api/rows", { run, row: next });
      next = next + found.drawn.length < found.rows ? next + found.drawn.length : 0;
      const used = new Set(found.drawn.flatMap((one) => one.seen.flatMap((side) => side.tokens.map((each) => each.kind))));
      place.replaceChildren(make("p", { class: "note" }, say("rowOf", { n: number(found.rows) })),
        make("ul", { class: "legend" }, KINDS.filter((kind) => used.has(kind)).map((kind) => make("li", {}, make("span", { class: `t ${kind}` }, kind), ` ${say(`kinds.${kind}`)}`))),
        ...found.drawn.map(drawn), ...found.notes.map((note) => make("p", { class: "note" }, note)));
      button.textContent = say(next ? "nextRows" : "firstRows");
    } catch (error) {
      place.replaceChildren();
      failed(place, error);
    }
    button.disabled = false;
  } }, say("showRows"));
  return make("div", {}, make("p", { class: "note" }, say("rowsHint")), button, place);
}
