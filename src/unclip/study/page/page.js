"use strict";
// A vote is shown as given only once the server has it on the disk. One that could not be sent is
// kept in this browser and sent again, also after the page was closed.

const $ = (id) => document.getElementById(id);
const KEPT = "unclip-unsent";
const SMALL = 200; // pixels: smaller images are enlarged without smoothing
let state = null;
let seen = []; // pairs judged on this page, for Back,
let at = 0; // which leads to seen[at - 1]
let shown = null;
let since = 0;
let busy = false;

async function call(path, body) {
  const options = body === undefined ? {} : {
    method: "POST", headers: { "Content-Type": "application/json" }, body: JSON.stringify(body),
    keepalive: true, // it arrives though the page is closed
  };
  const answer = await fetch(path, options);
  const found = await answer.json();
  if (!answer.ok) {
    const error = new Error(found.error || "This went wrong.");
    error.status = answer.status;
    throw error;
  }
  return found;
}

function kept() {
  try { return JSON.parse(localStorage.getItem(KEPT)); } catch { return null; }
}

function keep(vote) {
  try {
    if (vote) localStorage.setItem(KEPT, JSON.stringify(vote));
    else localStorage.removeItem(KEPT);
  } catch { /* a browser that keeps nothing */ }
}

const pause = (ms) => new Promise((done) => setTimeout(done, ms));

// Send until the server has it: only its refusal, not its absence, ends this.
async function send(vote) {
  keep(vote);
  for (let wait = 500; ; wait = Math.min(2 * wait, 8000)) {
    try {
      const found = await call("/api/vote", vote);
      keep(null);
      $("problem").textContent = "";
      return found;
    } catch (error) {
      if (error.status && error.status < 500) { keep(null); throw error; }
      $("problem").textContent = "Your answer is not saved yet. Trying again …";
      await pause(wait);
    }
  }
}

function show(id) {
  for (const each of ["enter", "vote", "end"]) $(each).hidden = each !== id;
  $("foot").hidden = id === "enter";
}

function render(found) {
  state = found;
  if (!state.rater) {
    $("questions").replaceChildren(...state.questions.map((text) => {
      const item = document.createElement("li");
      item.textContent = text;
      return item;
    }));
    show("enter");
    return;
  }
  const code = document.createElement("code");
  code.textContent = state.code;
  $("own-code").replaceChildren("To continue with another browser, note your code: ", code);
  $("who").textContent = state.rater;
  $("count").textContent = `${state.done} of ${state.total}`;
  $("progress").max = Math.max(1, state.total);
  $("progress").value = state.done;
  if (state.pairs.length === 0) {
    $("answered").textContent = state.done;
    $("again").hidden = previous() === null;
    shown = null;
    show("end");
    return;
  }
  showPair(state.pairs[0]);
  preload(state.pairs[1]);
}

function address(name) { return `/image/${name}.png`; }

function preload(pair) {
  if (!pair) return;
  for (const side of ["left", "right"]) new Image().src = address(pair[side]);
}

async function showPair(pair) {
  shown = pair;
  show("vote");
  if ($("ask").textContent !== pair.ask) $("ask").textContent = pair.ask;
  $("caption").textContent = pair.caption === null ? "" : `“${pair.caption}”`;
  $("back").disabled = previous() === null;
  $("unsure").classList.toggle("chosen", pair.answer === "unsure");
  $("vote").classList.add("waiting");
  busy = true;
  const loaded = ["left", "right"].map(async (side) => {
    const image = $(`${side}-image`);
    const what = pair.grid ? "set of images" : "image";
    image.alt = `${side === "left" ? "Left" : "Right"} ${what}`;
    $(side).classList.toggle("chosen", pair.answer === side);
    image.src = address(pair[side]);
    await image.decode();
    $(side).classList.toggle("small", image.naturalWidth < SMALL);
  });
  try {
    await Promise.all(loaded);
    $("problem").textContent = "";
  } catch {
    if (shown !== pair) return;
    $("problem").textContent = "An image could not be loaded. Trying again …";
    await pause(2000);
    if (shown !== pair) return;
    for (const side of ["left", "right"]) $(`${side}-image`).removeAttribute("src");
    showPair(pair);
    return;
  }
  if (shown !== pair) return;
  $("vote").classList.remove("waiting");
  $("status").textContent = `${pair.ask} ${$("caption").textContent} ${$("count").textContent}`;
  since = performance.now();
  busy = false;
}

async function answer(given) {
  if (busy || !shown) return;
  busy = true;
  const pair = shown;
  for (const id of ["left", "right", "unsure"]) $(id).classList.toggle("chosen", id === given);
  const seconds = (performance.now() - since) / 1000;
  try {
    const found = await send({ pair: pair.id, rater: state.rater, answer: given, seconds });
    seen = [...seen.filter((each) => each.id !== pair.id), { ...pair, answer: given }];
    at = seen.length;
    render(found);
  } catch (error) {
    $("problem").textContent = error.message;
    busy = false;
    if (error.status === 401) start();
  }
}

function previous() {
  if (at > 0) return seen[at - 1];
  return seen.length === 0 && state.last ? state.last : null;
}

function back() {
  const pair = previous();
  if (busy || pair === null) return;
  if (seen.length === 0) seen = [pair];
  at = Math.max(0, (at || seen.length) - 1);
  showPair(pair);
}

async function start() {
  try {
    let found = await call("/api/state");
    const vote = kept();
    if (vote && found.rater) found = await send(vote).catch(() => found);
    $("problem").textContent = "";
    render(found);
  } catch (error) {
    if (error.status === 403 || error.status === 421) {
      $("problem").textContent = error.message;
      return;
    }
    $("problem").textContent = "The page cannot reach its server. Trying again …";
    await pause(2000);
    start();
  }
}

$("form").addEventListener("submit", async (event) => {
  event.preventDefault();
  $("refusal").textContent = "";
  try {
    const code = $("code").value.trim();
    const found = await call("/api/rater", { name: $("name").value, ...(code && { code }) });
    keep(null);
    seen = []; at = 0;
    $("form").reset();
    render(found);
    $("ask").focus();
  } catch (error) {
    $("refusal").textContent = error.status ? error.message : "The server does not answer.";
    if (error.status === 409) $("known").open = true;
  }
});
for (const id of ["left", "right", "unsure"]) {
  $(id).addEventListener("click", () => answer($(id).dataset.answer));
}
$("back").addEventListener("click", back);
$("again").addEventListener("click", back);
$("leave").addEventListener("click", async () => {
  if (busy) return;
  try {
    seen = []; at = 0;
    render(await call("/api/leave", {}));
    $("name").focus();
  } catch { /* stays */ }
});
const KEYS = { ArrowLeft: "left", ArrowRight: "right", ArrowDown: "unsure", 1: "left", 2: "right", 3: "unsure" };
document.addEventListener("keydown", (event) => {
  if (event.ctrlKey || event.metaKey || event.altKey || event.repeat) return;
  if (event.target instanceof HTMLInputElement) return;
  if (event.key === "Backspace") { event.preventDefault(); back(); return; }
  if ($("vote").hidden || !(event.key in KEYS)) return;
  event.preventDefault();
  answer(KEYS[event.key]);
});
start();
