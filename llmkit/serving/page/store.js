// What outlives a reload. A browser may forbid it: then get() finds nothing, and set() says false.

export function get(name) {
  try {
    return JSON.parse(localStorage.getItem(`llmkit.${name}`));
  } catch {
    return null;
  }
}

export function set(name, value) {
  try {
    localStorage.setItem(`llmkit.${name}`, JSON.stringify(value));
    return true;
  } catch {
    return false;
  }
}

// The key is gone with its tab.
export function getKey() {
  try {
    return sessionStorage.getItem("llmkit.key") ?? "";
  } catch {
    return "";
  }
}

export function setKey(value) {
  try {
    sessionStorage.setItem("llmkit.key", value);
  } catch {
    // then it is asked for again after a reload
  }
}
