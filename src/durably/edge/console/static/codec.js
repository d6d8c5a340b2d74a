// Encrypted payloads are sent to the codec server that the setting names, from this browser: the server of
// this page never sees what they say. What comes back is shown as text, never as HTML.

const endpoint = document.body.dataset.codec.replace(/\/$/, "");
const namespace = document.body.dataset.namespace;
const known = new Map();

function bytes(base64) {
  return Uint8Array.from(atob(base64 ?? ""), (letter) => letter.charCodeAt(0));
}

function text(payload) {
  const read = new TextDecoder().decode(bytes(payload.data));
  try {
    return JSON.stringify(JSON.parse(read), null, 2);
  } catch {
    return read;
  }
}

async function decode(written) {
  const answer = await fetch(`${endpoint}/decode`, {
    method: "POST",
    headers: { "content-type": "application/json", "x-namespace": namespace },
    body: JSON.stringify({ payloads: written.map((each) => JSON.parse(each)) }),
  });
  if (!answer.ok) throw new Error(`the codec server answered ${answer.status}`);
  return (await answer.json()).payloads.map(text);
}

async function show() {
  const places = [...document.querySelectorAll("[data-encrypted]")];
  const asked = [...new Set(places.map((each) => each.dataset.encrypted))].filter((e) => !known.has(e));
  if (asked.length) {
    for (const each of asked) known.set(each, null);
    try {
      (await decode(asked)).forEach((found, n) => known.set(asked[n], { found }));
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
