// @ts-check
// Explore: completion of metrics, labels and functions, errors at their place, and the last queries.
import { Choices } from "./choices.js";

const LIMIT_MS = 4000;
const KEPT = 12;
/** What stands for $window when an expression is read: a duration of the same length, so that errors keep their places. */
const SOME_WINDOW = "000120s";
const STORED = "golectra.queries";
const FUNCTIONS = "abs absent absent_over_time avg avg_over_time bottomk by ceil changes clamp clamp_max clamp_min count count_over_time count_values day_of_month day_of_week delta deriv exp floor group group_left group_right histogram_quantile hour idelta ignoring increase irate label_join label_replace last_over_time ln log10 log2 max max_over_time min min_over_time minute month offset on predict_linear present_over_time quantile quantile_over_time rate resets round scalar sgn sort sort_desc sqrt stddev stddev_over_time stdvar sum sum_over_time time timestamp topk vector without year".split(" ");

const field = /** @type {HTMLTextAreaElement} */ (document.getElementById("query"));
const form = /** @type {HTMLFormElement} */ (document.getElementById("query-form"));
const problem = /** @type {HTMLElement} */ (document.getElementById("query-error"));
const choices = new Choices(field, /** @type {HTMLElement} */ (form.querySelector(".entry")), (choice) => insert(choice.value), "Completions");

/** @type {Map<string, Promise<string[]>>} */
const lists = new Map();

/** @param {string} path */
function list(path) {
  let known = lists.get(path);
  if (!known) {
    known = fetch(path, { signal: AbortSignal.timeout(LIMIT_MS) }).then((answer) => answer.json()).then((body) => body.data ?? []).catch(() => {
      // The next word asks again.
      lists.delete(path);
      return [];
    });
    lists.set(path, known);
  }
  return known;
}

/** The word before the cursor. The unit of a duration, as in 5m, is none. */
function word() {
  return /(?<![\w:.$])[a-zA-Z_:][\w:]*$/.exec(field.value.slice(0, field.selectionStart))?.[0] ?? "";
}

/** What can stand at the cursor. @returns {Promise<import("./choices.js").Choice[]>} */
async function possible() {
  const before = field.value.slice(0, field.selectionStart);
  const recent = `start=${Math.floor(Date.now() / 60_000) * 60 - 3600}`;
  // Within the braces of a selector, or after by and without: labels, and values within quotes.
  const braces = /([a-zA-Z_:][\w:]*)?\{([^{}]*)$/.exec(before);
  const value = braces && /([a-zA-Z_]\w*)\s*(?:=~|!~|!=|=)\s*"([^"]*)$/.exec(braces[2]);
  const matching = braces?.[1] ? `&match[]=${encodeURIComponent(braces[1])}` : "";
  if (value) {
    const values = await list(`/api/v1/label/${encodeURIComponent(value[1])}/values?${recent}${matching}`);
    return values.filter((one) => one.toLowerCase().includes(value[2].toLowerCase())).slice(0, 40).map((one) => ({ text: one, note: "value", value: JSON.stringify(one).slice(1, -1) }));
  }
  const typed = word().toLowerCase();
  if (braces || /\b(?:by|without|on|ignoring)\s*\([^()]*$/.test(before)) {
    const names = await list(`/api/v1/labels?${recent}${matching}`);
    return names.filter((one) => one !== "__name__" && one.toLowerCase().includes(typed)).slice(0, 40).map((one) => ({ text: one, note: "label", value: /^[a-zA-Z_]\w*$/.test(one) ? one : JSON.stringify(one) }));
  }
  if (typed.length === 0) return [];
  const metrics = await list(`/api/v1/label/__name__/values?${recent}`);
  const found = [
    ...FUNCTIONS.map((one) => ({ text: one, note: "function", value: one })),
    ...metrics.map((one) => ({ text: one, note: "metric", value: /^[a-zA-Z_:][\w:]*$/.test(one) ? one : `{${JSON.stringify(one)}}` })),
  ].filter((one) => one.text.toLowerCase().includes(typed));
  found.sort((a, b) => Number(b.text.toLowerCase().startsWith(typed)) - Number(a.text.toLowerCase().startsWith(typed)) || a.text.length - b.text.length);
  return found.slice(0, 40);
}

