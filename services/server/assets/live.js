// Keeps the page current: the server renders it again, and the part that shows metrics is swapped.
const PERIOD_MS = 5000;
const LIMIT_MS = 4000;
const live = document.getElementById("live");

async function refresh() {
  try {
    const answer = await fetch(location.href, { signal: AbortSignal.timeout(LIMIT_MS) });
    if (!answer.ok) throw new Error(answer.status);
    const page = new DOMParser().parseFromString(await answer.text(), "text/html");
    const main = document.getElementById("main");
    const typing = document.activeElement;
    // A person who is typing a filter keeps what is typed.
    if (typing && typing.matches("input")) {
      page.querySelector("form").replaceWith(main.querySelector("form").cloneNode(true));
      const at = typing.selectionStart;
      const text = typing.value;
      main.replaceWith(page.getElementById("main"));
      const input = document.querySelector("input[type=search]");
      input.value = text;
      input.focus();
      input.setSelectionRange(at, at);
    } else {
      main.replaceWith(page.getElementById("main"));
    }
    live.textContent = "live";
  } catch {
    live.textContent = "the server does not answer";
  }
}

live.textContent = "live";
setInterval(() => { if (!document.hidden) refresh(); }, PERIOD_MS);
document.addEventListener("visibilitychange", () => { if (!document.hidden) refresh(); });
