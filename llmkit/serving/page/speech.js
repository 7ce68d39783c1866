// Which language a page speaks, and its sentences: pages bring the words.

let language = "en";

export function speak(name) {
  language = name;
  document.documentElement.lang = name === "zh" ? "zh-Hans" : "en";
}

export function spoken() {
  return language;
}

// sayIn(WORDS, "error.refused", {message: "…"}) -> the sentence, its {blanks} filled in; whatever else stands there.
export function sayIn(words, key, blanks = {}) {
  const found = key.split(".").reduce((part, name) => part?.[name], words[language]);
  return typeof found === "string" ? found.replace(/\{(\w+)\}/g, (_, name) => blanks[name]) : found;
}
