"use strict";
const MOST_FILES = 20; // of one drop
const MOST_RESULTS = 40; // on the page, the oldest go
const ATTEMPTS = 30;
const at = id => document.getElementById(id);
const percent = share => `${(100 * share).toFixed(1)}\u00a0%`; // never broken before its sign
let about = { networks: [], max_bytes: 0 };

function make(tag, properties = {}, ...children) {
  const element = Object.assign(document.createElement(tag), properties);
  element.append(...children);
  return element;
}

function say(element, text, isBad = false) {
  element.textContent = text;
  element.classList.toggle("bad", isBad);
}

// The content of a response; an Error with one line if it is a refusal.
async function ask(path, options = {}) {
  let response;
  try {
    response = await fetch(path, options);
  } catch {
    throw new Error("the server does not answer: it may have ended");
  }
  const content = await response.json().catch(() => ({ error: `status ${response.status}` }));
  if (response.ok) return content;
  throw Object.assign(new Error(content.error), { retryAfter: +response.headers.get("Retry-After") });
}

const pause = seconds => new Promise(resolve => setTimeout(resolve, 1000 * seconds));

// The networks' answers to a file; waits as long as the server has no place for it.
async function classify(file) {
  if (file.size > about.max_bytes) throw new Error(`larger than ${about.max_bytes / 2 ** 20} MiB, which is the most: make it smaller`);
  for (let attempt = 1; ; attempt++) {
    try {
      return await ask("api/predict?pictures=1", { method: "POST", body: file, headers: { "Content-Type": "application/octet-stream" } });
    } catch (error) {
      if (!error.retryAfter || attempt === ATTEMPTS) throw error;
      await pause(error.retryAfter);
    }
  }
}

function bars(top) {
  const items = top.map(({ class: name, probability }) => {
    const bar = make("span", { className: "bar" });
    bar.style.width = `${100 * probability}%`;
    bar.setAttribute("aria-hidden", "true");
    return make("li", {}, bar, make("span", { textContent: name }), make("span", { textContent: percent(probability) }));
  });
  return make("ol", { className: "top" }, ...items);
}

function card(answer) {
  const seen = make("div", { className: "seen" }, make("img", { src: answer.image, alt: "The image as the network sees it" }));
  if (answer.grad_cam) seen.append(make("img", { src: answer.grad_cam, alt: `Where the network looked for ${answer.class}`, className: "look" }));
  const found = answer.error ? make("p", { className: "bad", textContent: answer.error }) : bars(answer.top);
  return make("article", { className: "card" },
    make("h3", { textContent: answer.name }),
    make("p", { className: "time", textContent: `${answer.title} · ${answer.milliseconds.toFixed(1)} ms` }),
    make("div", { className: "body" }, seen, found));
}

function show(file, name, answers) {
  const picture = make("img", { src: URL.createObjectURL(file), alt: "" });
  picture.addEventListener("load", () => URL.revokeObjectURL(picture.src));
  picture.addEventListener("error", () => picture.remove()); // a format that browsers do not show
  const figure = make("figure", {}, picture, make("figcaption", { textContent: name }));
  const result = make("section", { className: "result" }, figure, make("div", { className: "cards" }, ...answers.map(card)));
  result.setAttribute("aria-label", name);
  at("results").prepend(result);
  at("looking").hidden = false;
  while (at("results").children.length > MOST_RESULTS) at("results").lastChild.remove();
}

const inWords = answers => answers.map(a => a.error ? `${a.name}: ${a.error}` : `${a.name} says ${a.class}, ${percent(a.top[0].probability)}`).join("; ");

let queue = Promise.resolve(); // files are shown in the order in which they came

function take(files) {
  const given = [...files];
  if (!given.length) return;
  select("try");
  queue = queue.then(async () => {
    const refused = [];
    let said = "";
    if (given.length > MOST_FILES) refused.push(`only the first ${MOST_FILES} of ${given.length} images were taken`);
    for (const file of given.slice(0, MOST_FILES)) {
      const name = file.name || "pasted image";
      say(at("status"), `${name}: sent`);
      try {
        const { networks } = await classify(file);
        show(file, name, networks);
        said = `${name}: ${inWords(networks)}`;
      } catch (error) {
        refused.push(`${name}: ${error.message}`);
      }
    }
    say(at("status"), refused.join("\n") || said, refused.length > 0);
  });
}

