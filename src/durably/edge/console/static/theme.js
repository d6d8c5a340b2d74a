// Runs before the page is drawn, so that it is drawn once: light, dark, or as the system has it.
{
  const chosen = localStorage.getItem("durably.theme");
  if (chosen === "light" || chosen === "dark") document.documentElement.dataset.theme = chosen;
}
