// @ts-check
// How values and times are written: the same as on the server.

/** @param {number} value @returns {string} at most three digits where there is a fraction */
export function threeDigits(value) {
  const size = Math.abs(value);
  if (size !== 0 && size < 0.001) return value.toExponential(1);
  const places = size >= 100 || Number.isInteger(value) ? 0 : size >= 10 ? 1 : size >= 1 ? 2 : 3;
  const text = String(Number(value.toFixed(places)));
  return size >= 1000 ? text.replace(/\B(?=(\d{3})+$)/g, ",") : text;
}

/** @param {number} seconds @returns {string} in a unit that leaves few digits */
function duration(seconds) {
  const size = Math.abs(seconds);
  if (size === 0) return "0 s";
  if (size < 0.001) return `${threeDigits(seconds * 1e6)} µs`;
  if (size < 1) return `${threeDigits(seconds * 1000)} ms`;
  if (size < 120) return `${threeDigits(seconds)} s`;
  if (size < 7200) return `${threeDigits(seconds / 60)} min`;
  return size < 172_800 ? `${threeDigits(seconds / 3600)} h` : `${threeDigits(seconds / 86_400)} d`;
}

/** @param {number} value @param {number} base @param {string[]} units */
function scaled(value, base, units) {
  let unit = 0;
  while (Math.abs(value) >= base && unit + 1 < units.length) {
    value /= base;
    unit += 1;
  }
  return `${threeDigits(value)} ${units[unit]}`.trimEnd();
}

/** @param {number | null | undefined} value @param {string} unit */
export function format(value, unit) {
  if (value === null || value === undefined || Number.isNaN(value)) return "–";
  if (!Number.isFinite(value)) return value > 0 ? "∞" : "-∞";
  switch (unit) {
    case "percent": return `${threeDigits(value * 100)} %`;
    case "bytes": return scaled(value, 1024, ["B", "KiB", "MiB", "GiB", "TiB", "PiB"]);
    case "bytes_per_second": return scaled(value, 1024, ["B/s", "KiB/s", "MiB/s", "GiB/s", "TiB/s"]);
    case "cores": return threeDigits(value);
    case "per_second": return `${scaled(value, 1000, ["", "k", "M", "G"])}/s`;
    case "seconds": return duration(value);
    default: return scaled(value, 1000, ["", "k", "M", "G", "T"]);
  }
}

/** @type {Record<string, Intl.DateTimeFormatOptions>} */
const STYLES = {
  time: { hour: "2-digit", minute: "2-digit", hourCycle: "h23" },
  second: { hour: "2-digit", minute: "2-digit", second: "2-digit", hourCycle: "h23" },
  day: { day: "numeric", month: "short" },
  month: { month: "short", year: "numeric" },
  hour: { day: "numeric", month: "short", hour: "2-digit", minute: "2-digit", hourCycle: "h23" },
  full: { day: "numeric", month: "short", hour: "2-digit", minute: "2-digit", second: "2-digit", hourCycle: "h23" },
  dated: { day: "numeric", month: "short", year: "numeric", hour: "2-digit", minute: "2-digit", second: "2-digit", hourCycle: "h23" },
};
/** From here on a day alone may be that of another year, in seconds. */
const NEXT_YEAR = 300 * 86_400;

/** @type {Map<string, Intl.DateTimeFormat>} */
const formats = new Map();

/** @param {number} seconds unix time @param {keyof typeof STYLES} asked */
export function time(seconds, asked) {
  const style = asked === "full" && Math.abs(Date.now() / 1000 - seconds) > NEXT_YEAR ? "dated" : asked;
  let known = formats.get(style);
  if (!known) {
    known = new Intl.DateTimeFormat(style === "time" || style === "second" ? undefined : "en-GB", STYLES[style]);
    formats.set(style, known);
  }
  return known.format(seconds * 1000);
}
