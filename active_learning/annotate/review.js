// All answers of an image, and changing them. What a reviewer says counts.

import {
  LEVELS, Refused, WORDS, byId, fit, followTheme, name, newId, notForUs, pictureOf, post,
  frameInset, insetOf, load, svg, tell, wait,
} from "./shared.js";

let listed = { images: [], total: 0 };
let image = null;
let chosen = 0; // which of its points
let busy = false;
let wanted; // the image whose picture is shown, or will be as soon as it is there
let opened = 0; // pictures asked for, as lists below
let asked = 0; // lists asked for: of two that overtake each other the later counts

/** Ask until the server answers; what it refuses is told. */
async function ask(path, body) {
  for (let pause = 500; ; pause = Math.min(2 * pause, 5000)) {
    try {
      const reply = await post(path, body);
      tell("");
      return reply;
    } catch (error) {
      if (error instanceof Refused && ![401, 503, 507].includes(error.status)) {
        tell(error.message);
        return null;
      }
      const reason = error instanceof Refused ? error.message : "the server is away";
      tell(`Not ${path === "/api/review" ? "saved" : "loaded"} yet: ${reason}`);
      await wait(pause);
    }
  }
}

async function list(start = 0) {
  const filter = { text: byId("text").value, differing: byId("differing").checked, start };
  const mine = ++asked;
  await wait(150); // whoever types has typed on by then
  if (mine !== asked) return;
  const reply = await ask("/api/images", filter);
  if (!reply || mine !== asked) return;
  listed = { ...reply, images: start ? [...listed.images, ...reply.images] : reply.images };
  byId("trial").textContent = `Review ${reply.trial}`;
  const agree = reply.kappa === null ? "" : `, Cohen’s κ ${reply.kappa.toFixed(2)}`;
  byId("numbers").textContent = `${reply.total} images` +
    (reply.twice ? ` · ${reply.alike} of ${reply.twice} doubly asked pixels alike${agree}` : "");
  byId("images").replaceChildren(...listed.images.map(listItem));
  byId("more").hidden = listed.images.length >= listed.total;
  if (!start) await open(listed.images[0]);
}

function listItem(one) {
  const item = document.createElement("li");
  const button = document.createElement("button");
  button.type = "button";
  button.dataset.picture = one.picture;
  button.append(one.image);
  if (one.differing) button.append(mark("b", `≠ ${one.differing}`));
  button.addEventListener("click", () => open(one));
  item.append(button);
  return item;
}

function mark(kind, text, className = "") {
  const made = document.createElement(kind);
  made.textContent = text;
  made.className = className;
  return made;
}

async function open(one) {
  const turn = ++opened;
  byId("frame").hidden = !one;
  byId("message").hidden = Boolean(one);
  byId("message").textContent = "No answers to look at.";
  wanted = one;
  if (!one) {
    image = null;
    byId("points").replaceChildren();
    return;
  }
  const reply = await ask("/api/image", { image: one.image });
  if (!reply || turn !== opened) return;
  let place = () => tell(`${reply.image} cannot be shown.`);
  image = null; // until the picture is there, no key means a pixel of it, nor one of the last
  try {
    place = await load("picture", pictureOf(reply, reply.version));
  } catch {}
  if (turn !== opened) return;
  image = reply;
  chosen = 0;
  place();
  for (const button of byId("images").querySelectorAll("button")) {
    const current = Number(button.dataset.picture) === one.picture;
    button.setAttribute("aria-current", current);
    if (current) showIn(byId("list"), button);
  }
  render();
}

/** Scroll a box as far as an element in it needs; the page, which may hold it whole, stays. */
function showIn(box, element) {
  if (!element) return;
  const [outer, inner] = [box.getBoundingClientRect(), element.getBoundingClientRect()];
  if (inner.top < outer.top) box.scrollTop -= outer.top - inner.top;
  else if (inner.bottom > outer.bottom) box.scrollTop += inner.bottom - outer.bottom;
}

