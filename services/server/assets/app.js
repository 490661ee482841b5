// @ts-check
// What all pages do with scripts: they stay current, filter as one types, and find pages, nodes, pods and metrics by Ctrl+K.
import { time } from "./format.js";

/** How often this asks by itself where the server can't tell it to. */
const PERIOD_MS = 5000;
/** When it tries again to be told. */
const AGAIN_MS = 60_000;
/** A page may need several queries, of which each may take seconds. */
const LIMIT_MS = 20_000;
/** The same for a server that has been silent: it may be gone. */
const SILENT_LIMIT_MS = 10_000;
/** How long the page is changed without a break. */
const SLICE_MS = 12;
/** How long what people press or select stays as it is. */
const HELD_MS = 30_000;
const live = document.getElementById("live");
const main = document.getElementById("main");

/** Whether a time needs no day. @param {number} at unix seconds */
const isNear = (at) => Math.abs(Date.now() / 1000 - at) < 72_000;

/** Times of the clock in the time zone of who looks. @param {ParentNode} part */
function localize(part) {
  // A text that is replaced is not selected any more, even where it is the same.
  const put = (/** @type {Element} */ element, /** @type {string} */ text) => { if (element.textContent !== text) element.textContent = text; };
  for (const element of part.querySelectorAll("time[data-time]")) {
    const at = Date.parse(/** @type {HTMLTimeElement} */ (element).dateTime) / 1000;
    if (at) put(element, time(at, isNear(at) ? "second" : "full"));
  }
  for (const element of part.querySelectorAll("time[data-clock]")) {
    const at = Number(/** @type {HTMLElement} */ (element).dataset.clock) / 1000;
    put(element, time(at, isNear(at) ? "time" : "full"));
  }
}

/** Hides what the filter does not let through. The server filters as well, a moment later: it knows rows that are not shown. */
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
  const part = element.closest("[data-live]")?.getAttribute("data-live");
  if (!part) return null;
  if (element.matches("summary")) return `[data-live="${part}"] summary`;
  const name = ["href", "data-silence", "data-end", "data-test"].find((one) => element.getAttribute(one));
  return name ? `[data-live="${part}"] [${name}="${CSS.escape(element.getAttribute(name) ?? "")}"]` : null;
}

/** Carries over what scripts and people changed of a part, so that this alone is no difference. @param {Element} part @param {Element} next */
function carry(part, next) {
  // alerts.js shows the buttons of the page of alerts, and marks those whose request is under way.
  if (document.getElementById("silence")) {
    for (const button of next.querySelectorAll("button[hidden]:is([data-silence], [data-end], [data-test])")) /** @type {HTMLElement} */ (button).hidden = false;
    for (const button of part.querySelectorAll("button[aria-disabled]")) {
      const name = path(button);
      if (name) next.querySelector(name)?.setAttribute("aria-disabled", "true");
    }
  }
  const before = part.querySelectorAll("details");
  for (const [index, details] of [...next.querySelectorAll("details")].entries()) {
    if (before[index]) details.open = before[index].open;
  }
}

/** The server's scripts that a page loads; extensions and proxies may add others. @param {Document} page */
const scripts = (page) => [...page.querySelectorAll('head script[src^="/assets/"]')].map((script) => script.getAttribute("src")).join();

/** When a mouse button, a finger or the space bar went down that is still down. */
let pressedAt = -Infinity;
/** When people selected a text last. */
let selectedAt = -Infinity;
const press = () => { pressedAt = performance.now(); };
const release = () => { pressedAt = -Infinity; };

/** Whether somebody presses something, of which only an element that stays makes a click, or has selected a text of this. @param {Element} part */
function isHeld(part) {
  const now = performance.now();
  if (now - pressedAt < HELD_MS) return true;
  const selection = getSelection();
  return now - selectedAt < HELD_MS && selection !== null && !selection.isCollapsed && selection.getRangeAt(0).intersectsNode(part);
}