let asked = 0;
async function complete() {
  const turn = asked += 1;
  const found = await possible();
  if (turn !== asked || document.activeElement !== field) return;
  const whole = found.length === 1 && found[0].value === word();
  choices.show(whole ? [] : found, 0);
}

/** @param {string} text */
function insert(text) {
  const at = field.selectionStart;
  const before = field.value.slice(0, at);
  const quoted = /"([^"]*)$/.exec(/\{[^{}]*$/.exec(before)?.[0] ?? "");
  const start = at - (quoted && (before.match(/"/g)?.length ?? 0) % 2 === 1 ? quoted[1].length : word().length);
  field.setRangeText(text, start, at, "end");
  choices.hide();
}

/** Asks whether the expression can be read, and shows where it can't. */
async function check() {
  const query = field.value;
  if (!query.trim()) {
    problem.textContent = "";
    field.removeAttribute("aria-invalid");
    return;
  }
  const body = new URLSearchParams({ query: query.replaceAll("$window", SOME_WINDOW) });
  const answer = await fetch("/api/v1/parse_query", { method: "POST", body, signal: AbortSignal.timeout(LIMIT_MS) }).then((answer) => answer.json()).catch(() => null);
  if (!answer || query !== field.value) return;
  problem.textContent = answer.status === "success" ? "" : place(query, answer.error);
  field.setAttribute("aria-invalid", String(answer.status !== "success"));
}

/** The message below the line that it is about, with a mark at its place. @param {string} query @param {string} message */
function place(query, message) {
  const found = /(\d+):(\d+): (?:parse error: )?(.*)/.exec(message);
  if (!found) return message;
  const line = query.split("\n")[Number(found[1]) - 1] ?? "";
  const column = Number(found[2]);
  return `${line}\n${" ".repeat(Math.max(0, column - 1))}^ ${found[3]}`;
}

/** @returns {string[]} */
function kept() {
  try {
    const stored = JSON.parse(localStorage.getItem(STORED) ?? "[]");
    return Array.isArray(stored) ? stored.filter((one) => typeof one === "string") : [];
  } catch {
    return [];
  }
}

/** Remembers the query that is shown, and lists those before it. */
function remember() {
  const query = field.value.trim();
  const last = kept().filter((one) => one !== query);
  try {
    if (query && !problem.textContent) localStorage.setItem(STORED, JSON.stringify([query, ...last].slice(0, KEPT)));
  } catch {
    // A browser that keeps nothing shows no last queries.
  }
  const place = document.getElementById("last");
  if (!place || last.length === 0) return;
  place.hidden = false;
  place.querySelector("ul")?.replaceChildren(...last.map((one) => {
    const item = document.createElement("li");
    const link = document.createElement("a");
    const url = new URL(location.href);
    url.searchParams.set("query", one);
    link.href = url.pathname + url.search;
    link.textContent = one;
    link.title = one;
    // Its range is that of the page, which may change.
    link.dataset.ranged = "";
    item.append(link);
    return item;
  }));
}

let checking = 0;
field.addEventListener("input", () => {
  complete();
  clearTimeout(checking);
  checking = setTimeout(check, 300);
});
field.addEventListener("blur", () => choices.hide());
field.addEventListener("keydown", (event) => {
  // Choices take Enter before this where one is selected.
  if (event.key === "Enter" && !event.shiftKey && !event.isComposing && !event.defaultPrevented) {
    event.preventDefault();
    form.requestSubmit();
  }
});
form.addEventListener("submit", (event) => {
  event.preventDefault();
  const url = new URL(location.href);
  url.searchParams.set("query", field.value);
  // An address that differs by its fragment alone is not loaded.
  url.hash = "";
  location.assign(url);
});
remember();
if (problem.textContent) problem.textContent = place(field.value, problem.textContent);
