// @ts-check
// Draws the graphs of a page from /api/v1/query_range. All of them share one time range, one cursor and one zoom.
import { format, time } from "./format.js";
import * as range from "./window.js";

/** The part of uPlot that is used here; the library is a script of its own. @type {any} */
const uPlot = /** @type {any} */ (globalThis).uPlot;

const AT_ONCE = 4;
const LIMIT_MS = 35_000;
const MAX_LINES = 64;
const COLOURS = 8;
/** Steps that are longer count back from the newest hour. */
const HOUR = 3600;
const STEPS = [10, 15, 30, 60, 120, 300, 600, 900, 1800, 3600, 7200, 14_400, 21_600, 43_200, 86_400, 172_800, 604_800];
/** A value counts for this long at least; many scrape once a minute. */
const LOOKBACK = 120;
/** Over how long the newest values are asked for: samples answer that, and where these are no longer kept, rollups of an hour still do. */
const NEWEST = 2 * HOUR;
/** A line whose newest value is older than this, in seconds, and than two steps has ended. */
const RECENT = 300;
/** The time between two graphs that are drawn before anybody sees them. */
const REST_MS = 1000;

/** From this step on, in seconds, there may be several samples between two values of a gauge. */
const SPREAD_STEP = 60;
/** With more lines, what they reach between two values would hide the lines. */
const SPREAD_LINES = 16;
/** A selector, with a number that its values are divided by or multiplied with. */
const SELECTOR = /^\s*((?:[a-zA-Z_:][\w:]*)?(?:\{(?:[^"'`{}]|"(?:[^"\\]|\\.)*")*\})?)\s*([*/]\s*[\d.]+)?\s*$/;
/** The label by which the least and the most of a series are told apart. */
const EXTREME = "golectra_extreme";

const DAY = 86_400;
/** How far apart the names of ticks are at least that have a day and an hour, in pixels. */
const HOUR_SPACE = 84;

/** @typedef {{ expr: string, name: string }} Line */
/** What a line has, and where it can be had the least and the most between two values. @typedef {{ name: string, values: (number | null)[], least?: (number | null)[], most?: (number | null)[] }} Series */

/** The time to which the keyboard has moved the cursor of all graphs, while one of them has the focus. @type {number | null} */
let chosen = null;
/** Where that was when the focus left its graph: the keyboard goes on from there in the next one. @type {number | null} */
let left = null;

let underWay = 0;
/** @type {(() => void)[]} */
const waiting = [];

/** Runs `work` when no more than a few others run: the server lets a few queries run at once as well. @template T @param {() => Promise<T>} work */
async function inTurn(work) {
  while (underWay >= AT_ONCE) await new Promise((resolve) => waiting.push(() => resolve(undefined)));
  underWay += 1;
  try {
    return await work();
  } finally {
    underWay -= 1;
    waiting.shift()?.();
  }
}

/** @param {Record<string, string>} metric @param {string} template */
function nameOf(metric, template) {
  if (template) return template.replace(/\{(\w+)\}/g, (_, label) => metric[label] ?? "");
  const labels = Object.entries(metric).filter(([name]) => name !== "__name__").map(([name, value]) => `${name}=${JSON.stringify(value)}`);
  if (metric.__name__) return `${metric.__name__}${labels.length > 0 ? `{${labels.join(", ")}}` : ""}`;
  // One label says what it is by its value.
  return labels.length === 1 ? Object.values(metric)[0] : labels.join(", ") || "value";
}

/** The indices of values without a neighbour: no line leads to them, so that only a point shows them. @param {any} chart @param {number} at @returns {number[] | null} */
function lonely(chart, at) {
  /** @type {(number | null | undefined)[]} */
  const values = chart.data[at];
  const found = [];
  for (let index = 0; index < values.length; index += 1) {
    if ((values[index] ?? null) !== null && (values[index - 1] ?? null) === null && (values[index + 1] ?? null) === null) found.push(index);
  }
  return found.length > 0 ? found : null;
}

/** The time that the cursor of a chart is at. @param {any} chart @returns {number | null} */
function pointed(chart) {
  const left = chart?.cursor.left ?? -1;
  return left < 0 ? null : chart.posToVal(left, "x");
}

/** Nothing comes from the server. */
class Unanswered extends Error {}

/** What is said of a question without an answer. @param {unknown} error */
function sentence(error) {
  if (error instanceof DOMException && error.name === "TimeoutError") return `The server has not answered within ${LIMIT_MS / 1000} seconds.`;
  return error instanceof Error ? error.message : String(error);
}

/** A time with its day where that may not be today. @param {number} at */
const clock = (at) => time(at, Math.abs(Date.now() / 1000 - at) < 72_000 ? "second" : "full");

/** A series whose values are the last ones of so many. @param {Series} one @param {number} count @returns {Series} */
function atEnd(one, count) {
  const fill = (/** @type {(number | null)[]} */ values) => [...Array(count - values.length).fill(null), ...values];
  return { name: one.name, values: fill(one.values), least: one.least && fill(one.least), most: one.most && fill(one.most) };
}

/** Values as they are drawn: infinite ones would leave no height to the others. @param {(number | null)[]} values */
function finite(values) {
  return values.map((value) => (Number.isFinite(value) ? value : null));
}

/** @param {string} text */
function number(text) {
  if (text === "+Inf") return Infinity;
  if (text === "-Inf") return -Infinity;
  return text === "NaN" ? null : Number(text);
}

class Graph {
  /** @param {HTMLElement} figure */
  constructor(figure) {
    this.figure = figure;
    this.unit = figure.dataset.unit ?? "number";
    this.stacked = figure.dataset.stacked === "true";
    this.top = figure.dataset.top ? Number(figure.dataset.top) : null;
    this.title = figure.dataset.title ?? "";
    this.plot = /** @type {HTMLElement} */ (figure.querySelector(".plot"));
    /** @type {any} */
    this.chart = null;
    /** What the chart is made of besides its values. */
    this.shape = "";
    /** The time that is drawn. */
    this.from = 0;
    this.to = 0;
    /** @type {number[]} */
    this.times = [];
    this.step = 0;
    /** @type {Series[]} */
    this.series = [];
    /** What the legend has for each of them. @type {HTMLElement[]} */
    this.items = [];
    /** Whether it has not been asked for yet in this range. */
    this.isDue = true;
    /** @type {AbortController | null} */
    this.loading = null;
    /** Whether its newest question is under way or waits for its turn. */
    this.isLoading = false;
    /** The time at which the cursor of the chart was that this one replaces. @type {number | null} */
    this.before = null;
    /** Whether its newest question has no answer; and whether that is since nothing came from the server. */
    this.isFailed = false;
    this.isUnanswered = false;
    this.legend = document.createElement("ul");
    this.legend.className = "legend";
    this.problem = document.createElement("p");
    this.problem.className = "note";
    this.problem.setAttribute("role", "status");
    this.when = document.createElement("span");
    this.when.className = "when";
    this.plot.append(this.when);
    this.at = document.createElement("p");
    this.at.className = "at";
    this.spoken = document.createElement("span");
    this.spoken.className = "unseen";
    this.spoken.setAttribute("aria-live", "polite");
    this.table = document.createElement("details");
    const summary = document.createElement("summary");
    summary.textContent = "Values";
    this.table.append(summary);
    this.table.addEventListener("toggle", () => this.tabulate());
    this.plot.tabIndex = 0;
    this.plot.setAttribute("role", "img");
    this.plot.setAttribute("aria-label", `${this.title}: loading`);
    this.plot.addEventListener("keydown", (event) => this.key(event));
    this.plot.addEventListener("blur", () => {
      // Where the window has lost the focus, the graph has it again with the window.
      if (document.activeElement === this.plot || chosen === null) return;
      [left, chosen] = [chosen, null];
      this.chart?.setCursor({ left: -10, top: -10 }, true, true);
    });
    // Browsers send such events without a movement too, as what is below a resting mouse changes.
    this.plot.addEventListener("mousemove", (event) => {
      if (event.movementX !== 0 || event.movementY !== 0) chosen = null;
    });
    figure.append(this.at, this.problem, this.legend, this.spoken, this.table);
    new ResizeObserver(() => this.chart?.setSize(this.size())).observe(this.plot);
  }

  size() {
    return { width: this.plot.clientWidth, height: this.plot.clientHeight };
  }

  /** @returns {Line[]} */
  lines() {
    return JSON.parse(this.figure.dataset.lines ?? "[]");
  }

  /** Asks the server and draws. */
  async load() {
    this.loading?.abort();
    const loading = new AbortController();
    this.loading = loading;
    this.isLoading = true;
    this.isUnanswered = false;
    this.isDue = false;
    const { from, to } = range.current();
    const least = (to - from) / Math.max(60, this.plot.clientWidth / 2);
    const step = STEPS.find((step) => step >= least) ?? STEPS[STEPS.length - 1];
    this.plot.classList.add("busy");
    try {
      // Multiples of several days since 1970 would leave out the newest days. Where there is nothing at these times, the series may have begun since the last one:
      // then their newest values stand at the end. Of a long time they would be missing once more, since rollups end with the last full hour.
      for (const grid of [Math.min(step, HOUR), 1]) {
        const end = Math.floor(to / grid) * grid;
        const start = end - Math.max(0, Math.floor((end - from) / step)) * step;
        const [first, length] = grid === 1 ? [end, Math.min(step, NEWEST)] : [start, step];
        const answers = await Promise.all(this.lines().map((line) => inTurn(() => ask(line, first, end, length, loading.signal))));
        if (loading.signal.aborted) return;
        this.isFailed = false;
        const steps = Math.floor((end - start) / step) + 1;
        this.times = Array.from({ length: steps }, (_, index) => start + index * step);
        this.step = step;
        this.series = answers.flat().map((one) => atEnd(one, steps));
        if (this.series.length > 0) break;
      }
      // The server sorts series by their labels, and an answer that it cut has more than these too.
      const isCut = this.series.length > MAX_LINES;
      this.series.splice(MAX_LINES);
      this.problem.classList.toggle("none", this.series.length === 0);
      this.problem.textContent = isCut ? `Only ${MAX_LINES} lines are drawn, the first by their labels.` : this.series.length === 0 ? "No values in this time." : "";
      this.draw(from, to);
    } catch (error) {
      if (loading.signal.aborted) return;
      this.isFailed = true;
      this.isUnanswered = error instanceof Unanswered;
      this.problem.classList.remove("none");
      this.problem.textContent = sentence(error);
      if (!this.chart) this.plot.setAttribute("aria-label", `${this.title}: ${this.problem.textContent}`);
    } finally {
      if (this.loading === loading) {
        this.isLoading = false;
        this.plot.classList.remove("busy");
      }
    }
  }

  /** The lines whose spread is drawn. */
  spread() {
    if (this.stacked || this.series.length > SPREAD_LINES) return [];
    return this.series.flatMap((one, index) => (one.least && one.most ? [{ index, least: one.least, most: one.most }] : []));
  }

  /** A value of a line, with what it reached since so many values before. @param {Series} one @param {number} index @param {number} over */
  text(one, index, over = 1) {
    const value = format(one.values[index], this.unit);
    const within = (/** @type {(number | null)[]} */ values) => values.slice(Math.max(0, index - over + 1), index + 1).filter((value) => value !== null);
    const [low, high] = [Math.min(...within(one.least ?? one.values)), Math.max(...within(one.most ?? one.values))];
    return low < high ? `${value} (${format(low, this.unit)} to ${format(high, this.unit)})` : value;
  }

  /** The values as they are drawn: stacked ones on top of each other. */
  drawn() {
    const drawn = this.series.map((one) => finite(one.values));
    if (!this.stacked) return drawn;
    const sums = this.times.map(() => 0);
    return drawn.map((values) => values.map((value, index) => (value === null ? null : (sums[index] += value))));
  }

  /** @param {number} from @param {number} to */
  draw(from, to) {
    const colours = palette();
    const spread = this.spread();
    const data = [this.times, ...this.drawn(), ...spread.flatMap(({ most, least }) => [finite(most), finite(least)])];
    const isLong = to - from > 90_000;
    // By the distance of two ticks.
    const style = (/** @type {number} */ tick) => (!isLong ? (tick < 60 ? "second" : "time") : tick < DAY ? "hour" : tick < 28 * DAY ? "day" : "month");
    const line = getComputedStyle(this.plot).getPropertyValue("--line");
    const soft = getComputedStyle(this.plot).getPropertyValue("--soft");
    [this.from, this.to] = [from, to];
    const shape = JSON.stringify([isLong, line, soft, colours, this.series.map((one) => one.name), spread.map(({ index }) => index)]);
    // A chart that has the same lines as before stays, and with it a cursor that rests on it.
    if (this.chart && this.shape === shape) {
      this.chart.batch(() => this.chart.setData(data));
      this.restore(this.chart);
      this.tell(this.chart.cursor.idx);
      this.tabulate();
      return;
    }
    this.shape = shape;
    this.before = pointed(this.chart);
    this.chart?.destroy();
    this.chart = null;
    this.items = [];
    const axis = { stroke: soft, grid: { stroke: line, width: 1 }, ticks: { show: false }, font: "11px system-ui, sans-serif" };
    const top = this.top;
    // Many lines are easier to tell apart where they are thin, and a browser draws them in a fraction of the time.
    const width = this.series.length > COLOURS ? 1 : 1.4;
    this.chart = new uPlot({
      ...this.size(),
      legend: { show: false },
      // The text of the last tick stands beside the end of the axis with half of its width.
      padding: [10, isLong ? 36 : 24, 0, 0],
      cursor: {
        sync: { key: "golectra", scales: ["x", null], setSeries: false },
        drag: { x: true, y: false, setScale: false },
        points: { size: 6 },
        y: false,
      },
      select: { show: true },
      scales: {
        x: { time: true, range: () => [this.from, this.to] },
        y: { range: (/** @type {any} */ _, /** @type {number} */ low, /** @type {number} */ high) => scale(low, high, top) },
      },
      axes: [
        { ...axis, space: isLong ? HOUR_SPACE : 56, size: 24,
          values: (/** @type {any} */ _, /** @type {number[]} */ splits, /** @type {number} */ __, /** @type {number} */ ___, /** @type {number} */ tick) => splits.map((at) => time(at, style(tick))) },
        { ...axis, space: 34, gap: 4, size: (/** @type {any} */ _, /** @type {string[] | null} */ texts) => 12 + 6.4 * Math.max(2, ...(texts ?? []).map((text) => text.length)), values: (/** @type {any} */ _, /** @type {number[]} */ splits) => splits.map((value) => format(value, this.unit)),
          incrs: this.unit.startsWith("bytes") ? BINARY : undefined },
      ],
      series: [{}, ...this.series.map((one, index) => ({
        label: one.name,
        stroke: colours[index % COLOURS],
        width,
        fill: this.stacked && index === 0 || !this.stacked && this.series.length === 1 && spread.length === 0 ? `${colours[index % COLOURS]}2b` : undefined,
        points: { show: false, size: 5, fill: colours[index % COLOURS], filter: lonely },
      })), ...spread.flatMap(() => [{ width: 0, points: { show: false } }, { width: 0, points: { show: false } }])],
      bands: this.stacked
        ? this.series.slice(1).map((_, index) => ({ series: [index + 2, index + 1], fill: `${colours[(index + 1) % COLOURS]}2b` }))
        : spread.map(({ index }, at) => ({ series: [this.series.length + 2 * at + 1, this.series.length + 2 * at + 2], fill: `${colours[index % COLOURS]}40` })),
      hooks: {
        ready: [(/** @type {any} */ chart) => this.restore(chart)],
        draw: [(/** @type {any} */ chart) => this.mark(chart)],
        setCursor: [(/** @type {any} */ chart) => this.tell(chart.cursor.idx)],
        setSelect: [(/** @type {any} */ chart) => {
          const { left, width } = chart.select;
          if (width < 4) return;
          const [first, last] = [left, left + width].map((at) => chart.posToVal(at, "x"));
          // A selection that stays, since the next request failed, would keep the page's graphs from being drawn anew.
          chart.setSelect({ left: 0, top: 0, width: 0, height: 0 }, false);
          range.zoom(first, last);
        }],
      },
    }, data, this.plot);
    this.chart.over.addEventListener("dblclick", () => {
      const half = (this.to - this.from) / 2;
      range.zoom(this.from - half, this.to + half);
    });
    this.list(colours);
    this.tabulate();
  }

  /** Puts the cursor back to where the keyboard has moved that of all graphs, or to where that of the chart before was: a mouse that rests moves it no more. @param {any} chart */
  restore(chart) {
    const at = chosen ?? this.before;
    this.before = null;
    if (at === null) return;
    const isWithin = this.from <= at && at <= this.to;
    chart.setCursor(isWithin ? { left: chart.valToPos(at, "x"), top: 10 } : { left: -10, top: -10 });
  }

  /** Whether someone selects a part of it now. */
  isDragged() {
    return (this.chart?.select.width ?? 0) >= 4;
  }

  /** Marks the events of the page's list on the time axis. @param {any} chart */
  mark(chart) {
    const { ctx, bbox } = chart;
    const ratio = devicePixelRatio || 1;
    ctx.save();
    for (const { at, colour } of happened) {
      if (at < chart.scales.x.min || at > chart.scales.x.max) continue;
      const x = Math.round(chart.valToPos(at, "x", true));
      ctx.strokeStyle = ctx.fillStyle = colour;
      ctx.globalAlpha = 0.35;
      ctx.lineWidth = ratio;
      ctx.setLineDash([3 * ratio, 3 * ratio]);
      ctx.beginPath();
      ctx.moveTo(x, bbox.top);
      ctx.lineTo(x, bbox.top + bbox.height);
      ctx.stroke();
      ctx.globalAlpha = 0.85;
      ctx.beginPath();
      ctx.moveTo(x - 4 * ratio, bbox.top - 6 * ratio);
      ctx.lineTo(x + 4 * ratio, bbox.top - 6 * ratio);
      ctx.lineTo(x, bbox.top);
      ctx.fill();
    }
    ctx.restore();
  }

  /** @param {string[]} colours */
  list(colours) {
    this.items = this.series.map((one, index) => {
      const item = document.createElement("li");
      const mark = document.createElementNS("http://www.w3.org/2000/svg", "svg");
      mark.setAttribute("viewBox", "0 0 9 9");
      mark.setAttribute("aria-hidden", "true");
      const rect = document.createElementNS("http://www.w3.org/2000/svg", "rect");
      rect.setAttribute("width", "9");
      rect.setAttribute("height", "9");
      rect.setAttribute("rx", "2");
      rect.setAttribute("fill", colours[index % COLOURS]);
      mark.append(rect);
      const name = document.createElement("span");
      name.textContent = one.name;
      item.append(mark, name, document.createElement("b"));
      return item;
    });
    this.legend.replaceChildren(...this.items);
    this.legend.classList.toggle("long", this.series.length > 8);
    if (this.series.length > 8) this.legend.tabIndex = 0;
    else this.legend.removeAttribute("tabindex");
    this.tell(null);
  }

  /** The newest value of a line; with its time where the line has ended since. @param {Series} one */
  newest(one) {
    const at = one.values.findLastIndex((value) => value !== null);
    const text = format(one.values[at], this.unit);
    // A range may end in the future.
    const end = Math.min(this.times[this.times.length - 1], Date.now() / 1000);
    const hasEnded = !(end - this.times[at] <= Math.max(RECENT, 2 * this.step));
    return { text: hasEnded && at >= 0 ? `${text} at ${clock(this.times[at])}` : text, hasEnded };
  }

  /** Shows the values at the cursor, or the newest ones. @param {number | null | undefined} index */
  tell(index) {
    const at = index ?? null;
    const found = this.series.map((one) => (at === null ? this.newest(one) : { text: this.text(one, at), hasEnded: false }));
    for (const [place, item] of this.items.entries()) {
      const value = item.querySelector("b");
      if (!value || !found[place]) continue;
      value.textContent = found[place].text;
      value.classList.toggle("old", found[place].hasEnded);
    }
    const moment = at === null ? undefined : this.times[at];
    this.when.textContent = moment === undefined ? "" : clock(moment);
    const left = this.chart?.cursor.left ?? -1;
    const near = left < 0 ? [] : happened.filter(({ at }) => Math.abs(this.chart.valToPos(at, "x") - left) < 6);
    this.at.textContent = near.slice(0, 3).map(({ at, title }) => `${time(at, "second")} ${title}`).join(" · ");
    if (at !== null) return;
    // Lines that have ended come last.
    const order = [...found.keys()].sort((a, b) => Number(found[a].hasEnded) - Number(found[b].hasEnded));
    const items = order.map((place) => this.items[place]).filter(Boolean);
    if (items.some((item, place) => this.legend.children[place] !== item)) this.legend.replaceChildren(...items);
    const summary = order.slice(0, 4).map((place) => `${this.series[place].name} ${found[place].text}`).join(", ");
    this.plot.setAttribute("aria-label", `${this.title}: ${summary || "no values"}. Arrow keys move the cursor.`);
  }

  /** @param {KeyboardEvent} event */
  key(event) {
    const chart = this.chart;
    if (!chart || !["ArrowLeft", "ArrowRight", "Home", "End", "Escape"].includes(event.key)) return;
    event.preventDefault();
    const last = this.times.length - 1;
    const before = left ?? -Infinity;
    const found = this.times.findLastIndex((time) => time <= before);
    left = null;
    const at = chart.cursor.idx ?? (found < 0 ? last : found);
    const size = event.shiftKey ? 10 : 1;
    const next = { ArrowLeft: Math.max(0, at - size), ArrowRight: Math.min(last, at + size), Home: 0, End: last, Escape: -1 }[event.key] ?? last;
    chosen = next < 0 ? null : this.times[next];
    if (next < 0) {
      chart.setCursor({ left: -10, top: -10 }, true, true);
      return;
    }
    // The last argument moves the cursors of the other graphs too, as a mouse does.
    chart.setCursor({ left: chart.valToPos(this.times[next], "x"), top: 10 }, true, true);
    const values = this.series.slice(0, 6).map((one) => `${one.name} ${this.text(one, next)}`);
    this.spoken.textContent = `${time(this.times[next], "full")}: ${values.join(", ")}${this.at.textContent ? `. ${this.at.textContent}` : ""}`;
  }

  /** The values as a table, where someone has opened it. */
  tabulate() {
    let scroll = this.table.querySelector(".scroll");
    if (!this.table.open) {
      scroll?.remove();
      return;
    }
    // It stays when its table is replaced: people may have scrolled it.
    if (!scroll) {
      scroll = Object.assign(document.createElement("div"), { className: "scroll", tabIndex: 0 });
      scroll.setAttribute("role", "region");
      scroll.setAttribute("aria-label", `${this.title}: values`);
      this.table.append(scroll);
    }
    const table = document.createElement("table");
    const head = table.createTHead().insertRow();
    for (const title of ["Time", ...this.series.map((one) => one.name)]) {
      const cell = document.createElement("th");
      cell.scope = "col";
      cell.textContent = title;
      head.append(cell);
    }
    const body = table.createTBody();
    const every = Math.ceil(this.times.length / 120);
    for (let index = this.times.length - 1; index >= 0; index -= every) {
      const row = body.insertRow();
      const cell = document.createElement("th");
      cell.scope = "row";
      cell.textContent = time(this.times[index], "full");
      row.append(cell);
      for (const one of this.series) row.insertCell().textContent = this.text(one, index, every);
    }
    scroll.replaceChildren(table);
  }
}

const BINARY = Array.from({ length: 56 }, (_, power) => 2 ** power);

/** The lower and the upper end of the scale. @param {number | null} low @param {number | null} high @param {number | null} top */
function scale(low, high, top) {
  if (top !== null) return [Math.min(0, low ?? 0), Math.max(top, high ?? top)];
  if (low === null || high === null || (low === 0 && high === 0)) return [0, 1];
  const [from, to] = [Math.min(0, low), Math.max(0, high)];
  // Zero is on it, and no line lies on its edge but at zero.
  const room = (to - from) * 0.08;
  return [from < 0 ? from - room : 0, to > 0 ? to + room : 0];
}

/** The colours of lines in the current theme. */
function palette() {
  const style = getComputedStyle(document.documentElement);
  return Array.from({ length: COLOURS }, (_, index) => style.getPropertyValue(`--s${index + 1}`).trim());
}

/** @param {Line} line @param {number} start @param {number} end @param {number} step @param {AbortSignal} signal @returns {Promise<Series[]>} */
async function ask(line, start, end, step, signal) {
  const expr = line.expr.replaceAll("$window", `${Math.max(LOOKBACK, step)}s`);
  const [found, extremes] = await Promise.all([query(expr, start, end, step, signal), reached(expr, start, end, step, signal)]);
  return found.map(({ metric, values }) => ({ name: nameOf(metric, line.name), values, ...extremes.get(identity(metric)) }));
}

/** What the series of a gauge reached between two values. Rates are about all of the time between them. @param {string} expr @param {number} start @param {number} end @param {number} step @param {AbortSignal} signal */
async function reached(expr, start, end, step, signal) {
  /** @type {Map<string, { least?: (number | null)[], most?: (number | null)[] }>} */
  const all = new Map();
  const [, selector, factor = ""] = SELECTOR.exec(expr) ?? [];
  if (step < SPREAD_STEP || !selector) return all;
  const part = (/** @type {string} */ name) => `label_replace(${name}_over_time(${selector}[${step}s]) ${factor}, "${EXTREME}", "${name}", "", "")`;
  // Where they can't be had, as of samples that are no longer kept, the line stands for itself.
  const found = await query(`${part("min")} or ${part("max")}`, start, end, step, signal).catch(() => []);
  for (const { metric, values } of found) {
    const { [EXTREME]: extreme, ...labels } = metric;
    const key = identity(labels);
    all.set(key, { ...all.get(key), [extreme === "min" ? "least" : "most"]: values });
  }
  return all;
}

/** A series without its name, which functions leave out. @param {Record<string, string>} metric */
function identity(metric) {
  return JSON.stringify(Object.entries(metric).filter(([name]) => name !== "__name__").sort());
}

/** @param {string} expr @param {number} start @param {number} end @param {number} step @param {AbortSignal} signal @returns {Promise<{ metric: Record<string, string>, values: (number | null)[] }[]>} */
async function query(expr, start, end, step, signal) {
  const parameters = new URLSearchParams({ query: expr, start: String(start), end: String(end), step: String(step), lookback_delta: String(Math.max(LOOKBACK, step)), limit: String(MAX_LINES * 4) });
  const limits = AbortSignal.any([signal, AbortSignal.timeout(LIMIT_MS)]);
  const answer = await fetch("/api/v1/query_range", { method: "POST", body: parameters, signal: limits }).catch((error) => {
    // So browsers tell that there is no connection.
    throw error instanceof TypeError ? new Unanswered("The server does not answer.") : error;
  });
  const body = await answer.json().catch(() => ({ error: `The server answered ${answer.status}.` }));
  if (body.status !== "success") throw new Error(body.error ?? "The server does not answer.");
  const steps = Math.floor((end - start) / step) + 1;
  return body.data.result.map((/** @type {{ metric: Record<string, string>, values: [number, string][] }} */ found) => {
    /** @type {(number | null)[]} */
    const values = Array(steps).fill(null);
    for (const [at, value] of found.values) values[Math.round((at - start) / step)] = number(value);
    return { metric: found.metric, values };
  });
}

/** The events of the page's list. @type {{ at: number, title: string, colour: string }[]} */
let happened = [];

function readEvents() {
  const style = getComputedStyle(document.documentElement);
  happened = [...document.querySelectorAll("[data-event]")].map((item) => ({
    at: Number(/** @type {HTMLElement} */ (item).dataset.event) / 1000,
    title: item.querySelector("a")?.textContent ?? "",
    colour: style.getPropertyValue(`--${item.className === "info" ? "soft" : item.className}`).trim(),
  }));
}

const graphs = [...document.querySelectorAll("figure.graph")].map((figure) => new Graph(/** @type {HTMLElement} */ (figure)));
/** Those that were seen; others wait until they are. @type {Set<Graph>} */
const shown = new Set();
const seen = new IntersectionObserver((entries) => {
  for (const entry of entries) {
    const graph = graphs.find((one) => one.figure === entry.target);
    if (!graph || !entry.isIntersecting || shown.has(graph)) continue;
    shown.add(graph);
    graph.load();
  }
}, { rootMargin: "400px" });

/** Draws the same range anew. A graph whose question is under way is left alone: where answers take longer than the time between two calls, none would ever come. */
function renew() {
  for (const graph of shown) if (!graph.isLoading) graph.load();
}

let resting = 0;

/** Draws the graphs that nobody has seen yet, one after another while nothing else is asked for: a page that is printed has all of them. */
function rest() {
  clearTimeout(resting);
  resting = setTimeout(async () => {
    const next = graphs.find((graph) => graph.isDue && !shown.has(graph));
    // A hidden page goes on when it is seen again.
    if (!next || document.hidden) return;
    if (!graphs.some((graph) => graph.isLoading)) await next.load();
    if (!next.isUnanswered) rest();
  }, REST_MS);
}

let following = 0;

/** Ranges that end now go on, the short ones sooner. */
function follow() {
  clearTimeout(following);
  const { from, to, range: preset } = range.current();
  const period = Math.min(300, Math.max(10, (to - from) / 360));
  following = setTimeout(() => {
    // A graph that is drawn anew loses what someone is selecting.
    if (!document.hidden && ![...shown].some((graph) => graph.isDragged())) {
      // A range that has ended is asked for again only where there was no answer.
      for (const graph of shown) if ((preset || graph.isFailed) && !graph.isLoading) graph.load();
    }
    follow();
  }, period * 1000);
}

readEvents();
range.start();
range.onChange(() => {
  for (const graph of graphs) graph.isDue = true;
  for (const graph of shown) graph.load();
  follow();
  rest();
});
document.addEventListener("golectra:refreshed", () => {
  // The server answers again. What it refused or had no time for waits for its turn.
  for (const graph of shown) if (graph.isUnanswered) graph.load();
  const before = JSON.stringify(happened);
  readEvents();
  if (JSON.stringify(happened) !== before) for (const graph of graphs) graph.chart?.redraw(false);
});
// What a hidden page has not asked for is fetched as soon as someone sees it.
document.addEventListener("visibilitychange", () => {
  if (document.hidden) return;
  if (range.current().range) renew();
  rest();
});
matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => { readEvents(); renew(); });
for (const graph of graphs) seen.observe(graph.figure);
follow();
rest();