/** Whether a new page may come by itself. Two versions of the server may answer in turn, and nothing that people are at is to be lost. */
const mayReload = () => performance.now() > AGAIN_MS && !document.activeElement?.matches("input, textarea, select, dialog *") && !isHeld(document.body);

/** Lets what the browser has to do go first, so that nothing that people do waits for long. */
const breathe = () => new Promise((resolve) => setTimeout(resolve));

/** Replaces the content of a part; boxes stay scrolled as they are. @param {Element} part @param {Element} next */
function fill(part, next) {
  const boxes = () => [...part.querySelectorAll(".scroll, .events")];
  const places = boxes().map(({ scrollLeft, scrollTop }) => ({ scrollLeft, scrollTop }));
  part.replaceChildren(...next.childNodes);
  // To set a place makes the browser compute the layout at once.
  for (const [index, box] of boxes().entries()) if (places[index]?.scrollLeft || places[index]?.scrollTop) Object.assign(box, places[index]);
}

/** Replaces what changed of a part: single rows where its tables have the same rows as before. What is held is left to the next refresh. @param {Element} part @param {Element} next */
async function replace(part, next) {
  if (isHeld(part)) return;
  const [old, rows] = [part, next].map((one) => [...one.querySelectorAll("tr")]);
  const keys = (/** @type {Element[]} */ of) => of.map((row) => row.querySelector("th a, td a")?.getAttribute("href")).join("\n");
  const frame = (/** @type {Element} */ one) => one.innerHTML.replace(/<tbody>[^]*?<\/tbody>/g, "");
  if (rows.length < 2 || keys(old) !== keys(rows) || frame(part) !== frame(next)) {
    if (part.innerHTML !== next.innerHTML) fill(part, next);
    return;
  }
  let begun = performance.now();
  for (const [index, row] of rows.entries()) {
    if (old[index].outerHTML !== row.outerHTML && old[index].isConnected) old[index].replaceWith(row);
    if (performance.now() - begun > SLICE_MS) {
      await breathe();
      if (isHeld(part)) return;
      begun = performance.now();
    }
  }
}

let refreshing = false;
let again = false;
/** Whether somebody has chosen another time range that the page has not been fetched for. */
let isMoved = false;
/** Whether nothing has come from the server for long. */
let isSilent = false;

/** Fetches the page again and replaces the parts that changed. */
async function refresh() {
  if (refreshing) {
    again = true;
    return;
  }
  refreshing = true;
  // A choice allows one reload, not every later one.
  const moved = isMoved;
  isMoved = false;
  let problem = "the server does not answer";
  try {
    const answer = await fetch(location.href, { signal: AbortSignal.timeout(isSilent ? SILENT_LIMIT_MS : LIMIT_MS) });
    isSilent = false;
    if (!answer.ok) {
      problem = answer.status === 404 ? "this page is gone" : `the server answers ${answer.status}`;
      throw new Error(problem);
    }
    const text = await answer.text();
    await breathe();
    const next = new DOMParser().parseFromString(text, "text/html");
    await breathe();
    // Who is signed out gets a page without scripts; a server of another version sends other scripts.
    if (!scripts(next) || (scripts(next) !== scripts(document) && mayReload())) {
      location.reload();
      return;
    }
    // There was nothing to draw: another time range has graphs, or the first values have come.
    if (!document.querySelector("figure.graph") && next.querySelector("figure.graph") && (moved || mayReload())) {
      location.reload();
      return;
    }
    const here = [...document.querySelectorAll("[data-live]")];
    const there = [...next.querySelectorAll("[data-live]")];
    const names = (/** @type {Element[]} */ parts) => parts.map((part) => part.getAttribute("data-live")).join();
    if (names(here) !== names(there)) {
      // The page has other parts than before: the first node, for example. Graphs would have to be drawn anew.
      if (document.querySelector("figure.graph")) {
        if (mayReload()) location.reload();
        return;
      }
      if (main && !isHeld(main)) main.replaceChildren(...(next.getElementById("main")?.childNodes ?? []));
    } else {
      const focused = path(document.activeElement);
      for (const [index, part] of here.entries()) {
        localize(there[index]);
        carry(part, there[index]);
        await replace(part, there[index]);
        await breathe();
      }
      if (focused && document.activeElement === document.body) /** @type {HTMLElement | null} */ (document.querySelector(focused))?.focus({ preventScroll: true });
    }
    if (main) localize(main);
    filter();
    document.dispatchEvent(new Event("golectra:refreshed"));
    say("live", false);
  } catch {
    isMoved ||= moved;
    say(problem, true);
  } finally {
    refreshing = false;
  }
  if (again) {
    again = false;
    refresh();
  }
}

