/* What the pages do with a script, none of which they need: progress that moves, a dialog before cancelling, the chart
   after the table, and buttons that cannot be pressed twice. */
(() => {
  "use strict";

  const EVERY = 2000;
  const SLOWEST = 30000;
  const told = document.getElementById("live");
  let wait = EVERY;
  let timer = 0;

  // -- progress: parts marked data-live are replaced by the same parts of the page as it would be made now

  const open = () => document.querySelector("[data-open]");

  const address = () => {
    const url = new URL(window.location.href);
    url.searchParams.set("part", "live");
    return url;
  };

  const replace = (html) => {
    const fresh = new DOMParser().parseFromString(html, "text/html");
    const focused = document.activeElement && document.activeElement.id;
    const endings = [];
    for (const part of fresh.querySelectorAll("[data-live][id]")) {
      const here = document.getElementById(part.id);
      if (!here) continue;
      if (here.hasAttribute("data-open") && !part.hasAttribute("data-open")) {
        here.removeAttribute("data-open");
        if (part.dataset.finished) endings.push(part.dataset.finished);
        const row = here.closest("tr[data-open]");
        if (row) row.removeAttribute("data-open");
      }
      if (here.innerHTML !== part.innerHTML) here.innerHTML = part.innerHTML;
    }
    if (focused && document.activeElement === document.body) {
      const again = document.getElementById(focused) || document.getElementById("content");
      again.focus({ preventScroll: true });
    }
    if (endings.length) told.textContent = endings.join(" ");
    else if (told.textContent === told.dataset.offline) told.textContent = "";
  };

  const look = async () => {
    timer = 0;
    if (document.hidden || !open()) return;
    try {
      const answer = await fetch(address(), { redirect: "manual", cache: "no-store" });
      if (answer.type === "opaqueredirect") return window.location.reload(); // signed out meanwhile
      if (answer.status === 404) return;
      if (!answer.ok) throw new Error(String(answer.status));
      replace(await answer.text());
      wait = EVERY;
    } catch {
      wait = Math.min(wait * 2, SLOWEST);
      told.textContent = told.dataset.offline;
    }
    again();
  };

  const again = () => {
    if (!timer && open()) timer = window.setTimeout(look, wait);
  };

  document.addEventListener("visibilitychange", () => {
    if (document.hidden) return;
    window.clearTimeout(timer);
    timer = 0;
    look();
  });

  // -- cancelling: the link leads to a page that asks; with a script a dialog asks at once

  document.addEventListener("click", (event) => {
    const link = event.target.closest("a[data-dialog]");
    const dialog = document.getElementById("cancel-dialog");
    if (link && dialog && !event.ctrlKey && !event.metaKey && !event.shiftKey) {
      event.preventDefault();
      dialog.querySelector("form").action = link.href;
      dialog.querySelector("h2").textContent = link.dataset.dialog;
      dialog.showModal();
    } else if (event.target.closest("[data-close]")) {
      event.target.closest("dialog").close();
    }
  });

  // -- a form is sent once

  document.addEventListener("submit", (event) => {
    const button = event.submitter;
    if (!button || !button.dataset.busy) return;
    if (button.hasAttribute("aria-busy")) return event.preventDefault();
    button.setAttribute("aria-busy", "true");
    button.dataset.text = button.textContent;
    button.textContent = button.dataset.busy;
  });

  window.addEventListener("pageshow", () => {
    for (const button of document.querySelectorAll("[aria-busy][data-text]")) {
      button.removeAttribute("aria-busy");
      button.textContent = button.dataset.text;
    }
  });

  // -- what takes longer comes after the page

  const load = async (section) => {
    const waiting = section.querySelector(".wait");
    waiting.hidden = false;
    try {
      const answer = await fetch(section.dataset.src, { redirect: "manual" });
      if (!answer.ok) throw new Error(String(answer.status));
      const fresh = new DOMParser().parseFromString(await answer.text(), "text/html");
      waiting.replaceWith(...fresh.body.children);
    } catch {
      waiting.textContent = told.dataset.offline;
    }
  };

  for (const section of document.querySelectorAll("[data-src]")) load(section);
  again();
})();
