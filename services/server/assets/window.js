// @ts-check
// The time range that all graphs of a page share. The page's address holds it.

const PRESETS = { "15m": 900, "1h": 3600, "6h": 21600, "1d": 86400, "1w": 604800, "30d": 2592000, "90d": 7776000, "1y": 31536000, "2y": 63072000 };
const SHORTEST = 60;

/** @type {Set<() => void>} */
const listeners = new Set();

/** @returns {{ from: number, to: number, range: string }} in unix seconds; `range` is empty where the end is fixed */
export function current() {
  const query = new URLSearchParams(location.search);
  const [from, to] = [Number(query.get("from")), Number(query.get("to"))];
  if (query.get("from") && from < to) return { from, to, range: "" };
  const asked = query.get("range") ?? "1h";
  const range = Object.hasOwn(PRESETS, asked) ? asked : "1h";
  const now = Date.now() / 1000;
  return { from: now - PRESETS[/** @type {keyof typeof PRESETS} */ (range)], to: now, range };
}

/** @param {() => void} listener is called when the range changes */
export function onChange(listener) {
  listeners.add(listener);
}

function changed() {
  mark();
  for (const listener of listeners) listener();
}

/** @param {Record<string, string>} parameters */
function go(parameters) {
  const url = new URL(location.href);
  for (const name of ["range", "from", "to"]) url.searchParams.delete(name);
  for (const [name, value] of Object.entries(parameters)) url.searchParams.set(name, value);
  history.pushState(null, "", url);
  changed();
}

let zooms = false;

/** Graphs share what is selected, and each of them asks for the same zoom at once: the first is enough. @param {number} from @param {number} to */
export function zoom(from, to) {
  if (zooms) return;
  zooms = true;
  setTimeout(() => { zooms = false; });
  const middle = (from + to) / 2;
  const half = Math.max(to - from, SHORTEST) / 2;
  const end = Math.min(middle + half, Date.now() / 1000);
  go({ from: String(Math.floor(end - 2 * half)), to: String(Math.ceil(end)) });
}

/** The links of the presets that are current, and the times between which it is. */
function mark() {
  const { from, to, range } = current();
  for (const link of document.querySelectorAll(".ranges a")) {
    if (/** @type {HTMLElement} */ (link).dataset.range === range) link.setAttribute("aria-current", "true");
    else link.removeAttribute("aria-current");
  }
  for (const link of document.querySelectorAll("a[data-ranged]")) {
    const url = new URL(/** @type {HTMLAnchorElement} */ (link).href);
    for (const name of ["range", "from", "to"]) url.searchParams.delete(name);
    if (range) url.searchParams.set("range", range);
    else for (const [name, value] of [["from", from], ["to", to]]) url.searchParams.set(String(name), String(Math.round(Number(value))));
    /** @type {HTMLAnchorElement} */ (link).href = url.pathname + url.search;
  }
  for (const form of document.querySelectorAll("form[data-ranged]")) {
    for (const input of form.querySelectorAll("input[type=hidden]:is([name=range], [name=from], [name=to])")) input.remove();
    const fields = range ? { range } : { from: String(Math.round(from)), to: String(Math.round(to)) };
    for (const [name, value] of Object.entries(fields)) form.append(Object.assign(document.createElement("input"), { type: "hidden", name, value }));
  }
  fill(from, to);
}

/** The times that the inputs were filled with. They are more exact than the inputs, and an hour that a clock shows twice is one of the two. @type {number[]} */
let filled = [];

/** @param {number} from @param {number} to */
function fill(from, to) {
  filled = [from, to].map(Math.round);
  const inputs = /** @type {NodeListOf<HTMLInputElement>} */ (document.querySelectorAll("#between input"));
  for (const [index, input] of inputs.entries()) {
    input.value = local(filled[index]);
    // What was said of the values before is not true of these.
    input.setCustomValidity("");
  }
}

/** @param {number} seconds @returns what an input for local times takes */
function local(seconds) {
  const at = new Date(seconds * 1000);
  return new Date(at.getTime() - at.getTimezoneOffset() * 60000).toISOString().slice(0, 16);
}

let started = false;

/** Makes the presets change the graphs without a new page, and adds inputs for any other range. Only the first call does so. */
export function start() {
  const ranges = document.querySelector(".ranges");
  const between = document.getElementById("between");
  if (!ranges || !between || started) return;
  started = true;
  ranges.addEventListener("click", (/** @type {MouseEventInit & Event} */ event) => {
    const link = /** @type {HTMLElement} */ (event.target).closest("a");
    if (!link?.dataset.range || event.ctrlKey || event.metaKey || event.shiftKey) return;
    event.preventDefault();
    go({ range: link.dataset.range });
  });
  const button = document.createElement("button");
  button.type = "button";
  button.textContent = "Other";
  button.setAttribute("aria-expanded", "false");
  const form = document.createElement("form");
  form.hidden = true;
  for (const [name, title] of [["from", "From"], ["to", "to"]]) {
    const label = document.createElement("label");
    const input = document.createElement("input");
    input.type = "datetime-local";
    input.name = name;
    input.required = true;
    label.append(`${title} `, input);
    form.append(label);
  }
  const submit = document.createElement("button");
  submit.textContent = "Show";
  form.append(submit);
  const open = (/** @type {boolean} */ isOpen) => {
    form.hidden = !isOpen;
    button.setAttribute("aria-expanded", String(isOpen));
    if (!isOpen) return;
    const { from, to } = current();
    fill(from, to);
  };
  button.addEventListener("click", () => open(form.hidden));
  form.addEventListener("keydown", (event) => {
    if (event.key !== "Escape") return;
    open(false);
    button.focus();
  });
  const inputs = [...form.querySelectorAll("input")];
  form.addEventListener("input", () => inputs[1].setCustomValidity(""));
  form.addEventListener("submit", (event) => {
    event.preventDefault();
    // What nobody changed stays as exact as it was.
    const [from, to] = inputs.map((input, index) => (input.value === local(filled[index]) ? filled[index] : new Date(input.value).getTime() / 1000));
    inputs[1].setCustomValidity(from < to ? "" : "The end has to be after the beginning.");
    if (form.reportValidity()) go({ from: String(from), to: String(to) });
  });
  between.append(button, form);
  addEventListener("popstate", changed);
  mark();
}
