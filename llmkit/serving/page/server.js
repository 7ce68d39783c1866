// The server's API: which models there are, and an answer as it is written.

export class ServerError extends Error {
  // status: HTTP's; 0 where no answer came at all, or where it broke off after some text.
  constructor(status, message) {
    super(message);
    this.status = status;
  }
}

async function request(path, key, options = {}) {
  const headers = { "Content-Type": "application/json" };
  if (key) headers.Authorization = `Bearer ${key}`;
  let reply;
  try {
    reply = await fetch(path, { ...options, headers });
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new ServerError(0, "");
  }
  if (!reply.ok) throw new ServerError(reply.status, reason(await reply.text()) || reply.statusText);
  return reply;
}

// The message inside an error's JSON body, or the body itself where it is none.
function reason(body) {
  try {
    const { error, detail } = JSON.parse(body);
    return String(error?.message ?? error ?? detail ?? body);
  } catch {
    return body.slice(0, 300);
  }
}

export async function models(key) {
  const reply = await request("v1/models", key);
  return (await reply.json()).data;
}

// Ask, and call heard(text) with each piece; returns {finish, tokens}. signal ends it: the server then frees its place.
export async function answer(question, key, signal, heard) {
  const body = JSON.stringify({ ...question, stream: true, stream_options: { include_usage: true } });
  const reply = await request("v1/chat/completions", key, { method: "POST", body, signal });
  let finish = null;
  let tokens = null;
  for await (const data of events(reply.body)) {
    if (data === "[DONE]") return { finish, tokens };
    const event = JSON.parse(data);
    if (event.error) throw new ServerError(event.error.code === 429 ? 429 : 500, reason(data));
    const choice = event.choices?.[0];
    if (choice?.delta?.content) heard(choice.delta.content);
    finish = choice?.finish_reason ?? finish;
    tokens = event.usage?.completion_tokens ?? tokens;
  }
  throw new ServerError(0, "broken");
}

// The data of server-sent events: events end with an empty line, and a chunk may end anywhere, even inside a character.
async function* events(stream) {
  const reader = stream.pipeThrough(new TextDecoderStream()).getReader();
  let rest = "";
  let data = [];
  for (;;) {
    let chunk;
    try {
      chunk = await reader.read();
    } catch (error) {
      if (error.name === "AbortError") throw error;
      throw new ServerError(0, "broken");
    }
    if (chunk.done) return;
    const lines = (rest + chunk.value).split("\n");
    rest = lines.pop();
    for (const line of lines.map((one) => one.replace(/\r$/, ""))) {
      if (line.startsWith("data:")) data.push(line.slice(5).trimStart());
      else if (line === "" && data.length) {
        yield data.join("\n");
        data = [];
      }
    }
  }
}
