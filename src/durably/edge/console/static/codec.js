// Encrypted payloads are sent to the codec server that the setting names, from this browser: the server of
// this page never sees what they say. What comes back is shown as text, never as HTML.

const endpoint = document.body.dataset.codec.replace(/\/$/, "");
const namespace = document.body.dataset.namespace;
const known = new Map();
const INVISIBLE =
  /[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200b\u200e\u200f\u202a-\u202e\u2060-\u2069\ufeff\ud800-\udfff]/gu;

// As the server writes what would not be seen, or would hide what follows it.
export function visible(text) {
  return text.replace(INVISIBLE, (letter) => {
    const code = letter.codePointAt(0);
    if (code < 0x20) return String.fromCharCode(0x2400 + code);
    return code === 0x7f ? "\u2421" : `\u27e8U+${code.toString(16).toUpperCase().padStart(4, "0")}\u27e9`;
  });
}

function bytes(base64) {
  return Uint8Array.from(atob(base64 ?? ""), (letter) => letter.charCodeAt(0));
}

export function encodingOf(payload) {
  return new TextDecoder().decode(bytes(payload.metadata?.encoding));
}

export function textOf(payload) {
  return new TextDecoder().decode(bytes(payload.data));
}

function legible(payload) {
  const read = textOf(payload);
  try {
    return visible(JSON.stringify(JSON.parse(read), null, 2));
  } catch {
    return visible(read);
  }
}

export class NotReached extends Error {}

export async function decode(payloads) {
  const answer = await fetch(`${endpoint}/decode`, {
    method: "POST",
    headers: { "content-type": "application/json", "x-namespace": namespace },
    body: JSON.stringify({ payloads }),
  }).catch(() => {
    throw new NotReached("the codec server is not reached, or does not allow this origin");
  });
  if (!answer.ok) throw new Error(`the codec server answered ${answer.status}`);
  const found = (await answer.json()).payloads;
  if (found?.length !== payloads.length) throw new Error("the codec server left payloads out");
  return found;
}

async function show() {
  const places = [...document.querySelectorAll("[data-encrypted]")];
  const asked = [...new Set(places.map((each) => each.dataset.encrypted))].filter((e) => !known.has(e));
  if (asked.length) {
    for (const each of asked) known.set(each, null);
    try {
      const decoded = await decode(asked.map((each) => JSON.parse(each)));
      decoded.forEach((each, n) => known.set(asked[n], { found: legible(each) }));
    } catch (error) {
      for (const each of asked) known.set(each, { problem: `Encrypted, and not decoded: ${error.message}` });
    }
  }
  for (const place of document.querySelectorAll("[data-encrypted]:not([data-decoded])")) {
    const now = known.get(place.dataset.encrypted);
    const locked = place.querySelector(".locked");
    if (!now || !locked) continue;
    place.dataset.decoded = "";
    if (now.problem) {
      locked.textContent = now.problem;
      continue;
    }
    const shown = document.createElement("pre");
    shown.tabIndex = 0;
    shown.setAttribute("role", "region");
    shown.setAttribute("aria-label", "Value, decoded in this browser");
    shown.textContent = now.found;
    locked.replaceWith(shown);
  }
}

new MutationObserver(show).observe(document.body, { childList: true, subtree: true });
show();
