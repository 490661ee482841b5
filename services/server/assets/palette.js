// @ts-check
// Ctrl+K: finds pages, nodes, pods and metrics.
import { Choices } from "./choices.js";

const MAX_SHOWN = 12;
const LIMIT_MS = 4000;

/** Sources that are no nodes: the unnamed one, what stands for others, and golectra's own. */
const NO_NODES = ["", "remote-write", "golectra-rules", "golectra-selfcheck"];
/** The server's own series, whose instances are servers. */
const OWN = `{job="golectra-server"}`;

/** @type {HTMLDialogElement | null} */
let dialog = null;
/** @type {import("./choices.js").Choice[]} */
let all = [];
/** Whether these are all that there are. */
let isLoaded = false;

/** @param {string} path @returns {Promise<any>} */
async function get(path) {
  const answer = await fetch(path, { signal: AbortSignal.timeout(LIMIT_MS) });
  if (!answer.ok) throw new Error(`the server answers ${answer.status}`);
  return answer.json();
}

async function load() {
  const pages = [...document.querySelectorAll(".top nav a")].map((link) => ({ text: link.textContent ?? "", note: "page", value: link.getAttribute("href") ?? "/" }));
  // What was found before stays until the answers are there.
  if (!isLoaded) all = pages;
  const recent = `start=${Math.floor(Date.now() / 1000) - 3600}`;
  const values = (/** @type {string} */ label) => get(`/api/v1/label/${label}/values?${recent}`);
  const own = get(`/api/v1/label/instance/values?${recent}&match[]=${encodeURIComponent(OWN)}`);
  const [sources, instances, servers, metrics, pods] = await Promise.allSettled([get("/api/v1/sources"), values("instance"), own, values("__name__"), values("pod")]);
  const named = sources.status === "fulfilled" ? (sources.value.sources ?? []).map((/** @type {{ name: string }} */ one) => one.name) : [];
  const of = (/** @type {PromiseSettledResult<any>} */ answer) => (answer.status === "fulfilled" ? answer.value.data ?? [] : []);
  const others = of(instances).filter((/** @type {string} */ name) => !of(servers).includes(name));
  const nodes = [...new Set([...named.filter((/** @type {string} */ name) => !NO_NODES.includes(name)), ...others])];
  isLoaded = [sources, instances, servers, metrics, pods].every((one) => one.status === "fulfilled");
  all = [
    ...pages,
    ...nodes.map((name) => ({ text: name, note: "node", value: `/node?name=${encodeURIComponent(name)}` })),
    ...of(metrics).map((/** @type {string} */ name) => ({ text: name, note: "metric", value: `/explore?query=${encodeURIComponent(/^[a-zA-Z_:][\w:]*$/.test(name) ? name : `{${JSON.stringify(name)}}`)}` })),
    // A name alone may be that of pods in several namespaces: the list shows them.
    ...of(pods).map((/** @type {string} */ name) => ({ text: name, note: "pod", value: `/pods?find=${encodeURIComponent(name)}` })),
  ];
}

export function open() {
  if (!dialog) {
    dialog = document.createElement("dialog");
    dialog.setAttribute("aria-label", "Search");
    const input = document.createElement("input");
    input.type = "search";
    input.placeholder = "A page, a node, a pod or a metric";
    input.setAttribute("aria-label", "Search pages, nodes, pods and metrics");
    dialog.append(input);
    const choices = new Choices(input, dialog, (choice) => location.assign(choice.value), "Found");
    const none = document.createElement("p");
    none.className = "none";
    none.setAttribute("role", "status");
    dialog.append(none);
    const show = (/** @type {string | undefined} */ kept) => {
      const words = input.value.toLowerCase().split(/\s+/).filter(Boolean);
      const found = all.filter((one) => words.every((word) => one.text.toLowerCase().includes(word)));
      found.sort((a, b) => Number(b.text.toLowerCase().startsWith(words[0] ?? "")) - Number(a.text.toLowerCase().startsWith(words[0] ?? "")));
      const shown = found.slice(0, MAX_SHOWN);
      const at = found.findIndex((one) => one.value === kept);
      if (at >= MAX_SHOWN) shown[MAX_SHOWN - 1] = found[at];
      choices.show(shown, Math.max(0, Math.min(at, MAX_SHOWN - 1)));
      none.textContent = found.length === 0 && isLoaded ? "Nothing has such a name." : "";
    };
    input.addEventListener("input", () => show(undefined));
    dialog.addEventListener("click", (event) => { if (event.target === dialog) dialog?.close(); });
    dialog.addEventListener("close", () => {
      input.value = "";
      choices.hide();
    });
    // Escape closes the dialog, not only the list.
    input.addEventListener("keydown", (event) => { if (event.key === "Escape") dialog?.close(); });
    document.body.append(dialog);
    // Answers come while people choose: what is selected stays selected.
    dialog.addEventListener("golectra:show", () => show(choices.choices[choices.at]?.value));
  }
  if (!dialog.open) dialog.showModal();
  const shown = dialog;
  const show = () => shown.dispatchEvent(new Event("golectra:show"));
  load().then(show);
  show();
}
