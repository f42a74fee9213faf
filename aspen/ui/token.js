// The dialog that asks for the node's admin token.

import { h } from "./dom.js";

/** `{token, keep}`, or null if it was dismissed. `wrong`: another one was refused just now. */
export function askToken(wrong) {
  const input = h("input", {
    id: "token",
    type: "password",
    autocomplete: "off",
    spellcheck: "false",
    required: true,
    "aria-describedby": "token-why",
  });
  const keep = h("input", { id: "token-keep", type: "checkbox" });
  const form = h(
    "form",
    { method: "dialog" },
    h("h2", { id: "token-title" }, "This node asks for its token"),
    wrong
      ? h(
          "p",
          { class: "problem", role: "alert" },
          "That token is not this node’s. Is it another node’s, or an older one?",
        )
      : null,
    h(
      "p",
      { id: "token-why" },
      "It stands in the node’s configuration as ",
      h("code", null, "admin_token"),
      ". It is sent to this node only, in a header.",
    ),
    h("p", null, h("label", { for: "token" }, "Token"), input),
    h(
      "p",
      { class: "check" },
      keep,
      h("label", { for: "token-keep" }, "Remember it until this tab is closed"),
    ),
    h(
      "p",
      { class: "buttons" },
      h("button", { type: "submit", class: "primary" }, "Use it"),
      h("button", { type: "button", onclick: () => dialog.close() }, "Not now"),
    ),
  );
  const dialog = h("dialog", { class: "dialog", "aria-labelledby": "token-title" }, form);
  document.body.append(dialog);
  dialog.showModal();
  input.focus();
  return new Promise((resolve) => {
    let answer = null;
    form.addEventListener("submit", (event) => {
      event.preventDefault();
      answer = { token: input.value.trim(), keep: keep.checked };
      dialog.close();
    });
    dialog.addEventListener("close", () => {
      dialog.remove();
      resolve(answer);
    });
  });
}
