// @ts-check
// What buttons of the page of alerts do: silence, end a silence, send a test to a receiver.

const LIMIT_MS = 20_000;
const said = /** @type {HTMLElement} */ (document.getElementById("said"));
const dialog = /** @type {HTMLDialogElement} */ (document.getElementById("silence"));
const form = /** @type {HTMLFormElement} */ (dialog.querySelector("form"));
let matchers = "";

/** Buttons work with scripts alone, so scripts show them. */
function show() {
  for (const button of document.querySelectorAll("button[hidden][data-silence], button[hidden][data-end], button[hidden][data-test]")) /** @type {HTMLElement} */ (button).hidden = false;
}

/** @param {string} path @param {RequestInit} request @param {string} done */
async function send(path, request, done) {
  said.textContent = "";
  try {
    // What changes something must be marked as JSON, even where it has no body.
    const headers = { "content-type": "application/json" };
    const answer = await fetch(path, { ...request, headers, signal: AbortSignal.timeout(LIMIT_MS) });
    const text = await answer.text();
    let problem = text;
    try {
      problem = JSON.parse(text).error ?? text;
    } catch {
      // The answer is the sentence itself.
    }
    said.textContent = answer.ok ? done : problem || `The server answered ${answer.status}.`;
  } catch {
    said.textContent = "The server does not answer.";
  }
  document.dispatchEvent(new Event("golectra:refresh"));
}

document.addEventListener("click", (event) => {
  const button = /** @type {HTMLElement} */ (event.target).closest("button");
  if (!button) return;
  const { silence, end, test } = button.dataset;
  if (silence) {
    matchers = silence;
    dialog.showModal();
  } else if (end) send(`/api/v1/silences/${end}`, { method: "DELETE" }, "The silence has ended.");
  else if (test) send(`/api/v1/receivers/${encodeURIComponent(test)}/test`, { method: "POST" }, `${test} took the test.`);
  else if (button.value === "cancel") dialog.close();
});

form.addEventListener("submit", () => {
  const fields = new FormData(form);
  const body = JSON.stringify({ matchers: JSON.parse(matchers), duration: fields.get("duration"), createdBy: fields.get("by"), comment: fields.get("comment") });
  send("/api/v1/silences", { method: "POST", body }, "The alert is silenced.");
});

show();
new MutationObserver(show).observe(/** @type {HTMLElement} */ (document.getElementById("main")), { childList: true, subtree: true });

export {};
