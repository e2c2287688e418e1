// One question at a time. A key answers; the next is shown when the disk holds the answer.

import {
  LEVELS, Refused, WORDS, byId, fit, followTheme, insetOf, name, newId, notForUs, pictureOf, post,
  frameInset, load, svg, tell, wait,
} from "./shared.js";

const LOOK_AGAIN = 2500; // ms, while there is no question
const SIGN_OF_LIFE = 30000;
const MOST_SECONDS = 60;
const MESSAGES = {
  others: "The last questions are with others. This page looks again by itself.",
  training: "All is answered for now. The network is at work; new questions come by themselves.",
  finished: "All is answered. Thank you! There will be no more questions.",
};

let server = null; // what the server said last
let shown = null; // the question, or earlier answer, on the screen
let back = 0; // 0: the open question; k: the k-th latest of one's own answers
let busy = true; // something is being sent or loaded: keys are not for the picture on the screen
let shownAt = 0;
let level = 1;
let outlined = localStorage.getItem("region") === "yes";
let errorsSeen = 0;
let lookAgain = 0;
let asking = false;
let ahead = []; // pictures that are loaded meanwhile
let touched = false; // since the last sign of life

// --- answers -------------------------------------------------------------------------------------

const pendingKey = (body) => `pending:${body.trial}:${body.id}`;

/**
 * Send an answer until the server has it on its disk; kept in the browser until then. The reply holds
 * the new state, unless the server cannot tell it just now.
 */
async function deliver(body) {
  localStorage.setItem(pendingKey(body), JSON.stringify(body));
  for (let pause = 500; ; pause = Math.min(2 * pause, 5000)) {
    try {
      const reply = await post("/api/answer", body);
      localStorage.removeItem(pendingKey(body));
      tell("");
      return reply;
    } catch (error) {
      const final = error instanceof Refused && [400, 404].includes(error.status);
      if (final) {
        localStorage.removeItem(pendingKey(body));
        tell("");
        notice(`The server refused an answer: ${error.message}`);
        return null;
      }
      const reason = error instanceof Refused ? error.message : "the server is away";
      tell(`Not saved yet (${reason}). Keep this page open: it tries again by itself.`);
      await wait(pause);
    }
  }
}

async function deliverPending() {
  const keys = Object.keys(localStorage).filter((key) => key.startsWith(`pending:${server.trial}:`));
  for (const key of keys.sort()) await deliver(JSON.parse(localStorage.getItem(key)));
  return keys.length > 0;
}

async function answer(said) {
  const about = said === "u" && back === 0 ? server?.mine[0] : shown;
  if (busy || !about || (said !== "u" && !shown)) return;
  busy = true;
  clearTimeout(lookAgain);
  document.body.classList.add("sending");
  const reply = await deliver({
    trial: server.trial,
    annotator: name(),
    image: about.image,
    x: about.x,
    y: about.y,
    answer: said,
    seconds: Math.min(MOST_SECONDS, (performance.now() - shownAt) / 1000),
    id: newId(),
  });
  back = 0;
  document.body.classList.remove("sending");
  if (reply?.questions) await take(reply);
  else await refresh();
}

// --- what is shown -------------------------------------------------------------------------------

/** Ask for the state anew, until the server answers. */
async function refresh() {
  clearTimeout(lookAgain);
  if (asking) return;
  asking = busy = true;
  const found = await ask();
  asking = false;
  if (found) await take(found);
}

async function ask() {
  for (;;) {
    try {
      let found = await post("/api/next", { annotator: name() });
      server = found;
      if (await deliverPending()) found = await post("/api/next", { annotator: name() });
      tell("");
      return found;
    } catch (error) {
      if (error instanceof Refused && error.status === 400) {
        notice(error.message);
        return void askName();
      }
      const away = server?.stage === "training" ? MESSAGES.training : "The server is away.";
      tell(error instanceof Refused ? error.message : `${away} This page looks again by itself.`);
      await wait(LOOK_AGAIN);
    }
  }
}

async function take(state) {
  server = state;
  byId("trial").textContent = document.title = state.trial;
  byId("region").hidden = !state.regions;
  tellErrors();
  tellProgress();
  await show();
}