at("look").addEventListener("change", event => at("results").classList.toggle("plain", !event.target.checked));

// Choosing, dropping, pasting.
at("file").addEventListener("change", event => { take(event.target.files); event.target.value = ""; });
let depth = 0; // dragging over a child leaves its parent
const dragged = change => event => {
  event.preventDefault();
  depth = Math.max(0, depth + change);
  document.body.classList.toggle("dragging", depth > 0);
};
document.addEventListener("dragenter", dragged(1));
document.addEventListener("dragleave", dragged(-1));
document.addEventListener("dragover", event => event.preventDefault());
document.addEventListener("drop", event => {
  event.preventDefault();
  depth = 0;
  document.body.classList.remove("dragging");
  if (event.dataTransfer.files.length) take(event.dataTransfer.files);
  else say(at("status"), "what was dropped is no file: save the image first, then drop it", true);
});
document.addEventListener("paste", event => {
  if (event.clipboardData.files.length) take(event.clipboardData.files);
  else say(at("status"), "the clipboard holds no image", true);
});

// Tabs.
const tabs = [...document.querySelectorAll("[role=tab]")];

function select(name) {
  for (const tab of tabs) {
    const isChosen = tab.getAttribute("aria-controls") === name;
    tab.setAttribute("aria-selected", isChosen);
    tab.tabIndex = isChosen ? 0 : -1;
    at(tab.getAttribute("aria-controls")).hidden = !isChosen;
  }
  if (name === "gallery") openGallery();
}

for (const [index, tab] of tabs.entries()) {
  tab.addEventListener("click", () => select(tab.getAttribute("aria-controls")));
  tab.addEventListener("keydown", event => {
    const move = { ArrowLeft: -1, ArrowRight: 1 }[event.key];
    if (!move) return;
    const next = tabs[(index + move + tabs.length) % tabs.length];
    select(next.getAttribute("aria-controls"));
    next.focus();
  });
}

// The gallery of one run at a time. `shown` is its number, -1 for none.
let shown = -1;

async function openGallery() {
  const number = at("run").selectedIndex;
  if (number < 0 || number === shown) return;
  shown = number;
  at("found").hidden = at("progress").hidden = true;
  if (!about.networks[number].has_gallery) {
    say(at("gallery-status"), "Weights come without data, so their mistakes are not known here: serve a run folder to see them.");
    return;
  }
  try {
    await ask(`api/gallery/${number}`, { method: "POST" });
    for (;;) {
      const gallery = await ask(`api/gallery/${number}`);
      if (shown !== number) return;
      if (gallery.state === "ready") return fill(number, gallery);
      if (gallery.state === "unavailable") {
        at("progress").hidden = true;
        return say(at("gallery-status"), `Not available: ${gallery.reason}.`, true);
      }
      say(at("gallery-status"), gallery.total ? "Classifying the run's evaluation images …" : "Reading the run's data …");
      at("progress").hidden = false;
      at("progress").max = gallery.total || 1;
      if (gallery.total) at("progress").value = gallery.done; else at("progress").removeAttribute("value");
      await pause(0.4);
    }
  } catch (error) {
    if (shown !== number) return;
    shown = -1; // so that it can be tried again
    at("progress").hidden = true;
    say(at("gallery-status"), error.message, true);
  }
}

function fill(number, gallery) {
  at("progress").hidden = true;
  say(at("gallery-status"), `${percent(gallery.accuracy)} of ${gallery.examples.toLocaleString("en")} images of ${gallery.split} are classified rightly. ${gallery.note}`);
  const worst = () => list("Worst mistakes", gallery.mistakes, false);
  at("back").onclick = () => { worst(); at("images-title").scrollIntoView({ block: "nearest" }); };
  worst();
  confusion(number, gallery);
  at("found").hidden = false;
}

