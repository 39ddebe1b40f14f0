(() => {
"use strict";
const rows = JSON.parse(document.getElementById("rows").textContent);
const thumbnails = new Map();
for (const row of rows) for (const [n, uri] of Object.entries(row.thumbnails)) thumbnails.set(Number(n), uri);
const list = document.getElementById("list"), end = document.getElementById("end");
const search = document.getElementById("search"), status = document.getElementById("status");
const count = document.getElementById("count"), CHUNK = 40, AHEAD = 1500;
let found = rows, shown = 0;

function element(tag, name, text) {
  const made = document.createElement(tag);
  made.className = name;
  if (text !== undefined) made.textContent = text;
  return made;
}

function pictures(row) {
  const box = element("div", row.sources.length > 1 ? "pictures many" : "pictures");
  row.sources.slice(0, 8).forEach((source, i) => {
    if (row.shown[i] < 0) { box.append(element("span", "", source)); return; }
    const image = element("img", "");
    image.src = thumbnails.get(row.shown[i]);
    image.alt = image.title = source;
    box.append(image);
  });
  if (row.sources.length > 8) box.append(element("span", "", `and ${row.sources.length - 8} more`));
  return box;
}

function card(row) {
  const made = element("article", row.failed ? "failed" : "ok"), text = element("div", "text");
  const name = row.id === "" ? `row ${row.index}` : `row ${row.index} · ${row.id}`;
  text.append(element("div", "name", name));
  for (const part of ["prompt", "thinking", "answer", "error"])
    if (row[part]) text.append(element("div", part, row[part]));
  text.append(element("div", "facts", row.facts.join(" · ")));
  made.append(pictures(row), text);
  return made;
}

function fill() {
  while (shown < found.length && end.getBoundingClientRect().top < innerHeight + AHEAD) {
    const next = found.slice(shown, shown + CHUNK);
    shown += next.length;
    list.append(...next.map(card));
  }
}

function words(row) {
  row.words ??= [row.id, row.prompt, row.answer, row.thinking, row.error, ...row.sources].join("\n").toLowerCase();
  return row.words;
}

function filter() {
  const wanted = search.value.trim().toLowerCase().split(/\s+/), kind = status.value;
  found = rows.filter(row => (!kind || row.failed === (kind === "failed")) && wanted.every(w => words(row).includes(w)));
  count.textContent = `${found.length.toLocaleString("en")} ${found.length === 1 ? "row" : "rows"}`;
  shown = 0;
  list.replaceChildren();
  fill();
}

let waiting;
search.addEventListener("input", () => { clearTimeout(waiting); waiting = setTimeout(filter, 120); });
status.addEventListener("change", filter);
addEventListener("scroll", fill, { passive: true });
addEventListener("resize", fill);
document.querySelector("form").addEventListener("submit", event => event.preventDefault());
const asked = decodeURIComponent(location.hash.slice(1)); // page.html#failed, page.html#some%20words
if (asked === "ok" || asked === "failed") status.value = asked;
else search.value = asked;
filter();
})();