async function show() {
  clearTimeout(lookAgain);
  busy = true;
  back = Math.min(back, server.mine.length);
  shown = back ? server.mine[back - 1] : server.questions[0] || null;
  byId("frame").hidden = !shown;
  byId("message").hidden = Boolean(shown);
  document.body.classList.toggle("idle", !shown);
  tellQuestion();
  if (!shown) {
    byId("message").textContent = MESSAGES[server.stage];
    byId("live").textContent = MESSAGES[server.stage];
    delete document.body.dataset.shown;
    lookAgain = setTimeout(refresh, LOOK_AGAIN);
    busy = false;
    return;
  }
  try {
    // Pictures and cross-hairs change at once: never one question's over the other's.
    const ready = [load("picture", pictureOf(shown, server.version)), loadInset()];
    for (const place of await Promise.all(ready)) place();
  } catch {
    // The server has noted why it cannot be shown, or is away; either way it is asked again.
    tell("The picture cannot be loaded. This page tries again by itself.");
    await wait(600);
    return refresh();
  }
  draw();
  showOutline();
  shownAt = performance.now();
  busy = false;
  document.body.dataset.shown = `${shown.image} ${shown.x} ${shown.y}`;
  loadAhead();
}

async function loadInset() {
  const [of, side] = [shown, LEVELS[level][1]];
  const place = await load("near", insetOf(of, server.version, side));
  return () => {
    place();
    frameInset(of, side);
  };
}

function loadAhead() {
  ahead = server.questions.slice(1).flatMap((question) =>
    [pictureOf(question, server.version), insetOf(question, server.version, LEVELS[level][1])].map(
      (address) => Object.assign(new Image(), { src: address }),
    ),
  );
}

/** Lay the cross-hairs over the picture; the pixel itself stays free. */
function draw() {
  if (!shown) return;
  const scale = fit(shown.width, shown.height);
  const [x, y] = [(shown.x + 0.5) * scale, (shown.y + 0.5) * scale];
  const [width, height] = [shown.width * scale, shown.height * scale];
  const zoom = LEVELS[level][0];
  const canvas = byId("canvas");
  canvas.style.transformOrigin = `${x}px ${y}px`;
  canvas.style.transform = `scale(${zoom})`;
  const free = Math.max(12, 0.75 * scale * zoom);
  const lines = `M0 ${y}H${x - free}M${x + free} ${y}H${width}M${x} 0V${y - free}M${x} ${y + free}V${height}`;
  byId("marks").replaceChildren();
  for (const layer of ["under", "over"]) {
    svg("path", { d: lines, class: layer }, byId("marks"));
    svg("circle", { cx: x, cy: y, r: free, class: layer }, byId("marks"));
  }
}

async function showOutline() {
  const outline = byId("outline");
  outline.replaceChildren();
  byId("region").setAttribute("aria-pressed", outlined);
  const of = shown;
  if (!outlined || !server.regions || !of) return;
  try {
    const reply = await fetch(`/region/${of.picture}/${of.x}/${of.y}/17?v=${server.version}`);
    const lines = await reply.json();
    if (shown !== of || !reply.ok) return;
    outline.setAttribute("viewBox", `0 0 ${of.width} ${of.height}`);
    outline.setAttribute("preserveAspectRatio", "none");
    const way = lines.map((line) => `M${line.map(([x, y]) => `${x + 0.5} ${y + 0.5}`).join("L")}Z`).join("");
    for (const layer of ["under", "over"]) svg("path", { d: way, class: layer }, outline);
  } catch {
    // It is an extra: without it the question can be answered.
  }
}

function tellQuestion() {
  byId("where").textContent = shown
    ? `${shown.image}, pixel ${shown.x}, ${shown.y}, round ${shown.round}`
    : "";
  const said = back ? shown.answer : "";
  byId("before").hidden = !said;
  byId("before").textContent = said ? `You said ${WORDS[said]}. A key changes it; → goes on.` : "";
  for (const button of document.querySelectorAll("#answers button")) {
    if (button.dataset.answer !== "u") button.setAttribute("aria-pressed", button.dataset.answer === said);
    button.disabled = button.dataset.answer === "u" ? !server.mine.length : !shown;
  }
  byId("earlier").disabled = back >= server.mine.length;
  byId("later").disabled = !back;
  if (shown) byId("live").textContent = `Pixel ${shown.x}, ${shown.y} of ${shown.image}`;
}

