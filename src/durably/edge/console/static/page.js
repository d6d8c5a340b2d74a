// What every page does: times in the reader's zone, dialogs, forms, details, keys, and staying live.
// Rule: the server has escaped all HTML that is put into the page; nothing is made of text here.

const PLACES = { w: "workflows", s: "schedules", b: "batches", t: "task-queues" };

// --- Times ------------------------------------------------------------------------------------

const clock = new Intl.DateTimeFormat(undefined, {
  year: "numeric", month: "short", day: "numeric",
  hour: "2-digit", minute: "2-digit", second: "2-digit", hourCycle: "h23",
});

const moment = new Intl.DateTimeFormat(undefined, {
  hour: "2-digit", minute: "2-digit", second: "2-digit", hourCycle: "h23",
});

function lasted(milliseconds) {
  const seconds = Math.max(0, Math.floor(milliseconds / 1000));
  for (const [size, name, smaller, smallerName] of [
    [86400, "d", 3600, "h"], [3600, "h", 60, "min"], [60, "min", 1, "s"],
  ]) {
    if (seconds >= size) {
      return `${Math.floor(seconds / size)} ${name} ${Math.floor((seconds % size) / smaller)} ${smallerName}`;
    }
  }
  return `${seconds} s`;
}

function writeTimes(root) {
  for (const time of root.querySelectorAll("time[data-time]")) {
    const at = new Date(time.dateTime);
    if (Number.isNaN(at.getTime())) continue;
    time.textContent = clock.format(at);
    time.title = time.dateTime;
  }
  for (const time of root.querySelectorAll("time[data-moment]")) {
    const at = new Date(time.dateTime);
    if (Number.isNaN(at.getTime())) continue;
    time.textContent = `${moment.format(at)}.${String(at.getMilliseconds()).padStart(3, "0")}`;
    time.title = time.dateTime;
  }
  for (const time of root.querySelectorAll("time[data-since]")) {
    time.textContent = lasted(Date.now() - new Date(time.dateTime).getTime());
    time.title = `since ${time.dateTime}`;
  }
}

// --- Dialogs and forms ------------------------------------------------------------------------

function openDialog(id) {
  const dialog = document.getElementById(id);
  if (dialog instanceof HTMLDialogElement && !dialog.open) dialog.showModal();
  return dialog;
}

document.addEventListener("click", (event) => {
  const target = event.target instanceof Element ? event.target : null;
  if (!target) return;
  const opens = target.closest("[data-opens]");
  if (opens) openDialog(opens.dataset.opens);
  if (target.closest("[data-closes]")) target.closest("dialog")?.close();
  if (target.closest("[data-closes-panel]")) closePanel();
  if (target.closest("[data-theme-next]")) nextTheme();
  const reset = target.closest("[data-reset-to]");
  if (reset) {
    const form = openDialog("do-reset").querySelector("form");
    form.elements.target.value = "event";
    form.elements.event_id.value = reset.dataset.resetTo;
  }
  const inspect = target.closest("[data-inspect]");
  if (inspect && !event.ctrlKey && !event.metaKey && !event.shiftKey && event.button === 0) {
    event.preventDefault();
    openPanel(inspect);
  }
});

document.addEventListener("submit", async (event) => {
  const form = event.target;
  if (!(form instanceof HTMLFormElement) || !form.matches("[data-form]")) return;
  event.preventDefault();
  const problem = form.querySelector(".problem");
  const buttons = [...form.querySelectorAll("button[type=submit]")];
  // What the pressed button says is part of it, and a disabled button says nothing.
  const told = new URLSearchParams(new FormData(form, event.submitter));
  for (const button of buttons) button.disabled = true;
  try {
    const answer = await fetch(form.action, {
      method: "POST",
      body: told,
      headers: { accept: "text/plain" },
    });
    const text = await answer.text();
    if (answer.ok) {
      location.assign(text);
      return;
    }
    show(problem, text);
  } catch {
    show(problem, "The server did not answer. Nothing is known of what came of it.");
  }
  for (const button of buttons) button.disabled = false;
});

function show(problem, text) {
  if (!problem) {
    window.alert(text);
    return;
  }
  problem.textContent = text;
  problem.hidden = false;
}

function nextTheme() {
  const order = ["", "light", "dark"];
  const now = document.documentElement.dataset.theme ?? "";
  const next = order[(order.indexOf(now) + 1) % order.length];
  if (next) {
    localStorage.setItem("durably.theme", next);
    document.documentElement.dataset.theme = next;
  } else {
    localStorage.removeItem("durably.theme");
    delete document.documentElement.dataset.theme;
  }
}

// --- Details that are read when they are opened -----------------------------------------------

let opener = null;

async function openPanel(link) {
  const panel = document.getElementById("panel");
  opener = link;
  panel.replaceChildren(...(await piece(link.dataset.inspect)));
  panel.hidden = false;
  writeTimes(panel);
  panel.focus();
}

function closePanel() {
  const panel = document.getElementById("panel");
  if (panel.hidden) return false;
  panel.hidden = true;
  panel.replaceChildren();
  opener?.focus();
  return true;
}

async function piece(address) {
  const answer = await fetch(address, { headers: { accept: "text/html" } });
  const found = new DOMParser().parseFromString(await answer.text(), "text/html");
  return [...found.body.childNodes];
}

