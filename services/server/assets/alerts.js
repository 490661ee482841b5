// @ts-check
// What buttons of the page of alerts do: silence, end a silence, send a test to a receiver.

const LIMIT_MS = 20_000;
/** How long it stands there that something was done. What went wrong stands there until the next attempt. */
const DONE_MS = 10_000;
const SILENCES = "/api/v1/silences";
const said = /** @type {HTMLElement} */ (document.getElementById("said"));
const dialog = /** @type {HTMLDialogElement} */ (document.getElementById("silence"));
const form = /** @type {HTMLFormElement} */ (dialog.querySelector("form"));
const about = document.getElementById("silence-about");
const refusal = document.getElementById("silence-refusal");
/** Those of the alert that the dialog is about. */
let matchers = "";
/** What is asked of the server now. @type {Set<string>} */
const underWay = new Set();
let clearing = 0;

/** What a button asks of the server. @param {HTMLButtonElement} button */
function asked(button) {
  const { end, test } = button.dataset;
  if (end) return `${SILENCES}/${end}`;
  if (test) return `/api/v1/receivers/${encodeURIComponent(test)}/test`;
  return button.type === "submit" ? SILENCES : "";
}

/** Buttons work with scripts alone, so scripts show them. One whose request is under way does nothing, and keeps the focus, which a disabled one would lose. */
function show() {
  const buttons = document.querySelectorAll("#main button:is([data-silence], [data-end], [data-test]), #silence button[type=submit]");
  for (const button of /** @type {NodeListOf<HTMLButtonElement>} */ (buttons)) {
    button.hidden = false;
    if (underWay.has(asked(button))) button.setAttribute("aria-disabled", "true");
    else button.removeAttribute("aria-disabled");
  }
}

/** Asks the server to do something. Empty where that is done, else why it is not. @param {string} path @param {RequestInit} request */
async function send(path, request) {
  clearTimeout(clearing);
  said.textContent = "";
  underWay.add(path);
  show();
  try {
    // What changes something must be marked as JSON, even where it has no body.
    const headers = { "content-type": "application/json" };
    const answer = await fetch(path, { ...request, headers, signal: AbortSignal.timeout(LIMIT_MS) });
    const text = await answer.text();
    if (answer.ok) return "";
    let problem = text;
    try {
      problem = JSON.parse(text).error ?? text;
    } catch {
      // The answer is the sentence itself.
    }
    return problem || `The server answered ${answer.status}.`;
  } catch {
    return "The server does not answer.";
  } finally {
    underWay.delete(path);
    show();
    document.dispatchEvent(new Event("golectra:refresh"));
  }
}

/** @param {string} problem is empty where it was done @param {string} done */
function tell(problem, done) {
  clearTimeout(clearing);
  said.textContent = problem || done;
  said.classList.toggle("done", !problem);
  if (!problem) clearing = setTimeout(() => { said.textContent = ""; }, DONE_MS);
}

/** Opens the dialog for an alert. @param {string} title @param {string} labels as the API takes them */
function open(title, labels) {
  matchers = labels;
  const parts = JSON.parse(labels).flatMap((/** @type {{ name: string, value: string }} */ one) => {
    const label = Object.assign(document.createElement("span"), { className: "label" });
    label.append(`${one.name}=`, Object.assign(document.createElement("b"), { textContent: one.value }));
    return [" ", label];
  });
  about?.replaceChildren(Object.assign(document.createElement("b"), { textContent: title }), ...parts);
  if (refusal) refusal.textContent = "";
  dialog.showModal();
}

document.addEventListener("click", async (event) => {
  const button = /** @type {HTMLElement} */ (event.target).closest("button");
  if (!button || button.getAttribute("aria-disabled") === "true") return;
  const { silence, title, end, test } = button.dataset;
  if (silence) open(title ?? "", silence);
  else if (end) tell(await send(asked(button), { method: "DELETE" }), "The silence has ended.");
  else if (test) tell(await send(asked(button), { method: "POST" }), `${test} took the test.`);
  else if (button.value === "cancel") dialog.close();
});

form.addEventListener("submit", async (event) => {
  // It stays open until the silence is there.
  event.preventDefault();
  if (underWay.has(SILENCES)) return;
  const sent = matchers;
  const fields = new FormData(form);
  const body = JSON.stringify({ matchers: JSON.parse(sent), duration: fields.get("duration"), createdBy: fields.get("by"), comment: fields.get("comment") });
  if (refusal) refusal.textContent = "";
  const problem = await send(SILENCES, { method: "POST", body });
  // People may have closed it, and opened it for another alert.
  const isOpen = dialog.open && sent === matchers;
  if (isOpen && problem && refusal) {
    refusal.textContent = problem;
    return;
  }
  if (isOpen) dialog.close();
  tell(problem, "The alert is silenced.");
});

show();
new MutationObserver(show).observe(/** @type {HTMLElement} */ (document.getElementById("main")), { childList: true, subtree: true });

export {};
