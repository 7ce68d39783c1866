// What is asked of the board.

export class BoardError extends Error {
  // status: HTTP's; 0 where no answer came at all.
  constructor(status, message) {
    super(message);
    this.status = status;
  }
}

async function answer(path, options) {
  let reply;
  let text;
  try {
    reply = await fetch(path, { cache: "no-store", ...options });
    text = await reply.text();
  } catch {
    throw new BoardError(0, "");
  }
  let found = null;
  try {
    found = JSON.parse(text);
  } catch {
    throw new BoardError(reply.ok ? 0 : reply.status, text.slice(0, 300));
  }
  if (!reply.ok) throw new BoardError(reply.status, String(found?.error?.message ?? reply.statusText));
  return found;
}

export function read(path) {
  return answer(path, {});
}

export function post(path, body) {
  return answer(path, { method: "POST", headers: { "Content-Type": "application/json" }, body: JSON.stringify(body) });
}