document.addEventListener("toggle", async (event) => {
  const details = event.target;
  if (!(details instanceof HTMLDetailsElement) || !details.open || !details.dataset.src) return;
  const inside = details.querySelector(".inside");
  if (details.dataset.loaded) return;
  details.dataset.loaded = "yes";
  inside.replaceChildren(...(await piece(details.dataset.src)));
  writeTimes(inside);
}, true);

// --- Live -------------------------------------------------------------------------------------

let source = null;
let ended = false;

function say(state, text) {
  const place = document.getElementById("live");
  if (!place) return;
  place.dataset.state = state;
  place.textContent = text;
}
let said = ["", ""];

function tell(state, text) {
  said = [state, text];
  say(state, text);
}

function put(part) {
  const place = document.getElementById(part.id);
  if (!place || place.dataset.digest === part.digest) return;
  const selection = window.getSelection();
  if (selection && !selection.isCollapsed && place.contains(selection.anchorNode)) return;
  const open = new Set(
    [...place.querySelectorAll("details[open][data-key]")].map((each) => each.dataset.key),
  );
  const kept = new Map();
  for (const each of place.querySelectorAll("details[data-loaded]")) kept.set(each.dataset.key, each);
  const checked = new Set(
    [...place.querySelectorAll("[data-check]:checked")].map((each) => each.value),
  );
  const focused = place.contains(document.activeElement) ? document.activeElement : null;
  const focus = focused?.getAttribute("href") ?? focused?.dataset.opens ?? focused?.value;
  const found = new DOMParser().parseFromString(part.html, "text/html");
  for (const each of found.querySelectorAll("details[data-key]")) {
    const before = kept.get(each.dataset.key);
    if (before) each.replaceWith(before);
    else each.open = open.has(each.dataset.key);
  }
  for (const each of found.querySelectorAll("[data-check]")) each.checked = checked.has(each.value);
  const scrolled = [...place.querySelectorAll(".scroll")].map((each) => each.scrollLeft);
  place.replaceChildren(...found.body.childNodes);
  place.dataset.digest = part.digest;
  place.querySelectorAll(".scroll").forEach((each, n) => (each.scrollLeft = scrolled[n] ?? 0));
  writeTimes(place);
  say(...said);
  if (focus) {
    [...place.querySelectorAll("a, button, input")]
      .find((e) => e.getAttribute("href") === focus || e.dataset.opens === focus || e.value === focus)
      ?.focus({ preventScroll: true });
  }
  document.dispatchEvent(new CustomEvent("part", { detail: part.id }));
}

document.addEventListener("shows", (event) => put(event.detail));

function connect() {
  if (source || ended || document.hidden) return;
  source = new EventSource(location.pathname + location.search);
  source.addEventListener("open", () => tell("on", "Live"));
  source.addEventListener("part", (event) => {
    const part = JSON.parse(event.data);
    // Another script may show it in its own way, and tell what it made of it by "shows".
    if (document.dispatchEvent(new CustomEvent("comes", { detail: part, cancelable: true }))) put(part);
  });
  source.addEventListener("final", () => finish("ended", "Ended"));
  source.addEventListener("gone", () => finish("off", "It is not there any more"));
  source.addEventListener("error", () => tell("off", "Connecting again"));
}

function finish(state, text) {
  ended = true;
  disconnect();
  tell(state, text);
}

function disconnect() {
  source?.close();
  source = null;
}

document.addEventListener("visibilitychange", () => (document.hidden ? disconnect() : connect()));
window.addEventListener("pagehide", disconnect);

// --- Keys -------------------------------------------------------------------------------------

let goes = false;

function rows() {
  return [...document.querySelectorAll("[data-rows] a[data-open], .timeline a.name, .compact a.name")];
}

function step(by) {
  const all = rows();
  if (!all.length) return;
  const here = all.indexOf(document.activeElement);
  const next = here < 0 ? (by > 0 ? 0 : all.length - 1) : Math.min(all.length - 1, Math.max(0, here + by));
  all[next].focus();
}

document.addEventListener("keydown", (event) => {
  const typing = event.target instanceof Element && event.target.matches("input, textarea, select");
  if (event.key === "Escape" && closePanel()) return;
  if (typing || event.ctrlKey || event.metaKey || event.altKey || document.querySelector("dialog[open]")) return;
  if (goes && PLACES[event.key]) {
    const place = document.querySelector(`nav a[href$="/${PLACES[event.key]}"]`);
    if (place) location.assign(place.href);
    goes = false;
    return;
  }
  goes = event.key === "g";
  const does = {
    "/": () => document.querySelector("[data-filter]")?.focus(),
    "?": () => openDialog("keys"),
    j: () => step(1),
    k: () => step(-1),
    x: () => document.activeElement?.closest("tr")?.querySelector("[data-check]")?.click(),
  }[event.key];
  if (does) {
    event.preventDefault();
    does();
  }
});

document.addEventListener("click", (event) => {
  const menu = document.querySelector("details.namespaces[open]");
  if (menu && !menu.contains(event.target)) menu.open = false;
});

writeTimes(document);
setInterval(() => writeTimes(document), 1000);
if (document.body.hasAttribute("data-live")) connect();
