// The list of workflows: selecting rows for a batch, choosing columns, saved views.
// It imports nothing: a second address of page.js would be a second copy of it.

const bar = document.querySelector("[data-selection]");
let everything = false;

function chosen() {
  return [...document.querySelectorAll("[data-check]:checked")].map((each) => each.value);
}

function total() {
  return Number((document.querySelector(".counts [aria-current] b")?.textContent ?? "0").replaceAll(",", ""));
}

function update() {
  const count = chosen().length;
  const all = document.querySelector("[data-check-all]");
  if (count === 0) everything = false;
  bar.hidden = count === 0;
  bar.querySelector("[data-selected]").textContent = everything
    ? `all ${total().toLocaleString()} that the filter finds`
    : `${count} selected`;
  bar.querySelector("[data-compare]").hidden = everything || count !== 2;
  const boxes = document.querySelectorAll("[data-check]").length;
  bar.querySelector("[data-all]").hidden = everything || count < boxes || total() <= count;
  if (all) {
    all.checked = count > 0 && count === boxes;
    all.indeterminate = count > 0 && count < boxes;
  }
}

document.addEventListener("change", (event) => {
  if (event.target.matches("[data-check-all]")) {
    for (const each of document.querySelectorAll("[data-check]")) each.checked = event.target.checked;
  }
  if (event.target.matches("[data-check], [data-check-all]")) {
    everything = false;
    update();
  }
});

document.addEventListener("part", update);

bar.addEventListener("click", (event) => {
  if (event.target.closest("[data-all]")) {
    everything = true;
    update();
  }
  const compare = event.target.closest("[data-compare]");
  if (compare) {
    const [right, left] = chosen();
    location.assign(`${compare.dataset.compare}?${new URLSearchParams({ left, right })}`);
    return;
  }
  const operation = event.target.closest("[data-batch]")?.dataset.batch;
  if (!operation) return;
  const dialog = document.getElementById(`batch-${operation}`);
  dialog.showModal();
  const form = dialog.querySelector("form");
  const ids = chosen();
  form.elements.which.value = everything ? "query" : "rows";
  dialog.querySelector("[data-count]").textContent = (everything ? total() : ids.length).toLocaleString();
  dialog.querySelector("[data-executions]").replaceChildren(
    ...(everything ? [] : ids).map((id) => {
      const field = document.createElement("input");
      field.type = "hidden";
      field.name = "execution";
      field.value = id;
      return field;
    }),
  );
});

// --- Columns ----------------------------------------------------------------------------------

document.querySelector("[data-columns]").addEventListener("submit", (event) => {
  const boxes = [...event.target.querySelectorAll("input[type=checkbox]:checked")];
  event.target.elements.columns.value = boxes.map((each) => each.value).join(",");
});

// --- Saved views ------------------------------------------------------------------------------

const KEPT = "durably.views";

function views() {
  try {
    const found = JSON.parse(localStorage.getItem(KEPT) ?? "[]");
    return Array.isArray(found) ? found.filter((v) => typeof v?.name === "string" && typeof v?.search === "string") : [];
  } catch {
    return [];
  }
}

function keep(all) {
  localStorage.setItem(KEPT, JSON.stringify(all));
  list();
}

function list() {
  const items = views().map((view) => {
    const item = document.createElement("li");
    const link = document.createElement("a");
    link.textContent = view.name;
    link.href = `${location.pathname}?${new URLSearchParams(view.search)}`;
    const drop = document.createElement("button");
    drop.type = "button";
    drop.className = "quiet";
    drop.textContent = "Forget";
    drop.setAttribute("aria-label", `Forget ${view.name}`);
    drop.addEventListener("click", () => keep(views().filter((each) => each.name !== view.name)));
    item.append(link, drop);
    return item;
  });
  document.querySelector("[data-views]").replaceChildren(...items);
}

document.querySelector("[data-save-view]").addEventListener("submit", (event) => {
  event.preventDefault();
  const name = event.target.elements.name.value.trim();
  const asked = new URLSearchParams(location.search);
  asked.delete("page");
  asked.delete("notice");
  if (name) keep([...views().filter((each) => each.name !== name), { name, search: asked.toString() }]);
  event.target.reset();
});

list();
update();
