// Before the page is drawn: the theme that was chosen here, if one was. Else the system's holds.
try {
  const chosen = localStorage.getItem("aspen-theme");
  if (chosen === "light" || chosen === "dark") document.documentElement.dataset.theme = chosen;
} catch {
  // Storage is switched off: the system's theme, then.
}
