"use strict";
// What the pages have in common: the address of the server, buttons that copy, examples in tabs.

const $ = (id) => document.getElementById(id);
const base = location.origin + location.pathname.replace(/\/(docs|dashboard)$/, "");

// The address, and buttons that copy

for (const place of document.querySelectorAll("[data-base]")) place.textContent = base;

async function copy(source) {
  try {
    await navigator.clipboard.writeText(source.textContent);
  } catch {
    // Over plain HTTP, beyond this machine, a page has no clipboard.
    getSelection().selectAllChildren(source);
    if (!document.execCommand("copy")) return "Press Ctrl-C";
    getSelection().removeAllRanges();
  }
  return "Copied";
}

function addCopyButton(source, name) {
  const button = document.createElement("button");
  button.type = "button";
  button.className = "copy";
  button.textContent = "Copy";
  button.setAttribute("aria-label", `Copy ${name}`);
  let timer;
  button.addEventListener("click", async () => {
    const outcome = await copy(source);
    button.textContent = outcome;
    $("copied").textContent = `${outcome}: ${name}`;
    clearTimeout(timer);
    timer = setTimeout(() => {
      button.textContent = "Copy";
      $("copied").textContent = "";
    }, 2000);
  });
  return button;
}

for (const pre of document.querySelectorAll("pre")) {
  const name = pre.dataset.name ?? `${pre.closest("section").querySelector("h3").textContent} example`;
  const snippet = document.createElement("div");
  snippet.className = "snippet";
  pre.before(snippet);
  snippet.append(addCopyButton(pre.querySelector("code"), name), pre);
  pre.tabIndex = 0; // so that the keyboard can scroll it
  pre.setAttribute("role", "group");
  pre.setAttribute("aria-label", name);
}

// Tabs: without this script all examples stand below one another

const panels = [...$("tabs").children];
const list = document.createElement("div");
list.setAttribute("role", "tablist");
list.setAttribute("aria-label", "Clients");
const tabs = panels.map((panel, number) => {
  const tab = document.createElement("button");
  tab.type = "button";
  tab.id = `tab-${panel.id}`;
  tab.textContent = panel.querySelector("h3").textContent;
  tab.setAttribute("role", "tab");
  tab.setAttribute("aria-controls", panel.id);
  tab.addEventListener("click", () => show(number));
  panel.setAttribute("role", "tabpanel");
  panel.setAttribute("aria-labelledby", tab.id);
  return tab;
});

function show(chosen) {
  tabs.forEach((tab, number) => {
    tab.setAttribute("aria-selected", String(number === chosen));
    tab.tabIndex = number === chosen ? 0 : -1;
    panels[number].hidden = number !== chosen;
  });
}

list.addEventListener("keydown", (event) => {
  const last = tabs.length - 1;
  const now = tabs.indexOf(document.activeElement);
  const next = {
    ArrowRight: now === last ? 0 : now + 1,
    ArrowLeft: now === 0 ? last : now - 1,
    Home: 0,
    End: last,
  }[event.key];
  if (next === undefined) return;
  event.preventDefault();
  show(next);
  tabs[next].focus();
});
list.append(...tabs);
$("tabs").prepend(list);
$("tabs").classList.add("live");
show(Math.max(0, panels.findIndex((panel) => `#${panel.id}` === location.hash)));
