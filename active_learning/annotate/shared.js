// What both pages do alike: asking the server, the name, the theme, a picture of the right size.

export const byId = (id) => document.getElementById(id);

export const WORDS = { f: "foreground", b: "background", s: "can’t say" };

// Picture's magnification and the inset's pixels a side, from far to near.
export const LEVELS = [[1, 65], [1, 33], [2, 33], [4, 17], [8, 17]];

export class Refused extends Error {
  constructor(status, text) {
    super(text);
    this.status = status;
  }
}

/** Ask the server. Throws `Refused` with the reason it gives, TypeError when it is away. */
export async function post(path, body) {
  const reply = await fetch(path, {
    method: "POST",
    headers: { "Content-Type": "application/json" },
    body: JSON.stringify(body),
    signal: AbortSignal.timeout(15000),
  });
  const value = await reply.json();
  if (!reply.ok) throw new Refused(reply.status, value.error);
  return value;
}

export const wait = (milliseconds) => new Promise((done) => setTimeout(done, milliseconds));

export function tell(text) {
  byId("banner").textContent = text;
  byId("banner").hidden = !text;
}

export const name = () => localStorage.getItem("annotator") || "";

/** Follow the system's light or dark, or what the button was set to. */
export function followTheme() {
  const dark = matchMedia("(prefers-color-scheme: dark)");
  const apply = () => {
    const chosen = localStorage.getItem("theme") || (dark.matches ? "dark" : "light");
    document.documentElement.dataset.theme = chosen;
  };
  dark.addEventListener("change", apply);
  byId("theme").addEventListener("click", () => {
    const now = document.documentElement.dataset.theme;
    localStorage.setItem("theme", now === "dark" ? "light" : "dark");
    apply();
  });
  apply();
}

// Screen pixels beside the picture, so that a mark at its edge is seen whole.
const MARGIN = 16;

/** Make the frame as large as the stage lets it be; return screen pixels a pixel of the image. */
export function fit(width, height) {
  const { clientWidth, clientHeight } = byId("stage");
  const room = [clientWidth - 2 * MARGIN, clientHeight - 2 * MARGIN];
  const scale = Math.max(0.01, Math.min(room[0] / width, room[1] / height));
  byId("frame").style.width = `${width * scale}px`;
  byId("frame").style.height = `${height * scale}px`;
  byId("picture").classList.toggle("small-one", scale > 3);
  return scale;
}

export const pictureOf = (question, version) => `/picture/${question.picture}?v=${version}`;

export const insetOf = (question, version, side) =>
  `/inset/${question.picture}/${question.x}/${question.y}/${side}?v=${version}`;

/** Load a picture that takes an element's place when it can be shown whole. Throws if it cannot. */
export async function load(id, address) {
  if (byId(id).getAttribute("src") === address) return () => {};
  const fresh = Object.assign(new Image(), { id, alt: "", src: address });
  await fresh.decode();
  return () => byId(id).replaceWith(fresh);
}

/** Tell what the inset shows: the pixels around a question's, the one in the middle framed. */
export function frameInset(question, side) {
  byId("pixel").style.width = byId("pixel").style.height = `${100 / side}%`;
  const around = (side - 1) / 2;
  const over =
    question.x < around || question.y < around ||
    question.x + around >= question.width || question.y + around >= question.height;
  byId("caption").textContent =
    `${side} × ${side} pixels, the asked one framed` + (over ? "; hatched: beyond the picture" : "");
}

export function svg(kind, attributes, parent) {
  const made = document.createElementNS("http://www.w3.org/2000/svg", kind);
  for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
  parent.append(made);
  return made;
}

/** Whether a key is meant for what is being typed, or for the browser. */
export const notForUs = (event) =>
  event.ctrlKey || event.metaKey || event.altKey || event.repeat ||
  document.querySelector("dialog[open]") !== null ||
  (event.target.matches("input") && event.target.type !== "checkbox");

export const newId = () =>
  `${Date.now().toString(36)}-${Array.from(crypto.getRandomValues(new Uint32Array(2)), (n) => n.toString(36)).join("")}`;
