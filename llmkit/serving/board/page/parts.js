// Pieces of the page: elements whose text is always text, and figures as people read them.

// make("p", {class: "note"}, "text", node …): attributes that are null or false are left out.
export function make(tag, attributes = {}, ...inside) {
  const node = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (name === "act") node.addEventListener(tag === "form" ? "submit" : "click", value);
    else if (value !== null && value !== undefined && value !== false) node.setAttribute(name, value === true ? "" : value);
  }
  node.append(...inside.flat(Infinity).filter((one) => one !== null && one !== undefined && one !== ""));
  return node;
}

// 1,234 · 0.8123 · 1.2e-5 · "" for what isn't there.
export function number(value) {
  if (value === null || value === undefined) return "";
  if (typeof value !== "number") return String(value);
  if (Number.isInteger(value)) return value.toLocaleString("en");
  const size = Math.abs(value);
  if (size >= 1e-3 && size < 1e5) return value.toLocaleString("en", { minimumFractionDigits: 4, maximumFractionDigits: 4 });
  return value.toPrecision(4);
}

// The same of what is measured, where 1 is 1.0000.
export function measure(value) {
  return Number.isInteger(value) && Math.abs(value) < 1e5 ? value.toFixed(4) : number(value);
}

// A measured figure as a cell of a table.
export function figured(value) {
  return value === null || value === undefined ? "" : make("span", { class: "n" }, measure(value));
}

// Seconds as 1:02:03 or 02:03.
export function clock(seconds) {
  const whole = Math.max(0, Math.floor(seconds));
  const two = (n) => String(n).padStart(2, "0");
  const hours = Math.floor(whole / 3600);
  const rest = `${two(Math.floor(whole / 60) % 60)}:${two(whole % 60)}`;
  return hours ? `${hours.toLocaleString("en")}:${rest}` : rest;
}

export function bytes(count) {
  for (const [unit, one] of [["GB", 1e9], ["MB", 1e6]]) {
    if (count >= one) return `${(count / one).toLocaleString("en", { maximumSignificantDigits: 3 })} ${unit}`;
  }
  return `${(count / 1e3).toLocaleString("en", { maximumSignificantDigits: 3 })} kB`;
}

// A table that scrolls by itself where it is wider than the page; a cell is a figure, a text or a node.
export function table(head, rows, about = "") {
  const cell = (value) => {
    if (value instanceof Node) return make("td", { class: value.className === "n" ? "n" : null }, value);
    if (typeof value === "number") return make("td", { class: "n" }, number(value));
    const text = value === null || value === undefined ? "" : String(value);
    return make("td", { class: text.length > 40 ? "text" : null }, text);
  };
  return make("div", { class: "wide", tabindex: 0, role: "region", "aria-label": about || head.join(", ") }, make("table", {},
    head.length ? make("thead", {}, make("tr", {}, head.map((name, i) => make("th", { scope: "col",
      class: rows.length && rows.every((row) => row[i] === "" || typeof row[i] === "number" || row[i]?.className === "n") && name ? "n" : null }, name)))) : null,
    make("tbody", {}, rows.map((row) => make("tr", {}, row.map(cell))))));
}

// Names and what stands behind them.
export function facts(pairs) {
  return make("table", { class: "facts" }, make("tbody", {}, pairs.map(([name, value]) => make("tr", {},
    make("th", { scope: "row" }, name), make("td", {}, value instanceof Node ? value : String(value))))));
}
