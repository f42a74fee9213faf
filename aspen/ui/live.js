// What the node says of itself, asked every two seconds while somebody looks, and the last five minutes of it.
// Rates and quantiles are differences between two answers of /metrics (docs/metrics.md has the names).

import { ApiError, json, get } from "./api.js";

export const EVERY_MS = 2_000;
export const SPAN_MS = 300_000;
const WINDOW = 5; // samples that a latency is taken over

/** Prometheus' text format, as far as this node writes it: name → [{labels, value}]. */
function parseMetrics(text) {
  const families = new Map();
  for (const line of text.split("\n")) {
    const found = /^([a-zA-Z_:][\w:]*)(?:\{(.*)\})? (\S+)/.exec(line);
    if (!found) continue;
    const labels = {};
    for (const [, name, value] of (found[2] ?? "").matchAll(/(\w+)="((?:[^"\\]|\\.)*)"/g))
      labels[name] = value;
    const samples = families.get(found[1]) ?? [];
    samples.push({ labels, value: Number(found[3]) });
    families.set(found[1], samples);
  }
  return families;
}

/** The value of a metric that has no labels, or of those of its samples that `where` takes, summed. */
export function value(metrics, name, where = () => true) {
  const samples = metrics?.get(name)?.filter(({ labels }) => where(labels));
  return samples?.length ? samples.reduce((sum, sample) => sum + sample.value, 0) : undefined;
}

/** A histogram's buckets, `[upper bound, how many took no longer]`, summed over its labels. */
function buckets(metrics, name, where = () => true) {
  const sums = new Map();
  for (const { labels, value } of metrics?.get(`${name}_bucket`) ?? []) {
    if (!where(labels)) continue;
    const bound = labels.le === "+Inf" ? Infinity : Number(labels.le);
    sums.set(bound, (sums.get(bound) ?? 0) + value);
  }
  return [...sums].sort((one, other) => one[0] - other[0]);
}

/** The quantile of what came between two states of a histogram; undefined if nothing came. */
function quantile(before, after, q) {
  const old = new Map(before);
  const grown = after.map(([bound, number]) => [bound, number - (old.get(bound) ?? 0)]);
  const all = grown.at(-1)?.[1] ?? 0;
  if (all <= 0) return undefined;
  let [floor, below] = [0, 0];
  for (const [bound, number] of grown) {
    if (number >= q * all) {
      if (bound === Infinity) return floor;
      return floor + ((bound - floor) * (q * all - below)) / Math.max(number - below, 1);
    }
    [floor, below] = [bound, number];
  }
  return floor;
}

/** A counter's growth per second; undefined over a restart, after which it counts from 0. */
function growth(name, where) {
  return (now, before, seconds) => {
    const [after, old] = [value(now, name, where), value(before, name, where) ?? 0];
    return after === undefined || after < old ? undefined : (after - old) / seconds;
  };
}

function spread(name, q, where) {
  return (now, before) => quantile(buckets(before, name, where), buckets(now, name, where), q);
}

/** The node's latest answers and the samples that plots are made of. */
class Live {
  status = null;
  health = null;
  metrics = null;
  error = null;
  answeredAt = 0;
  samples = [];
  #listeners = new Set();
  #timer = 0;
  #asking = false;

  /** Call `listener` after each round, until `signal` is aborted. */
  follow(listener, signal) {
    this.#listeners.add(listener);
    signal?.addEventListener("abort", () => this.#listeners.delete(listener));
    if (this.answeredAt || this.error) listener();
  }

  /** Call `listener` once, when the node has answered. */
  next(listener) {
    const once = () => {
      if (!this.status) return;
      this.#listeners.delete(once);
      listener();
    };
    this.#listeners.add(once);
  }

  start() {
    document.addEventListener("visibilitychange", () => this.now());
    this.now();
  }

  /** Ask at once, and then again and again. */
  now() {
    clearTimeout(this.#timer);
    if (document.hidden || this.#asking) return;
    this.#asking = true;
    this.#round().finally(() => {
      this.#asking = false;
      if (!document.hidden) this.#timer = setTimeout(() => this.now(), EVERY_MS);
    });
  }

  async #round() {
    try {
      const status = await json("/v1/cluster/status");
      const [text, health] = await Promise.all([
        get("/metrics").then((answer) => answer.text()),
        json("/health", { also: [503] }),
      ]);
      Object.assign(this, {
        status,
        health,
        metrics: parseMetrics(text),
        error: null,
        answeredAt: Date.now(),
      });
      this.#sample();
    } catch (error) {
      this.error = error instanceof ApiError ? error : new ApiError(0, "failed", error.message);
    }
    for (const listener of this.#listeners) listener();
  }

  #sample() {
    const at = performance.now();
    this.samples.push({ at, metrics: this.metrics });
    while (this.samples.length && this.samples[0].at < at - SPAN_MS - EVERY_MS) this.samples.shift();
  }

  /** `[when, value]` for each sample but the first: `of(metrics now, metrics before, seconds between)`. */
  #series(of, window = 1) {
    return this.samples.slice(1).map((sample, at) => [sample.at, this.#between(at + 1, of, window)]);
  }

  /** What `of` says of one sample and the one `window` before it; undefined if nobody asked for a while. */
  #between(at, of, window = 1) {
    const [now, before] = [this.samples[at], this.samples[Math.max(0, at - window)]];
    const seconds = (now.at - before.at) / 1_000;
    return seconds > (window * 3 * EVERY_MS) / 1_000 ? undefined : of(now.metrics, before.metrics, seconds);
  }

  /** How fast a counter grows, per second. */
  rate(name, where) {
    return this.#series(growth(name, where));
  }

  /** A quantile of a histogram, in seconds, over the last ten. */
  quantile(name, q, where) {
    return this.#series(spread(name, q, where), WINDOW);
  }

  rateNow(name, where) {
    return this.samples.length > 1 ? this.#between(this.samples.length - 1, growth(name, where)) : undefined;
  }

  quantileNow(name, q, where) {
    return this.samples.length > 1
      ? this.#between(this.samples.length - 1, spread(name, q, where), WINDOW)
      : undefined;
  }

  /** The values a label has. */
  labels(name, label) {
    return [...new Set((this.metrics?.get(name) ?? []).map(({ labels }) => labels[label]))];
  }
}

export const live = new Live();