function render() {
  if (!image) return;
  draw();
  byId("points").replaceChildren(...image.points.map(pointItem));
  showIn(document.querySelector("aside"), byId("points").querySelector("[aria-current=true]"));
  const point = image.points[chosen];
  if (!point) return;
  const side = LEVELS[1][1];
  load("near", insetOf(point, image.version, side))
    .then((place) => { if (image?.points[chosen] === point) place(); })
    .catch(() => {});
  frameInset(point, side);
  for (const button of document.querySelectorAll("#answers button")) {
    button.setAttribute("aria-pressed", button.dataset.answer === point.label);
  }
  byId("live").textContent = `Pixel ${point.x}, ${point.y}: ${WORDS[point.label] || "not answered"}`;
}

function pointItem(point, index) {
  const item = document.createElement("li");
  const button = document.createElement("button");
  button.type = "button";
  button.setAttribute("aria-current", index === chosen);
  button.append(mark("i", (point.label || "?").toUpperCase(), `sign ${point.label || "none"}`));
  const said = point.answers.map((one) => `${one.annotator}: ${WORDS[one.answer]}`).join(", ");
  button.append(mark("small", `round ${point.round}${point.closed ? " •" : ""}  ${said || "not answered"}`));
  if (point.differs) button.append(mark("b", "≠"));
  button.addEventListener("click", () => choose(index));
  item.append(button);
  return item;
}

/** Letters in shapes: a square F, a round B, a pointed S. */
function draw() {
  if (!image) return;
  const scale = fit(image.width, image.height);
  byId("marks").replaceChildren();
  const order = image.points.map((_, index) => index).filter((index) => index !== chosen);
  for (const index of [...order, chosen]) {
    const point = image.points[index];
    if (!point) continue;
    const [x, y] = [(point.x + 0.5) * scale, (point.y + 0.5) * scale];
    const group = svg("g", { class: index === chosen ? "chosen" : "", transform: `translate(${x} ${y})` }, byId("marks"));
    const label = point.label || "none";
    if (index === chosen) svg("circle", { r: 19, class: "halo" }, group);
    if (label === "b" || label === "none") svg("circle", { r: 12, class: `shape ${label}` }, group);
    else if (label === "f") svg("rect", { x: -11, y: -11, width: 22, height: 22, rx: 3, class: `shape ${label}` }, group);
    else svg("path", { d: "M0 -14L14 11H-14Z", class: `shape ${label}` }, group);
    svg("text", { fill: label === "b" ? "#fff" : "#000" }, group).textContent = (point.label || "?").toUpperCase();
    group.addEventListener("click", () => choose(index));
  }
}

function choose(index) {
  if (!image?.points.length) return;
  chosen = Math.min(Math.max(index, 0), image.points.length - 1);
  render();
}

async function answer(said) {
  const about = image;
  const point = about?.points[chosen];
  if (!point || busy) return;
  if (!name()) {
    tell("Give your name first: open the page Answer.");
    return;
  }
  busy = true;
  const reply = await ask("/api/review", {
    trial: listed.trial, annotator: name(), image: about.image, x: point.x, y: point.y,
    answer: said, seconds: 0, id: newId(),
  });
  busy = false;
  if (!reply || image?.image !== about.image) return;
  if (!reply.points) return open(wanted); // saved, and cannot be told just now
  image = reply;
  render();
}

function next(by) {
  const at = listed.images.findIndex((one) => one.image === wanted?.image);
  const to = listed.images[at + by];
  if (to) open(to);
}

const KEYS = {
  f: () => answer("f"),
  b: () => answer("b"),
  s: () => answer("s"),
  u: () => answer("u"),
  ArrowUp: () => choose(chosen - 1),
  ArrowDown: () => choose(chosen + 1),
  ArrowLeft: () => next(-1),
  ArrowRight: () => next(1),
};
document.addEventListener("keydown", (event) => {
  const act = KEYS[event.key.length === 1 ? event.key.toLowerCase() : event.key];
  if (!act || event.ctrlKey || event.metaKey || event.altKey || event.target.matches("input")) return;
  if (notForUs(event) && !event.key.startsWith("Arrow")) return; // arrows may be held down
  event.preventDefault();
  act();
});
for (const button of document.querySelectorAll("#answers button")) {
  button.addEventListener("click", () => answer(button.dataset.answer));
}
byId("text").addEventListener("input", () => list());
byId("differing").addEventListener("change", () => list());
byId("more").addEventListener("click", () => list(listed.images.length));
new ResizeObserver(draw).observe(byId("stage"));

followTheme();
list();