function confusion(number, { class_names: names, confusion: counts }) {
  const head = make("tr", {}, make("th", { textContent: "true class" }));
  for (const name of names) head.append(make("th", { scope: "col" }, make("span", { textContent: name })));
  const body = counts.map((row, label) => {
    const sum = row.reduce((a, b) => a + b, 0);
    const cells = row.map((count, predicted) => {
      const cell = make("td");
      if (!count) { cell.className = "empty"; return cell; }
      const button = make("button", { type: "button", textContent: count, tabIndex: -1 });
      button.setAttribute("aria-label", `${names[label]} taken for ${names[predicted]}: ${count}`);
      button.setAttribute("aria-pressed", "false");
      button.style.setProperty("--share", 0.08 + 0.62 * count / sum);
      button.addEventListener("click", () => openCell(number, label, predicted, names, button));
      cell.classList.toggle("right", label === predicted);
      cell.append(button);
      return cell;
    });
    return make("tr", {}, make("th", { scope: "row", textContent: names[label] }), ...cells);
  });
  at("confusion").replaceChildren(make("thead", {}, head), make("tbody", {}, ...body));
  const first = at("confusion").querySelector("button");
  if (first) first.tabIndex = 0;
}

// One cell takes part in the order of the tab key; arrows go to the next one that has images.
at("confusion").addEventListener("keydown", event => {
  const [down, right] = { ArrowLeft: [0, -1], ArrowRight: [0, 1], ArrowUp: [-1, 0], ArrowDown: [1, 0] }[event.key] || [];
  if (down === undefined || event.target.tagName !== "BUTTON") return;
  event.preventDefault();
  const rows = [...at("confusion").tBodies[0].rows].map(row => [...row.cells].slice(1));
  let y = rows.findIndex(row => row.includes(event.target.parentElement));
  let x = rows[y].indexOf(event.target.parentElement);
  for (;;) {
    y += down; x += right;
    const cell = rows[y]?.[x];
    if (!cell) return;
    if (cell.firstChild) return focusCell(cell.firstChild);
  }
});

function focusCell(button) {
  for (const other of at("confusion").querySelectorAll("[tabindex='0']")) other.tabIndex = -1;
  button.tabIndex = 0;
  button.focus();
}

async function openCell(number, label, predicted, names, button) {
  focusCell(button);
  press(button);
  try {
    const cell = await ask(`api/gallery/${number}/${label}/${predicted}`);
    const what = label === predicted ? `${names[label]}, rightly` : `${names[label]} taken for ${names[predicted]}`;
    const some = cell.images.length < cell.count ? `, the surest ${cell.images.length}` : "";
    list(`${what}: ${cell.count} ${cell.count === 1 ? "image" : "images"}${some}`, cell.images, true);
  } catch (error) {
    say(at("gallery-status"), error.message, true);
  }
}

function press(button) {
  for (const other of at("confusion").querySelectorAll("[aria-pressed=true]")) other.setAttribute("aria-pressed", "false");
  if (button) button.setAttribute("aria-pressed", "true");
}

function list(title, images, isCell) {
  at("images-title").textContent = images.length ? title : `${title}: none`;
  at("back").hidden = !isCell;
  if (!isCell) press(null);
  at("images").replaceChildren(...images.map(item => {
    const words = item.label === item.class ? `${item.class} ${percent(item.probability)}`
      : `${item.label} ${percent(item.label_probability)}, taken for ${item.class} ${percent(item.probability)}`;
    const button = make("button", { type: "button", title: "Ask all networks" }, make("img", { src: item.image, alt: "" }), words);
    button.addEventListener("click", () => take([asFile(item)]));
    return make("li", {}, button);
  }));
}

// An image of the gallery as a file to be classified.
function asFile(item) {
  const bytes = Uint8Array.from(atob(item.image.split(",")[1]), character => character.charCodeAt(0));
  return new File([bytes], `${item.label}, image ${item.index}`, { type: "image/png" });
}

at("run").addEventListener("change", openGallery);

ask("api/networks").then(found => {
  about = found;
  at("run").replaceChildren(...about.networks.map(network => make("option", { textContent: `${network.name} (${network.title})` })));
  at("networks").textContent = about.networks.map(network => network.name).join(", ");
  if (!at("gallery").hidden) openGallery();
}).catch(error => say(at("status"), error.message, true));
