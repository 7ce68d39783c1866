// A model's text as nodes of the page: code blocks, `code` and **bold**; all else stays text, and nothing is ever HTML.

const FENCE = /^ {0,3}```+ *([\w+#.-]*)[^`\n]*$/;

function make(tag, name, text) {
  const node = document.createElement(tag);
  if (name) node.className = name;
  if (text) node.textContent = text;
  return node;
}

function prose(text) {
  const node = make("p");
  for (const part of text.split(/(`[^`\n]+`|\*\*[^*\n]+\*\*)/)) {
    if (/^`[^`]+`$/.test(part)) node.append(make("code", "", part.slice(1, -1)));
    else if (/^\*\*[^*]+\*\*$/.test(part)) node.append(make("strong", "", part.slice(2, -2)));
    else if (part) node.append(part);
  }
  return node;
}

// code(block) is called with each code block, to give it its button.
export function render(text, code) {
  const nodes = [];
  let lines = [];
  let language = null; // of the block that is open
  const close = () => {
    const content = lines.join("\n");
    if (language !== null) {
      const block = make("div", "code");
      const head = make("div", "code-head", "");
      head.append(make("span", "", language));
      const pre = make("pre");
      pre.tabIndex = 0; // a keyboard has to be able to scroll it
      pre.append(make("code", "", content));
      block.append(head, pre);
      code(head, content);
      nodes.push(block);
    } else {
      const paragraphs = content.split(/\n\s*\n/).map((one) => one.replace(/^\n+|\s+$/g, ""));
      nodes.push(...paragraphs.filter((one) => one).map(prose));
    }
    lines = [];
  };
  for (const line of text.split("\n")) {
    const fence = FENCE.exec(line);
    if (!fence) lines.push(line);
    else {
      close();
      language = language === null ? fence[1] : null;
    }
  }
  close();
  return nodes;
}
