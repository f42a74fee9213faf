// Requests to the node that served the page, and to no other. Where it wants its token, the page asks for it;
// it goes into a header, never into a URL, and is kept in memory or, if so wished, until the tab is closed.

import { askToken } from "./token.js";

const KEPT = "aspen-token";
const PATIENCE_MS = 10_000;

let token = kept();
let asking = null;
let declined = false;
const listeners = new Set();

/** What a node answers that is no success: `code` for programs, `reason` for people. */
export class ApiError extends Error {
  constructor(status, code, reason, body) {
    super(reason);
    Object.assign(this, { status, code, reason, body });
  }
}

function kept() {
  try {
    return sessionStorage.getItem(KEPT);
  } catch {
    return null;
  }
}

/** Whether a token is in use. */
export function hasToken() {
  return token !== null;
}

/** Hear when a token comes into use or goes. */
export function onToken(listener) {
  listeners.add(listener);
}

/** Let the next request that is refused for want of a token ask for one again. */
export function askAgain() {
  declined = false;
}

/** Use a token from now on (null: none), and remember it until the tab is closed if `keep`. */
export function useToken(text, keep) {
  token = text;
  try {
    if (text !== null && keep) sessionStorage.setItem(KEPT, text);
    else sessionStorage.removeItem(KEPT);
  } catch {
    // Then it lasts as long as the page.
  }
  listeners.forEach((listener) => listener());
}

async function ask(path, { signal, patience = PATIENCE_MS, headers = {} } = {}) {
  for (;;) {
    const used = token;
    const slow = patience ? AbortSignal.timeout(patience) : null;
    const signals = [signal, slow].filter(Boolean);
    let response;
    try {
      response = await fetch(path, {
        signal: signals.length ? AbortSignal.any(signals) : undefined,
        headers: used === null ? headers : { ...headers, Authorization: `Bearer ${used}` },
        cache: "no-store",
        redirect: "error",
        referrerPolicy: "no-referrer",
      });
    } catch (error) {
      if (signal?.aborted) throw error;
      const reason = slow?.aborted
        ? `the node didn’t answer within ${patience / 1_000} seconds`
        : "the node can’t be reached";
      throw new ApiError(0, "unreachable", reason);
    }
    if (response.status !== 401) return response;
    if (used === token) {
      if (!declined) {
        asking ??= askToken(used !== null).finally(() => (asking = null));
        const answer = await asking;
        if (answer === null) declined = true;
        else if (token === used) useToken(answer.token, answer.keep);
      }
      if (declined) throw new ApiError(401, "unauthorized", "this node wants its admin token");
    }
    signal?.throwIfAborted();
  }
}

async function refusal(response) {
  const body = await response.json().catch(() => ({}));
  return new ApiError(
    response.status,
    body.error ?? "error",
    body.reason ?? `the node answered ${response.status}`,
    body,
  );
}

/** The answer to a GET. Statuses in `also` are answers too. */
export async function get(path, { also = [], ...options } = {}) {
  const response = await ask(path, options);
  if (!response.ok && !also.includes(response.status)) throw await refusal(response);
  return response;
}

/** The answer to a GET, as JSON. */
export async function json(path, options) {
  return (await get(path, options)).json();
}

/** Events of a stream (HTML Living Standard §9.2.6), as long as it lasts: `{name, id, data}`. */
async function* events(path, { signal, from }) {
  const headers = {
    Accept: "text/event-stream",
    ...(from === undefined ? {} : { "Last-Event-ID": String(from) }),
  };
  const response = await get(path, { signal, patience: 0, headers });
  const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
  let rest = "";
  let event = { name: "message", data: [] };
  try {
    for (;;) {
      const { done, value } = await reader.read();
      if (done) return;
      const lines = (rest + value).split("\n");
      rest = lines.pop();
      for (const line of lines) {
        const [, field, text] = /^([^:]*):? ?(.*)$/.exec(line);
        if (line === "") {
          if (event.data.length) yield { ...event, data: JSON.parse(event.data.join("\n")) };
          event = { name: "message", data: [] };
        } else if (field === "data") event.data.push(text);
        else if (field === "event") event.name = text;
        else if (field === "id") event.id = Number(text);
      }
    }
  } finally {
    reader.cancel().catch(() => {});
  }
}

/** Watch as long as `signal` lets: `on(event)` for each from `since` on (else from now), going on where it was after
    a break; `state` hears how it stands. What may have been forgotten meanwhile is passed over, and `state` told. */
export async function watch(path, { signal, since, on, state }) {
  let from = since === undefined ? undefined : Math.max(0, since - 1);
  let wait = 1_000;
  while (!signal.aborted) {
    try {
      state("connecting");
      for await (const event of events(path, { signal, from })) {
        if (event.name === "end") throw new ApiError(200, event.data.error, event.data.reason, event.data);
        if (event.id !== undefined) from = event.id;
        wait = 1_000;
        state("live");
        on(event);
      }
    } catch (error) {
      if (signal.aborted) return;
      if (error.code === "compacted") from = undefined;
      if (error.status === 400 || error.status === 401 || error.status === 403) {
        state("ended", error);
        return;
      }
      state("broken", error);
    }
    await new Promise((resolve) => setTimeout(resolve, wait));
    wait = Math.min(wait * 2, 15_000);
  }
}
