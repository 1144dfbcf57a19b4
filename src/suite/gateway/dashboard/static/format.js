// Values as people read them.

const UNITS = ["B", "KiB", "MiB", "GiB", "TiB", "PiB"];

/** A size, in the units of the command line. @param {number} count */
export function bytes(count) {
  if (!count) return "0";
  const power = Math.min(Math.floor(Math.log2(Math.abs(count)) / 10), UNITS.length - 1);
  const value = count / 1024 ** power;
  return `${value >= 100 || power === 0 ? Math.round(value) : value.toFixed(1)} ${UNITS[power]}`;
}

/** @param {number} value */
export function count(value) {
  return value >= 1e6 ? `${(value / 1e6).toFixed(1)} M` : value.toLocaleString("en");
}

/** A model's number of parameters. @param {number} value */
export function parameters(value) {
  if (!value) return "";
  if (value >= 1e9) return `${(value / 1e9).toPrecision(2)} B`;
  return value >= 1e6 ? `${Math.round(value / 1e6)} M` : `${Math.round(value / 1e3)} K`;
}

/** @param {number} seconds */
export function duration(seconds) {
  if (seconds < 0.9995) return `${Math.round(seconds * 1000)} ms`;
  if (seconds < 60) return `${seconds < 10 ? seconds.toFixed(1) : Math.round(seconds)} s`;
  if (seconds < 3600) return `${Math.floor(seconds / 60)} min ${Math.round(seconds % 60)} s`;
  if (seconds < 86400) return `${Math.floor(seconds / 3600)} h ${Math.floor((seconds % 3600) / 60)} min`;
  return `${Math.floor(seconds / 86400)} d ${Math.floor((seconds % 86400) / 3600)} h`;
}

/** How long ago a time is. @param {string | number | Date} time @param {number} [now] */
export function ago(time, now = Date.now()) {
  const seconds = Math.max(0, (now - new Date(time).getTime()) / 1000);
  if (seconds < 60) return seconds < 2 ? "just now" : `${Math.round(seconds)} s ago`;
  return `${duration(seconds).split(" ").slice(0, 2).join(" ")} ago`;
}

const CLOCK = new Intl.DateTimeFormat("en-GB", {hour: "2-digit", minute: "2-digit", second: "2-digit"});
const DAY = new Intl.DateTimeFormat("en-GB", {year: "numeric", month: "short", day: "numeric"});

/** Hours, minutes and seconds, with milliseconds if asked. @param {string | number | Date} time @param {boolean} [fine] */
export function clock(time, fine = false) {
  const date = new Date(time);
  return CLOCK.format(date) + (fine ? `.${String(date.getMilliseconds()).padStart(3, "0")}` : "");
}

/** Day and time. @param {string | number | Date} time */
export function moment(time) {
  return `${DAY.format(new Date(time))}, ${clock(time)}`;
}
