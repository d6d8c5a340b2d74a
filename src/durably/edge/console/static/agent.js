// An agent run with encrypted payloads: they are decoded by the codec server, from this browser. The server of this
// page is sent outlines of them, and draws the page with a placeholder for each text; the texts are put in here.
// Rule: an outline has the words that decoders look for, numbers of tokens, names of models, and names of tools
// that are activities, which the history has too. Texts are put in as text, never as HTML.

const about = document.getElementById("decoding").dataset;
const { NotReached, decode, encodingOf, textOf, visible } = await import(about.codec);
const place = document.getElementById("agent");
const { words, counts, names, flags, content } = Object.fromEntries(
  Object.entries(JSON.parse(about.words)).map(([name, some]) => [name, new Set(some)]),
);
const NAME = /^[\w.:/@-]{1,100}$/;
const CHARS_MAX = 8000;
const PAUSE_MS = 1000;

// --- Reading ----------------------------------------------------------------------------------

const known = new Map();
const tools = new Set();
let next = 1;

function valueOf(payload) {
  const encoding = encodingOf(payload);
  if (encoding === "binary/null") return null;
  if (!encoding.startsWith("json/")) return undefined;
  try {
    return JSON.parse(textOf(payload));
  } catch {
    return undefined;
  }
}

// One that cannot be decoded keeps no other from it.
async function decoded(payloads) {
  try {
    return await decode(payloads);
  } catch (error) {
    if (payloads.length < 2 || error instanceof NotReached) throw error;
  }
  const found = [];
  for (const each of payloads) found.push(await decode([each]).then((some) => some[0], () => null));
  if (found.every((each) => each === null)) throw new Error("the codec server decodes none of them");
  return found;
}

async function read() {
  for (;;) {
    const answer = await fetch(`${about.locked}?from=${next}`);
    if (!answer.ok) throw new Error(`the server answered ${answer.status}`);
    const page = await answer.json();
    for (const type of page.types) tools.add(type);
    const asked = Object.entries(page.payloads).filter(([key]) => !known.has(key));
    if (asked.length) {
      const found = await decoded(asked.map(([, payload]) => payload));
      found.forEach((each, n) => known.set(asked[n][0], each ? valueOf(each) : undefined));
    }
    next = page.next;
    if (page.complete) return;
  }
}

// --- Outlines ---------------------------------------------------------------------------------

class Outlines {
  texts = [];
  #numbers = new Map();

  of(value, key = "", inside = false) {
    if (value === null || value === "") return value;
    if (Array.isArray(value)) return value.map((each) => this.of(each, key, inside));
    if (typeof value === "object") {
      return Object.fromEntries(
        Object.entries(value).map(([name, each]) => [
          words.has(name) ? name : this.#instead(name),
          this.of(each, name, inside || content.has(name)),
        ]),
      );
    }
    return this.#isTold(value, key, inside) ? value : this.#hidden(value);
  }

  #isTold(value, key, inside) {
    if (typeof value === "string") {
      return words.has(value) || tools.has(value) || (!inside && names.has(key) && NAME.test(value));
    }
    if (typeof value === "number") return (key === "lc" && value === 1) || (!inside && counts.has(key));
    return !inside && flags.has(key);
  }

  // JSON within a text, such as the arguments of a tool, keeps its form.
  #hidden(value) {
    if (typeof value === "string" && /^\s*[[{]/.test(value)) {
      try {
        return JSON.stringify(this.of(JSON.parse(value), "", true));
      } catch {
        // It only begins like it.
      }
    }
    return this.#instead(value);
  }

  #instead(value) {
    const text = JSON.stringify(value);
    if (!this.#numbers.has(text)) {
      this.#numbers.set(text, this.texts.length);
      this.texts.push(value);
    }
    return `\u27e6${this.#numbers.get(text)}\u27e7`;
  }
}

// Placeholders, alone or in quotes that stand in JSON, which may stand in JSON again.
const PLACEHOLDER = /(\\*)"\u27e6(\d+)\u27e7\1"|\u27e6(\d+)\u27e7/g;
const CUT = /\\*"?\u27e6\d*$/;

function put(root, texts) {
  const walker = document.createTreeWalker(root, NodeFilter.SHOW_TEXT);
  while (walker.nextNode()) {
    const node = walker.currentNode;
    if (!node.data.includes("\u27e6")) continue;
    node.data = node.data
      .replace(CUT, "\u2026")
      .replace(PLACEHOLDER, (all, escapes, quoted, bare) => said(texts[quoted ?? bare], all, escapes));
  }
}

function said(value, all, escapes) {
  if (value === undefined) return all;
  let text = value;
  if (escapes !== undefined) {
    text = JSON.stringify(value);
    for (let left = escapes.length; left; left >>= 1) text = JSON.stringify(text).slice(1, -1);
  }
  text = visible(String(text));
  return text.length > CHARS_MAX ? `${text.slice(0, CHARS_MAX)}\u2026` : text;
}

// --- Drawing ----------------------------------------------------------------------------------

let drawn = 0;
let isDrawing = false;
let isOld = false;

async function draw() {
  await read();
  const made = new Outlines();
  const outlines = {};
  for (const [key, value] of known) {
    if (value !== undefined) outlines[key] = JSON.stringify(made.of(value));
  }
  const answer = await fetch(about.decoded + location.search, {
    method: "POST",
    headers: { "content-type": "application/json", accept: "text/plain" },
    body: JSON.stringify({ outlines }),
  });
  const text = await answer.text();
  if (!answer.ok) throw new Error(text);
  const found = new DOMParser().parseFromString(text, "text/html");
  put(found.body, made.texts);
  drawn += 1;
  const part = { id: "agent", html: found.body.innerHTML, digest: `decoded ${drawn}` };
  document.dispatchEvent(new CustomEvent("shows", { detail: part }));
}

async function redraw() {
  isOld = true;
  if (isDrawing) return;
  isDrawing = true;
  while (isOld) {
    isOld = false;
    try {
      await draw();
    } catch (error) {
      const notice = place.querySelector("p.locked");
      if (notice) notice.textContent = `Encrypted, and not decoded: ${error.message}`;
    }
    await new Promise((done) => setTimeout(done, PAUSE_MS));
  }
  isDrawing = false;
}

let seen = place.dataset.digest;

document.addEventListener("comes", (event) => {
  if (event.detail.id !== "agent") return;
  if (!drawn && !event.detail.html.includes("data-locked")) return;
  // Until something is decoded, what the server has drawn is shown, which says that it is encrypted.
  if (drawn) event.preventDefault();
  if (event.detail.digest === seen) return;
  seen = event.detail.digest;
  if (drawn) redraw();
});

// What was put there by the server.
document.addEventListener("part", (event) => {
  if (event.detail === "agent" && !drawn && place.querySelector("[data-locked]")) redraw();
});

if (place.querySelector("[data-locked]")) redraw();
