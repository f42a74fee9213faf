// Numbers, times and octets as people read them.

const COUNT = new Intl.NumberFormat("en");
const UTF8 = new TextDecoder("utf-8", { fatal: true, ignoreBOM: true });

/** 1234567 → 1,234,567. */
export function count(value) {
  return value === undefined || value === null || Number.isNaN(value) ? "–" : COUNT.format(value);
}

/** A rate or a big number, in three figures: 0.4, 12.5, 980, 1.24 k. */
export function short(value) {
  if (value === undefined || value === null || Number.isNaN(value)) return "–";
  for (const [size, unit] of [
    [1e9, " G"],
    [1e6, " M"],
    [1e3, " k"],
  ]) {
    if (value >= size) return `${(value / size).toPrecision(3)}${unit}`;
  }
  if (value >= 100 || Number.isInteger(value)) return String(Math.round(value));
  return value >= 10 ? value.toFixed(1) : value.toFixed(2).replace(/0$/, "");
}

/** 1536 → 1.5 KiB. */
export function size(octets) {
  if (octets === undefined || octets === null) return "–";
  for (const [unit, name] of [
    [2 ** 30, "GiB"],
    [2 ** 20, "MiB"],
    [2 ** 10, "KiB"],
  ]) {
    if (octets >= unit) return `${(octets / unit).toFixed(1).replace(/\.0$/, "")} ${name}`;
  }
  return octets === 1 ? "1 octet" : `${octets} octets`;
}

/** A latency in seconds: 25 µs, 1.4 ms, 2.1 s. */
export function latency(seconds) {
  if (seconds === undefined || seconds === null || Number.isNaN(seconds)) return "–";
  if (seconds < 0.001) return `${Math.round(seconds * 1e6)} µs`;
  if (seconds < 1) return `${(seconds * 1e3).toPrecision(seconds < 0.1 ? 2 : 3)} ms`;
  return `${seconds.toPrecision(2)} s`;
}

/** A length of time in milliseconds, in one unit. */
export function duration(ms) {
  if (ms < 1_000) return `${Math.round(ms)} ms`;
  if (ms < 10_000) return `${(ms / 1_000).toFixed(1)} s`;
  for (const [unit, name] of [
    [86_400_000, "d"],
    [3_600_000, "h"],
    [60_000, "min"],
  ]) {
    if (ms >= 2 * unit) return `${Math.floor(ms / unit)} ${name}`;
  }
  return `${Math.round(ms / 1_000)} s`;
}

/** `duration` ago; a negative one is no known moment. */
export function ago(ms) {
  return ms < 0 ? "never" : ms < 1_000 ? "now" : `${duration(ms)} ago`;
}

/** Milliseconds since 1970 as local time, with seconds. */
export function moment(ms) {
  const date = new Date(ms);
  if (Number.isNaN(date.getTime())) return "not a time";
  const two = (number) => String(number).padStart(2, "0");
  const day = `${date.getFullYear()}-${two(date.getMonth() + 1)}-${two(date.getDate())}`;
  return `${day} ${two(date.getHours())}:${two(date.getMinutes())}:${two(date.getSeconds())}`;
}

/** base64 → octets. */
export function octets(base64) {
  return Uint8Array.from(atob(base64), (char) => char.charCodeAt(0));
}

/** Octets as text, if that is what they are: valid UTF-8 without control characters. */
export function asText(bytes) {
  try {
    const text = UTF8.decode(bytes);
    return /[\u0000-\u0008\u000b\u000c\u000e-\u001f\u007f-\u009f]/.test(text) ? null : text;
  } catch {
    return null;
  }
}

/** A key (one character per octet) as people read it: text, or with \xNN where it is none. */
export function keyText(key) {
  const bytes = Uint8Array.from(key, (char) => char.charCodeAt(0));
  const text = asText(bytes);
  if (text !== null)
    return text.replace(/[\n\r\t\u2028\u2029\u202a-\u202e\u2066-\u2069]/g, (char) => escaped(char));
  return [...bytes]
    .map((octet) => (octet > 32 && octet < 127 ? String.fromCharCode(octet) : hex(octet, "\\x")))
    .join("");
}

function escaped(char) {
  return [...new TextEncoder().encode(char)].map((octet) => hex(octet, "\\x")).join("");
}

function hex(octet, before = "") {
  return before + octet.toString(16).padStart(2, "0");
}

/** A key in a URL: its octets, those that may stand there as they are. */
export function keyPath(key) {
  return [...key]
    .map((char) => (/[A-Za-z0-9._~/:@-]/.test(char) ? char : hex(char.charCodeAt(0), "%").toUpperCase()))
    .join("");
}

/** The same, as part of a query. */
export function keyQuery(key) {
  return keyPath(key).replaceAll("/", "%2F");
}

/** The key that an escaped part of a URL stands for. */
export function keyOf(path) {
  return path.replace(/%([0-9A-Fa-f]{2})/g, (_, digits) => String.fromCharCode(parseInt(digits, 16)));
}

/** What somebody typed, as a key: its octets in UTF-8. */
export function keyTyped(text) {
  return String.fromCharCode(...new TextEncoder().encode(text));
}

/** Octets as a hex dump, sixteen to a line, at most `most` of them. */
export function dump(bytes, most = 4_096) {
  const lines = [];
  for (let at = 0; at < Math.min(bytes.length, most); at += 16) {
    const part = [...bytes.slice(at, at + 16)];
    const left = part.map((octet) => hex(octet)).join(" ");
    const right = part
      .map((octet) => (octet > 31 && octet < 127 ? String.fromCharCode(octet) : "·"))
      .join("");
    lines.push(`${at.toString(16).padStart(4, "0")}  ${left.padEnd(47)}  ${right}`);
  }
  if (bytes.length > most) lines.push(`… ${count(bytes.length - most)} more`);
  return lines.join("\n");
}