/** @param {string} text @param {boolean} lost */
function say(text, lost) {
  if (!live || live.textContent === text) return;
  live.textContent = text;
  live.classList.toggle("lost", lost);
}

for (const name of ["pointerup", "pointercancel", "keyup"]) addEventListener(name, release, true);
addEventListener("pointerdown", press, true);
addEventListener("keydown", (event) => { if (event.key === " ") press(); }, true);
// It may go up where the page does not see it, as outside of the window.
addEventListener("pointermove", (event) => { if (event.buttons === 0) release(); }, true);
document.addEventListener("selectionchange", () => { selectedAt = performance.now(); });

let typing = 0;
document.addEventListener("input", (event) => {
  const input = /** @type {HTMLInputElement} */ (event.target);
  if (!input.dataset.filter) return;
  const url = new URL(location.href);
  if (input.value) url.searchParams.set("find", input.value);
  else url.searchParams.delete("find");
  history.replaceState(null, "", url);
  filter();
  clearTimeout(typing);
  typing = setTimeout(refresh, 250);
});

/** Opens the search over everything. */
async function search() {
  try {
    const { open } = await import("./palette.js");
    open();
  } catch {
    say("the server does not answer", true);
  }
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
  range.onChange(() => {
    isMoved = true;
    refresh();
  });
}
if (document.getElementById("query")) import("./explore.js");
if (document.getElementById("silence")) import("./alerts.js");
document.addEventListener("golectra:refresh", refresh);
say("live", false);

/** The server's word that something is new. @type {EventSource | null} */
let stream = null;
let asking = 0;
let silence = 0;

/** A server that says nothing for long is gone, even where the connection does not say so. @param {EventSource} following */
function heard(following) {
  clearTimeout(silence);
  silence = setTimeout(() => {
    if (stream !== following) return;
    isSilent = true;
    leave();
    refresh();
    follow();
  }, 3 * PERIOD_MS);
}

/** Ends what it follows. */
function leave() {
  stream?.close();
  stream = null;
}

/** Follows the server while somebody sees the page: a browser has few connections for all of its tabs. */
function follow() {
  clearInterval(asking);
  if (document.hidden) {
    leave();
    return;
  }
  if (stream) return;
  const following = new EventSource("/stream");
  stream = following;
  heard(following);
  following.addEventListener("look", () => {
    isSilent = false;
    heard(following);
    refresh();
  });
  following.addEventListener("error", () => {
    refresh();
    // Otherwise the browser connects again by itself.
    if (following.readyState !== EventSource.CLOSED || stream !== following) return;
    stream = null;
    asking = setInterval(refresh, PERIOD_MS);
    setTimeout(follow, AGAIN_MS * (1 + Math.random()));
  });
}
follow();
document.addEventListener("visibilitychange", () => {
  if (!document.hidden) refresh();
  follow();
});
// A page that the browser keeps for the way back has no connection.
window.addEventListener("pagehide", leave);
window.addEventListener("pageshow", (event) => { if (event.persisted) { refresh(); follow(); } });
