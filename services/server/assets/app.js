// @ts-check
// What all pages do with scripts: they stay current, filter as one types, and find pages, nodes and metrics by Ctrl+K.
import { time } from "./format.js";

const PERIOD_MS = 5000;
const LIMIT_MS = 4500;
const live = document.getElementById("live");
const main = document.getElementById("main");

/** Times of the clock in the time zone of who looks. @param {ParentNode} part */
function localize(part) {
  for (const element of part.querySelectorAll("time[data-time]")) {
    const at = Date.parse(/** @type {HTMLTimeElement} */ (element).dateTime) / 1000;
    if (at) element.textContent = time(at, Date.now() / 1000 - at < 72_000 ? "second" : "full");
  }
  for (const element of part.querySelectorAll("time[data-clock]")) {
    const at = Number(/** @type {HTMLElement} */ (element).dataset.clock) / 1000;
    element.textContent = time(at, Date.now() / 1000 - at < 72_000 ? "time" : "full");
  }
}

/** Hides what the filter does not let through, before the server has answered. */
function filter() {
  const input = /** @type {HTMLInputElement | null} */ (document.querySelector("input[data-filter=rows]"));
  if (!input) return;
  const text = input.value.toLowerCase();
  for (const row of document.querySelectorAll("tr[data-text]")) {
    /** @type {HTMLElement} */ (row).hidden = !(/** @type {HTMLElement} */ (row).dataset.text ?? "").toLowerCase().includes(text);
  }
}

/** What names an element in the page of now and in the next one. @param {Element | null} element */
function path(element) {
  if (!element || !main?.contains(element)) return null;
  if (element.id) return `#${CSS.escape(element.id)}`;
  const link = element.getAttribute("href");
  const part = element.closest("[data-live]")?.getAttribute("data-live");
  return link && part ? `[data-live="${part}"] [href="${CSS.escape(link)}"]` : null;
}

/** Fetches the page again and replaces the parts that changed. */
async function refresh() {
  try {
    const answer = await fetch(location.href, { signal: AbortSignal.timeout(LIMIT_MS) });
    if (!answer.ok) throw new Error(String(answer.status));
    const next = new DOMParser().parseFromString(await answer.text(), "text/html");
    const here = [...document.querySelectorAll("[data-live]")];
    const there = [...next.querySelectorAll("[data-live]")];
    const names = (/** @type {Element[]} */ parts) => parts.map((part) => part.getAttribute("data-live")).join();
    if (names(here) !== names(there)) {
      // The page has other parts than before: the first node, for example.
      if (!document.querySelector("figure.graph")) main?.replaceChildren(...(next.getElementById("main")?.childNodes ?? []));
    } else {
      const focused = path(document.activeElement);
      here.forEach((part, index) => {
        localize(there[index]);
        if (part.innerHTML !== there[index].innerHTML) part.replaceChildren(...there[index].childNodes);
      });
      if (focused && document.activeElement === document.body) /** @type {HTMLElement | null} */ (document.querySelector(focused))?.focus({ preventScroll: true });
    }
    if (main) localize(main);
    filter();
    document.dispatchEvent(new Event("golectra:refreshed"));
    say("live", false);
  } catch {
    say("the server does not answer", true);
  }
}

/** @param {string} text @param {boolean} lost */
function say(text, lost) {
  if (!live || live.textContent === text) return;
  live.textContent = text;
  live.classList.toggle("lost", lost);
}

let typing = 0;
document.addEventListener("input", (event) => {
  const input = /** @type {HTMLInputElement} */ (event.target);
  if (!input.dataset.filter) return;
  const url = new URL(location.href);
  if (input.value) url.searchParams.set("find", input.value);
  else url.searchParams.delete("find");
  history.replaceState(null, "", url);
  filter();
  if (input.dataset.filter === "metrics") {
    clearTimeout(typing);
    typing = setTimeout(refresh, 250);
  }
});

/** Opens the search over everything. */
async function search() {
  const { open } = await import("./palette.js");
  open();
}
const button = document.getElementById("search");
if (button) {
  button.hidden = false;
  button.addEventListener("click", search);
}
document.addEventListener("keydown", (event) => {
  const writing = event.target instanceof Element && event.target.matches("input, textarea, select");
  if ((event.key === "k" && (event.ctrlKey || event.metaKey)) || (event.key === "/" && !writing)) {
    event.preventDefault();
    search();
  }
});

if (main) localize(main);
filter();
// The range of the page is part of its address: what the server says about that range comes with it.
if (document.querySelector(".ranges")) {
  const range = await import("./window.js");
  if (!document.querySelector("figure.graph")) range.start();
  range.onChange(refresh);
}
if (document.getElementById("query")) import("./explore.js");
if (document.getElementById("silence")) import("./alerts.js");
document.addEventListener("golectra:refresh", refresh);
say("live", false);
setInterval(() => { if (!document.hidden) refresh(); }, PERIOD_MS);
document.addEventListener("visibilitychange", () => { if (!document.hidden) refresh(); });