function tellProgress() {
  const { told, wanted, short } = server.counts;
  byId("bar").max = wanted || 1;
  byId("bar").value = told;
  const parts = [`${told} of ${wanted} answered`];
  const seconds = server.mine.reduce((sum, one) => sum + one.seconds, 0);
  if (server.mine.length > 4 && seconds > 0) {
    const each = seconds / server.mine.length;
    parts.push(`${Math.round(60 / each)} a minute`);
    const left = ((wanted - told) * each) / 60 / Math.max(1, server.annotators);
    if (wanted > told) parts.push(left < 1 ? "under 1 min left" : `about ${Math.round(left)} min left`);
  }
  if (server.annotators > 1) parts.push(`${server.annotators} people`);
  if (short) parts.push(`${short} could not be told`);
  byId("numbers").textContent = parts.join(" · ");
}

function tellErrors() {
  const fresh = server.failed - errorsSeen;
  errorsSeen = server.failed;
  if (fresh <= 0) return;
  const last = server.errors.at(-1);
  const more = fresh > 1 ? ` (and ${fresh - 1} more)` : "";
  notice(`${last.image} cannot be shown and was skipped${more}: ${last.reason}`);
}

/** Say something that stays until it is closed. */
function notice(text) {
  byId("notice").querySelector("span").textContent = text;
  byId("notice").hidden = false;
}

// --- what a person does --------------------------------------------------------------------------

async function step(by) {
  const to = back + by;
  if (busy || to < 0 || to > server.mine.length) return;
  back = to;
  await show();
}

function zoom(by) {
  level = Math.min(Math.max(level + by, 0), LEVELS.length - 1);
  if (!shown) return;
  draw();
  const [of, at] = [shown, level];
  if (!busy) loadInset().then((place) => { if (shown === of && level === at) place(); }).catch(() => {});
}

function toggleRegion() {
  outlined = !outlined;
  localStorage.setItem("region", outlined ? "yes" : "no");
  showOutline();
}

function help() {
  byId("me").textContent = name();
  byId("help").showModal();
}

function askName() {
  byId("name").value = name();
  if (!byId("who").open) byId("who").showModal();
}

const KEYS = {
  f: () => answer("f"),
  b: () => answer("b"),
  s: () => answer("s"),
  u: () => answer("u"),
  r: toggleRegion,
  ArrowLeft: () => step(1),
  ArrowRight: () => step(-1),
  "+": () => zoom(1),
  "=": () => zoom(1),
  "-": () => zoom(-1),
  "?": help,
};

document.addEventListener("keydown", (event) => {
  const act = KEYS[event.key.length === 1 ? event.key.toLowerCase() : event.key];
  if (!act || notForUs(event)) return;
  event.preventDefault();
  act();
});
for (const button of document.querySelectorAll("#answers button")) {
  button.addEventListener("click", () => answer(button.dataset.answer));
}
for (const [id, act] of Object.entries({
  region: toggleRegion, closer: () => zoom(1), farther: () => zoom(-1), "help-button": help,
  earlier: () => step(1), later: () => step(-1),
})) byId(id).addEventListener("click", act);
byId("notice").querySelector("button").addEventListener("click", () => { byId("notice").hidden = true; });
byId("rename").addEventListener("click", () => {
  byId("help").close();
  askName();
});
byId("who").addEventListener("cancel", (event) => { if (!name()) event.preventDefault(); });
byId("who").querySelector("form").addEventListener("submit", (event) => {
  event.preventDefault();
  const given = byId("name").value.trim();
  if (!given) return;
  localStorage.setItem("annotator", given);
  byId("who").close();
  refresh();
});
new ResizeObserver(draw).observe(byId("stage"));
// A page that is merely open is none: its questions are to go to others.
for (const kind of ["keydown", "pointerdown"]) {
  document.addEventListener(kind, () => { touched = true; }, true);
}
setInterval(() => {
  if (touched && name()) post("/api/alive", { annotator: name() }).catch(() => {});
  touched = false;
}, SIGN_OF_LIFE);

followTheme();
if (name()) refresh();
else askName();
