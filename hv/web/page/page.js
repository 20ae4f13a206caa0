/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * The page: one list of images (/api/images), drawn four times over one axis of time. Canvases, since
 * thousands of images are usual; the same is there as a table, and the tree's canvas is worked by
 * keys, too. All that comes from the store is set as text, never as markup.
 *
 * The token is in the URL behind "#", which is not sent. It is kept for this tab alone and goes along
 * in a header.
 */
"use strict";

const $ = (id) => document.getElementById(id);
const REFRESH_MS = 5000;
const PAGE_ROWS = 100;
const COLOURS = 6;
const PAGE_BYTES = 4096; /* docs/format.md, page_bytes */
const LEFT = 58, RIGHT = 14, ROW = 22, LANE_HEAD = 20, LANE_GAP = 8, MAX_TREE_PX = 12000;

const state = {
  token: null, tag: null, images: [], byId: new Map(), vms: [], off: new Set(), even: false,
  view: null, wholeView: true, chosen: null, hover: null, shown: [], rows: PAGE_ROWS, store: "",
};

/* ---- text for people ---- */

const UNITS = ["B", "KiB", "MiB", "GiB", "TiB", "PiB"];
function bytes(n) {
  let unit = 0;
  while (n >= 1024 && unit < UNITS.length - 1) { n /= 1024; unit++; }
  return `${unit === 0 || n >= 100 ? Math.round(n) : n.toFixed(1)} ${UNITS[unit]}`;
}
function span(us) {
  if (us < 1000) return `${Math.round(us)} µs`;
  if (us < 1e6) return `${(us / 1000).toFixed(us < 1e4 ? 2 : us < 1e5 ? 1 : 0)} ms`;
  return `${(us / 1e6).toFixed(2)} s`;
}
function moment(us) {
  const d = new Date(us / 1000), two = (n) => String(n).padStart(2, "0");
  return `${d.getFullYear()}-${two(d.getMonth() + 1)}-${two(d.getDate())} ` +
    `${two(d.getHours())}:${two(d.getMinutes())}:${two(d.getSeconds())}`;
}
function ago(us) {
  const s = Math.max(0, (Date.now() * 1000 - us) / 1e6);
  if (s < 60) return `${Math.round(s)} s ago`;
  if (s < 3600) return `${Math.round(s / 60)} min ago`;
  if (s < 172800) return `${Math.round(s / 3600)} h ago`;
  return `${Math.round(s / 86400)} days ago`;
}
const count = (n, one, many) => `${n} ${n === 1 ? one : many}`;
/* Of the page's colours, which change with the scheme alone. */
let colours = new Map();
function css(name) {
  if (!colours.has(name)) colours.set(name, getComputedStyle(document.documentElement).getPropertyValue(name).trim());
  return colours.get(name);
}
function element(name, text, className) {
  const e = document.createElement(name);
  if (text !== undefined) e.textContent = text;
  if (className) e.className = className;
  return e;
}
function kindOf(image) {
  if (image.kind === "processes") return count(image.n_processes, "process", "processes");
  if (image.kind === "devices") return "devices";
  return image.parent ? "incremental" : "full";
}
function quantile(sorted, q) {
  return sorted.length ? sorted[Math.min(sorted.length - 1, Math.floor(q * sorted.length))] : 0;
}

/* ---- asking ---- */

function takeToken() {
  if (location.hash.length > 1) {
    sessionStorage.setItem("token", location.hash.slice(1));
    history.replaceState(null, "", location.pathname);
  }
  state.token = sessionStorage.getItem("token");
}
function ask(path, tag) {
  const headers = {};
  if (state.token) headers.Authorization = `Bearer ${state.token}`;
  if (tag) headers["If-None-Match"] = tag;
  return fetch(path, { headers, cache: "no-store" });
}
async function askJson(path) {
  const answer = await ask(path);
  const value = await answer.json();
  if (!answer.ok) throw new Error(value.error.message);
  return value;
}

function showEmpty(title, text, command) {
  $("content").hidden = true;
  $("empty").hidden = false;
  $("empty-title").textContent = title;
  $("empty-text").textContent = text;
  $("empty-command").textContent = command;
}

async function refresh() {
  try {
    const answer = await ask("api/images", state.tag);
    if (answer.status === 401) {
      showEmpty("The token is missing", "Other users of this host can reach this page, too: so it shows " +
        "nothing without the token that is behind the # of the URL. Open the whole URL that the command printed.",
        "stasis web");
      $("state").textContent = "";
      return;
    }
    if (answer.status === 200) {
      state.tag = answer.headers.get("ETag");
      take(await answer.json());
    } else if (answer.status !== 304) throw new Error(String(answer.status));
    else if (!$("content").hidden) drawFigures(); /* how old the newest is */
    $("state").textContent = "follows the store";
  } catch (error) {
    $("state").textContent = "stasis web does not answer; this is what was there";
  }
}

function take(list) {
  state.store = list.store;
  $("store").textContent = list.store;
  document.title = `stasis: ${list.store}`;
  if (list.problem && (list.there || list.images.length > 0)) { /* it may have gone, too */
    showEmpty("The store can't be read", list.problem, `stasis store-check --store ${list.store}`);
    return;
  }
  if (list.images.length === 0) {
    showEmpty(list.there ? "No images yet" : "There is no store yet",
      `Images that are taken into ${list.store} show up here by themselves.`,
      `stasis run web -- qemu-system-x86_64 -m 2G …\nstasis checkpoint-create web --store ${list.store}`);
    return;
  }
  $("empty").hidden = true;
  $("content").hidden = false;
  arrange(list.images);
  draw();
}

/* ---- arranging: VMs, rows, rates ---- */

function arrange(images) {
  images.sort((a, b) => a.created_us - b.created_us || (a.id < b.id ? -1 : 1));
  state.images = images;
  state.byId = new Map(images.map((image) => [image.id, image]));
  const vms = new Map();
  for (const image of images) {
    image.children = [];
    if (!vms.has(image.vm)) vms.set(image.vm, []);
    vms.get(image.vm).push(image);
  }
  for (const image of images) {
    const parent = image.parent && state.byId.get(image.parent);
    if (parent) parent.children.push(image);
  }
  state.vms = [...vms.keys()].sort().map((name, i) => ({
    name, images: vms.get(name), colour: `--vm${i % COLOURS}`, rows: placeRows(vms.get(name)),
  }));
  for (const vm of state.vms) for (const image of vm.images) {
    image.of = vm;
    image.rate = dirtyRate(image);
  }
  if (state.chosen && !state.byId.has(state.chosen.id)) chooseNone("It has been deleted.");
  if (state.chosen) state.chosen = state.byId.get(state.chosen.id);
  choosers();
}

/* Bytes a second that were dirty: an increment has each page that was, once, however often it was written
 * or copied. Of a full image nothing is known; 0. */
function dirtyRate(image) {
  const parent = image.kind === "vm" && image.parent && state.byId.get(image.parent);
  const seconds = parent ? (image.created_us - parent.created_us) / 1e6 : 0;
  return seconds > 0 ? (image.data_pages + image.zero_pages) * PAGE_BYTES / seconds : 0;
}

/* The row of each image within its VM's lane: its parent's, as long as that has no later image;
 * else the first that is free from the parent on. Returns how many there are. */
function placeRows(images) {
  const tails = [];
  for (const image of images) {
    const parent = image.parent && state.byId.get(image.parent);
    const since = parent ? parent.created_us : image.created_us;
    let row = parent && tails[parent.row] === parent ? parent.row : -1;
    if (row < 0) row = tails.findIndex((tail) => tail.created_us < since && tail !== parent);
    if (row < 0) row = tails.length;
    image.row = row;
    tails[row] = image;
  }
  return tails.length;
}

const shownVms = () => state.vms.filter((vm) => !state.off.has(vm.name));
const at = (image) => (state.even ? image.index : image.created_us);

/* What is shown, and the whole range of it. */
function range() {
  state.shown = state.images.filter((image) => !state.off.has(image.vm));
  state.shown.forEach((image, i) => { image.index = i; });
  const first = state.shown[0], last = state.shown[state.shown.length - 1];
  if (!first) return state.view || { from: 0, to: 1 };
  const from = at(first), to = at(last), margin = Math.max((to - from) * 0.02, state.even ? 0.5 : 5e5);
  return { from: from - margin, to: to + margin };
}

/* ---- drawing ---- */

function prepare(canvas, height) {
  const width = widthOf(canvas.parentElement), scale = window.devicePixelRatio || 1;
  if (canvas.width !== Math.round(width * scale) || canvas.height !== Math.round(height * scale)) {
    canvas.width = Math.round(width * scale);
    canvas.height = Math.round(height * scale);
    canvas.style.height = `${height}px`;
  }
  const g = canvas.getContext("2d");
  g.setTransform(scale, 0, 0, scale, 0, 0);
  g.clearRect(0, 0, width, height);
  g.font = "12px system-ui, 'DejaVu Sans', sans-serif";
  g.textBaseline = "middle";
  return { g, width, height };
}
function widthOf(e) {
  const style = getComputedStyle(e);
  return Math.max(200, e.clientWidth - parseFloat(style.paddingLeft) - parseFloat(style.paddingRight));
}
/* All plots have the axis of the narrowest, which is the one with a scroll bar. */
const plotWidth = () => widthOf($("tree").parentElement);
function axis() {
  const from = state.view.from, scale = (plotWidth() - LEFT - RIGHT) / (state.view.to - from);
  return { x: (value) => LEFT + (value - from) * scale, value: (x) => from + (x - LEFT) / scale };
}

const STEPS = [1, 5, 15, 60, 300, 900, 3600, 10800, 43200, 86400, 604800, 2592000, 31536000];
function timeTicks(width) {
  const seconds = (state.view.to - state.view.from) / 1e6, wanted = Math.max(2, width / 110);
  const step = STEPS.find((s) => seconds / s <= wanted) || STEPS[STEPS.length - 1];
  const zone = new Date().getTimezoneOffset() * 60, ticks = [];
  for (let t = Math.ceil((state.view.from / 1e6 - zone) / step) * step + zone; t * 1e6 < state.view.to; t += step) {
    const text = moment(t * 1e6);
    ticks.push([t * 1e6, step >= 86400 ? text.slice(0, 10) : step >= 60 ? text.slice(seconds > 86400 ? 5 : 11, 16) : text.slice(11)]);
  }
  return ticks;
}
function evenTicks(width) {
  const step = Math.max(1, Math.ceil((state.view.to - state.view.from) / Math.max(2, width / 110))), ticks = [];
  for (let i = Math.max(0, Math.ceil(state.view.from)); i < state.view.to; i += step) {
    const image = state.shown[i];
    if (image) ticks.push([i, moment(image.created_us).slice(5, 16)]);
  }
  return ticks;
}
function drawTimeAxis(g, x, width, top, bottom) {
  g.textAlign = "center";
  let free = LEFT - 5; /* before that is the other axis' text */
  for (const [value, text] of state.even ? evenTicks(width) : timeTicks(width)) {
    const here = x(value), half = g.measureText(text).width / 2;
    g.fillStyle = css("--grid");
    g.fillRect(here, top, 1, bottom - top);
    if (here - half < free || here + half > width) continue;
    g.fillStyle = css("--quiet");
    g.fillText(text, here, bottom + 9);
    free = here + half + 8;
  }
}
/* What is drawn stays in a copy, so that pointing at an image draws two rings and no thousands. */
function keep(canvas) {
  canvas.kept = canvas.kept || document.createElement("canvas");
  canvas.kept.width = canvas.width;
  canvas.kept.height = canvas.height;
  canvas.kept.getContext("2d").drawImage(canvas, 0, 0);
}
function drawMarks() {
  const { x } = axis();
  for (const canvas of [$("tree"), $("stops"), $("rates")]) {
    const g = canvas.getContext("2d");
    g.save();
    g.setTransform(1, 0, 0, 1, 0, 0);
    g.clearRect(0, 0, canvas.width, canvas.height);
    g.drawImage(canvas.kept, 0, 0);
    g.restore();
    for (const image of [state.hover, state.chosen]) {
      if (!image || state.off.has(image.vm) || !inView(image)) continue;
      const y = canvas.yOf(image), here = x(at(image));
      g.fillStyle = css("--quiet");
      g.globalAlpha = 0.35;
      g.fillRect(here, 0, 1, parseFloat(canvas.style.height));
      g.globalAlpha = 1;
      if (y !== null) ring(g, image, here, y, canvas === $("tree") ? 11 : 7);
    }
  }
}
const inView = (image) => at(image) >= state.view.from && at(image) <= state.view.to;

const isCrowded = () => state.shown.length > 1500;

function mark(g, image, x, y, r) {
  g.beginPath();
  if (image.kind === "processes") {
    const side = Math.max(r * 1.8, 7);
    g.rect(x - side / 2, y - side / 2, side, side);
  }
  else if (image.kind === "devices") {
    g.moveTo(x, y - r * 1.2); g.lineTo(x + r * 1.2, y); g.lineTo(x, y + r * 1.2); g.lineTo(x - r * 1.2, y);
    g.closePath();
  } else g.arc(x, y, r, 0, 2 * Math.PI);
  g.fill();
  if (image.kind === "vm" && !image.parent) {
    g.beginPath();
    g.arc(x, y, r + 2.5, 0, 2 * Math.PI);
    g.stroke();
  }
}
function ring(g, image, x, y, r) {
  g.strokeStyle = css(image === state.chosen ? "--text" : "--quiet");
  g.lineWidth = 2;
  g.beginPath();
  g.arc(x, y, r, 0, 2 * Math.PI);
  g.stroke();
  g.lineWidth = 1;
}

function drawTree() {
  const lanes = [];
  let height = 4;
  for (const vm of shownVms()) {
    const need = LANE_HEAD + vm.rows * ROW + LANE_GAP;
    if (height + need > MAX_TREE_PX) break;
    lanes.push([vm, height]);
    height += need;
  }
  const { g, width } = prepare($("tree"), height + 20), { x } = axis();
  drawTimeAxis(g, x, plotWidth(), 0, height);
  const most = Math.max(1, ...state.shown.map((image) => image.stored_bytes));
  const crowded = isCrowded();
  for (const [vm, top] of lanes) {
    g.textAlign = "left";
    g.fillStyle = css(vm.colour);
    g.font = "600 12px system-ui, 'DejaVu Sans', sans-serif";
    g.fillText(vm.name, 4, top + LANE_HEAD / 2 + 1, width - 8);
    g.fillStyle = css("--line");
    g.fillRect(0, top + LANE_HEAD + vm.rows * ROW + LANE_GAP - 2, width, 1);
    for (const image of vm.images) {
      image.x = x(at(image));
      image.y = top + LANE_HEAD + image.row * ROW + ROW / 2;
    }
    g.save();
    g.beginPath();
    g.rect(LEFT - 14, 0, width - LEFT + 14, height);
    g.clip();
    drawEdges(g, vm, width);
    g.fillStyle = g.strokeStyle = css(vm.colour);
    for (const image of vm.images) {
      if (image.x < LEFT - 20 || image.x > width + 20) continue;
      mark(g, image, image.x, image.y, (crowded ? 1.8 : 2.6) + 4 * Math.sqrt(image.stored_bytes / most));
    }
    g.restore();
  }
  $("tree").yOf = (image) => (image.y === undefined ? null : image.y);
  keep($("tree"));
  if (lanes.length < shownVms().length) $("legend").textContent = "more VMs than fit: choose some above";
  else $("legend").textContent = "◉ full  ● incremental  ◆ devices  ■ processes, larger: more stored";
}
function drawEdges(g, vm, width) {
  g.strokeStyle = css(vm.colour);
  g.globalAlpha = 0.5;
  g.beginPath();
  for (const image of vm.images) {
    const parent = image.parent && state.byId.get(image.parent);
    if (!parent || parent.vm !== vm.name || image.x < 0 || parent.x > width) continue;
    g.moveTo(parent.x, parent.y);
    if (parent.row === image.row) g.lineTo(image.x, image.y);
    else {
      const bend = Math.min(14, Math.abs(image.x - parent.x));
      g.bezierCurveTo(parent.x + bend, parent.y, parent.x, image.y, parent.x + bend, image.y);
      g.lineTo(image.x, image.y);
    }
  }
  g.stroke();
  g.globalAlpha = 1;
}

/* A plot with a logarithmic axis: @value of an image (0: none), @text of a value. */
function drawLog(canvas, low, high, value, text, ticks, line) {
  const height = 170, { g, width } = prepareWide(canvas, height), bottom = height - 20, top = 8, { x } = axis();
  const crowded = isCrowded();
  const scale = (bottom - top) / Math.log(high / low), y = (v) => bottom - Math.log(Math.max(v, low) / low) * scale;
  drawTimeAxis(g, x, width, top, bottom);
  for (const tick of ticks) {
    if (tick < low || tick > high * 1.001) continue;
    g.fillStyle = css("--grid");
    g.fillRect(LEFT, y(tick), width - LEFT - RIGHT, 1);
    g.fillStyle = css("--quiet");
    g.textAlign = "right";
    g.fillText(text(tick), LEFT - 6, y(tick));
  }
  g.save();
  g.beginPath();
  g.rect(LEFT - 5, 0, width, height);
  g.clip();
  for (const vm of shownVms()) {
    g.fillStyle = g.strokeStyle = css(vm.colour);
    if (line) {
      let open = false;
      g.globalAlpha = 0.35;
      g.beginPath();
      for (const image of vm.images) {
        const v = value(image);
        if (!v) continue;
        if (open) g.lineTo(x(at(image)), y(v)); else g.moveTo(x(at(image)), y(v));
        open = true;
      }
      g.stroke();
    }
    g.globalAlpha = crowded ? 0.55 : 0.85;
    for (const image of vm.images) {
      const v = value(image);
      if (!v || !inView(image)) continue;
      if (crowded) {
        g.fillRect(x(at(image)) - 1.5, y(v) - 1.5, 3, 3);
        continue;
      }
      g.beginPath();
      g.arc(x(at(image)), y(v), 3, 0, 2 * Math.PI);
      g.fill();
    }
    g.globalAlpha = 1;
  }
  g.restore();
  if (!state.shown.some((image) => value(image) && inView(image))) nothing(g, width, height);
  canvas.yOf = (image) => (value(image) ? y(value(image)) : null);
  keep(canvas);
}
function prepareWide(canvas, height) {
  const made = prepare(canvas, height);
  made.width = plotWidth();
  return made;
}
function nothing(g, width, height) {
  g.fillStyle = css("--quiet");
  g.textAlign = "center";
  g.fillText("nothing of that in this range", (width + LEFT) / 2, height / 2);
}

const DECADES = [100, 1000, 1e4, 1e5, 1e6, 1e7];
const stopOf = (image) => image.pause_us || 0;
function tickSpan(us) { return us < 1000 ? `${us / 1000} ms` : us < 1e6 ? `${us / 1000} ms` : `${us / 1e6} s`; }

function drawStops() {
  const stops = state.shown.filter(inView).map(stopOf).filter((v) => v > 0).sort((a, b) => a - b);
  const high = Math.max(1e5, 10 ** Math.ceil(Math.log10(quantile(stops, 1) || 1)));
  drawLog($("stops"), 100, high, stopOf, tickSpan, DECADES, false);
  $("stops-sum").textContent = stops.length
    ? `median ${span(quantile(stops, 0.5))}, 99 % within ${span(quantile(stops, 0.99))}, longest ${span(quantile(stops, 1))}` : "";
  $("stops").setAttribute("aria-label", `Stop time of ${stops.length} images, logarithmic: ${$("stops-sum").textContent}`);
  drawHistogram(stops);
}
function drawRates() {
  const rates = state.shown.filter(inView).map((image) => image.rate || 0).filter((v) => v > 0).sort((a, b) => a - b);
  const ticks = [], low = 2 ** (10 * Math.floor(Math.log2(Math.max(1024, quantile(rates, 0))) / 10));
  const high = Math.max(low * 1024, quantile(rates, 1) * 1.2);
  for (let v = low; v <= high; v *= 32) ticks.push(v);
  drawLog($("rates"), low, high, (image) => image.rate || 0, (v) => `${bytes(v)}`.replace(".0 ", " "), ticks, true);
  $("rates-sum").textContent = rates.length ? `median ${bytes(quantile(rates, 0.5))}/s, most ${bytes(quantile(rates, 1))}/s` : "";
  $("rates").setAttribute("aria-label", `Memory dirtied per second, of each increment since its parent, logarithmic: ${$("rates-sum").textContent}`);
}

const EDGES = [100, 200, 500, 1000, 2000, 5000, 1e4, 2e4, 5e4, 1e5, 2e5, 5e5, 1e6];
function drawHistogram(stops) {
  const height = 130, { g, width } = prepareWide($("histogram"), height), bottom = height - 20, top = 16;
  const bins = new Array(EDGES.length + 1).fill(0);
  for (const v of stops) bins[EDGES.findIndex((edge) => v <= edge) < 0 ? EDGES.length : EDGES.findIndex((edge) => v <= edge)]++;
  const most = Math.max(1, ...bins), wide = (width - LEFT - RIGHT) / bins.length;
  g.textAlign = "center";
  bins.forEach((n, i) => {
    const x = LEFT + i * wide, h = n ? Math.max(2, (n / most) * (bottom - top)) : 0;
    g.fillStyle = css("--accent");
    g.fillRect(x + 1.5, bottom - h, wide - 3, h);
    g.fillStyle = css("--text");
    if (n && (wide > 24 || n === most)) g.fillText(String(n), x + wide / 2, bottom - h - 8);
    g.fillStyle = css("--quiet");
    if (i < EDGES.length && (wide > 52 || i % 3 === 0)) g.fillText(tickSpan(EDGES[i]), x + wide, bottom + 9);
  });
  g.fillStyle = css("--line");
  g.fillRect(LEFT, bottom, width - LEFT - RIGHT, 1);
  $("histogram").setAttribute("aria-label", "Histogram of stop times: " + bins.map((n, i) =>
    n ? `${n} ${i < EDGES.length ? `up to ${tickSpan(EDGES[i])}` : "above 1 s"}` : "").filter(Boolean).join(", "));
  if (!stops.length) nothing(g, width, height);
}

function drawFigures() {
  const stops = state.shown.map(stopOf).filter((v) => v > 0).sort((a, b) => a - b);
  const last = state.shown[state.shown.length - 1];
  const figures = [
    ["Images", String(state.shown.length)], ["VMs", String(shownVms().length)],
    ["Stored", bytes(state.shown.reduce((sum, image) => sum + image.stored_bytes, 0))],
    ["Median stop", stops.length ? span(quantile(stops, 0.5)) : "–"],
    ["99 % within", stops.length ? span(quantile(stops, 0.99)) : "–"],
    ["Longest stop", stops.length ? span(quantile(stops, 1)) : "–"],
    ["Worst stall", span(Math.max(0, ...state.shown.map((image) => image.worst_stall_us || 0)))],
    ["Newest", last ? ago(last.created_us) : "–"],
  ];
  $("figures").replaceChildren(...figures.map(([name, value]) => {
    const box = element("div");
    box.append(element("dt", name), element("dd", value));
    return box;
  }));
}

function drawPlots() {
  drawTree();
  drawStops();
  drawRates();
  drawMarks();
}
function draw() {
  const whole = range();
  if (state.wholeView || !state.view) state.view = whole;
  drawPlots();
  drawFigures();
  drawRows();
}
/* Soon, and once: all plots, or the marks on them. */
let soon = null;
function redraw(marksOnly) {
  if (soon) { soon.all = soon.all || marksOnly !== true; return; }
  soon = { all: marksOnly !== true };
  requestAnimationFrame(() => {
    const all = soon.all;
    soon = null;
    if ($("content").hidden) return;
    range();
    if (all) drawPlots(); else drawMarks();
  });
}

function drawRows() {
  if (!$("list").open) return;
  const newest = state.shown.slice(-state.rows).reverse();
  $("rows").replaceChildren(...newest.map((image) => {
    const row = element("tr"), button = element("button", image.id.slice(0, 14)), id = element("td");
    button.type = "button";
    button.addEventListener("click", () => choose(image, true));
    id.append(button);
    row.append(id, element("td", image.vm), element("td", kindOf(image)), element("td", moment(image.created_us)),
      element("td", image.pause_us ? span(image.pause_us) : "–", "n"),
      element("td", image.copied_bytes ? bytes(image.copied_bytes) : "–", "n"), element("td", bytes(image.stored_bytes), "n"));
    return row;
  }));
  $("more").hidden = state.rows >= state.shown.length;
}

/* ---- choosing what is shown ---- */

function choosers() {
  $("vms").replaceChildren(...state.vms.map((vm) => {
    const button = element("button"), dot = element("i");
    dot.style.background = `var(${vm.colour})`;
    button.type = "button";
    button.setAttribute("aria-pressed", String(!state.off.has(vm.name)));
    button.append(dot, `${vm.name} `, element("span", String(vm.images.length), "hint"));
    button.setAttribute("aria-label", `${vm.name}, ${count(vm.images.length, "image", "images")}`);
    button.title = "Click: show or hide; double click: this one alone";
    button.addEventListener("click", () => {
      if (!state.off.delete(vm.name)) state.off.add(vm.name);
      shownChanged();
    });
    button.addEventListener("dblclick", () => {
      state.off = new Set(state.vms.map((other) => other.name).filter((name) => name !== vm.name));
      shownChanged();
    });
    return button;
  }));
  $("vms").hidden = state.vms.length < 2;
}
function shownChanged() {
  [...$("vms").children].forEach((button, i) =>
    button.setAttribute("aria-pressed", String(!state.off.has(state.vms[i].name))));
  state.wholeView = true;
  draw();
}
const RANGES = [["All", 0], ["Hour", 3600e6], ["Day", 86400e6], ["Week", 604800e6], ["−", -2], ["+", -0.5]];
function makeRanges() {
  $("ranges").append(...RANGES.map(([name, us]) => {
    const button = element("button", name);
    button.type = "button";
    if (us < 0) button.setAttribute("aria-label", us < -1 ? "Farther" : "Closer");
    else if (us) button.setAttribute("aria-label", `Last ${name.toLowerCase()} before the newest image`);
    button.addEventListener("click", () => (us < 0 ? zoom(-us) : showLast(us)));
    return button;
  }));
}
function showLast(us) {
  const whole = range(), last = state.shown[state.shown.length - 1];
  state.wholeView = us === 0 || !last;
  if (!state.wholeView) {
    const first = state.shown.find((image) => image.created_us >= last.created_us - us) || last;
    state.view = state.even ? { from: first.index - 0.5, to: last.index + 0.5 }
      : { from: last.created_us - us, to: whole.to };
  } else state.view = whole;
  redraw();
}
function setView(from, to) {
  const whole = range(), least = state.even ? 2 : 20000, most = (whole.to - whole.from) * 1.2;
  let width = Math.min(Math.max(to - from, least), Math.max(most, least));
  from = Math.min(Math.max(from, whole.from - width * 0.5), whole.to - width * 0.5);
  state.view = { from, to: from + width };
  state.wholeView = false;
  redraw();
}
function zoom(factor, around) {
  const { from, to } = state.view;
  const centre = around !== undefined ? around : state.chosen && inView(state.chosen) ? at(state.chosen) : (from + to) / 2;
  setView(centre - (centre - from) * factor, centre + (to - centre) * factor);
}

/* ---- pointing ---- */

function nearest(canvas, event) {
  const box = canvas.getBoundingClientRect(), px = event.clientX - box.left, py = event.clientY - box.top;
  const flat = canvas !== $("tree"), { x } = axis();
  let best = null, least = flat ? 30 : 20;
  for (const image of state.shown) {
    if (flat ? !(canvas === $("stops") ? image.pause_us : image.rate) : image.y === undefined) continue;
    const d = flat ? Math.abs(x(at(image)) - px) : Math.hypot(image.x - px, image.y - py);
    if (d < least) { least = d; best = image; }
  }
  return best;
}
function showTip(image, event) {
  $("tip").hidden = !image;
  if (!image) return;
  $("tip").textContent = `${image.vm}, ${kindOf(image)}\n${moment(image.created_us)}\nstop ${image.pause_us ? span(image.pause_us) : "–"}, ` +
    `stored ${bytes(image.stored_bytes)}${image.rate ? `\ndirtied ${bytes(image.rate)}/s` : ""}${image.note ? `\n${image.note.slice(0, 120)}` : ""}`;
  const box = $("tip").getBoundingClientRect();
  $("tip").style.left = `${Math.max(4, Math.min(event.clientX + 14, innerWidth - box.width - 8))}px`;
  $("tip").style.top = `${event.clientY + 18 + box.height > innerHeight ? event.clientY - box.height - 12 : event.clientY + 18}px`;
}
function pointable(canvas) {
  let drag = null;
  canvas.addEventListener("pointerdown", (event) => { drag = { x: event.clientX, view: state.view, moved: false }; });
  canvas.addEventListener("pointermove", (event) => {
    if (drag && event.buttons && Math.abs(event.clientX - drag.x) > 4) {
      const { value } = axis(), shift = value(event.clientX) - value(drag.x);
      drag.moved = true;
      canvas.setPointerCapture(event.pointerId);
      setView(drag.view.from - shift, drag.view.to - shift);
    }
    const image = drag && drag.moved ? null : nearest(canvas, event);
    showTip(event.pointerType === "touch" ? null : image, event);
    if (image !== state.hover) { state.hover = image; redraw(true); }
  });
  canvas.addEventListener("pointerup", (event) => {
    const image = drag && !drag.moved ? nearest(canvas, event) : null;
    drag = null;
    if (image) choose(image, false);
  });
  canvas.addEventListener("pointerleave", () => { drag = null; state.hover = null; showTip(null); redraw(true); });
  canvas.addEventListener("wheel", (event) => {
    if (!event.ctrlKey && !event.metaKey) return;
    event.preventDefault();
    zoom(event.deltaY > 0 ? 1.25 : 0.8, axis().value(event.clientX - canvas.getBoundingClientRect().left));
  }, { passive: false });
}

const KEYS = {
  ArrowLeft: (i) => i.of.images[i.of.images.indexOf(i) - 1], ArrowRight: (i) => i.of.images[i.of.images.indexOf(i) + 1],
  ArrowUp: (i) => beside(i, -1), ArrowDown: (i) => beside(i, 1), Home: (i) => i.of.images[0],
  End: (i) => i.of.images[i.of.images.length - 1], p: (i) => i.parent && state.byId.get(i.parent), c: (i) => i.children[0],
};
function beside(image, step) {
  const vms = shownVms(), vm = vms[vms.indexOf(image.of) + step];
  return vm && vm.images.reduce((best, other) =>
    Math.abs(other.created_us - image.created_us) < Math.abs(best.created_us - image.created_us) ? other : best);
}
function onKey(event) {
  if (event.ctrlKey || event.metaKey || event.altKey) return;
  const key = event.key.length === 1 ? event.key.toLowerCase() : event.key;
  if (key === "+" || key === "=") zoom(0.5);
  else if (key === "-") zoom(2);
  else if (key === "0") showLast(0);
  else if (key === "Escape") { chooseNone(); redraw(true); }
  else if (KEYS[key]) {
    const from = state.chosen && !state.off.has(state.chosen.vm) ? state.chosen : null;
    const to = from ? KEYS[key](from) : state.shown[state.shown.length - 1];
    if (to) choose(to, true);
  } else return;
  event.preventDefault();
}

/* ---- one image ---- */

let asked = 0;
async function choose(image, bring) {
  state.chosen = image;
  if (bring && !inView(image)) {
    const half = (state.view.to - state.view.from) / 2;
    setView(at(image) - half, at(image) + half);
  }
  $("said").textContent = `${image.vm}, ${kindOf(image)}, ${moment(image.created_us)}, stop ${image.pause_us ? span(image.pause_us) : "none"}`;
  const box = $("tree").parentElement;
  if (bring && (image.y < box.scrollTop + ROW || image.y > box.scrollTop + box.clientHeight - ROW))
    box.scrollTop = image.y - box.clientHeight / 2;
  showDetails(image, image);
  redraw(true);
  const mine = ++asked;
  $("graph").hidden = image.kind !== "processes";
  if (image.kind === "processes") $("graph-picture").replaceChildren();
  try {
    const more = await askJson(`api/image/${image.id}`);
    if (mine === asked) showDetails(image, more);
    if (image.kind !== "processes") return;
    const graph = await askJson(`api/graph/${image.id}`);
    if (mine === asked) showGraph(graph);
  } catch (error) {
    if (mine !== asked) return;
    $("details-body").append(element("p", error.message, "problem"));
    $("graph-text").textContent = error.message;
  }
}

function chooseNone(why) {
  state.chosen = null;
  asked++; /* an answer that is still to come is about another one */
  $("details").classList.add("none");
  $("details-title").textContent = "No image chosen";
  $("details-body").replaceChildren(element("p", why || "Point at one, or press Tab and the arrow keys.", "quiet"));
  $("graph").hidden = true;
  $("said").textContent = `No image chosen. ${why || ""}`;
}

function showDetails(image, more) {
  const body = $("details-body"), list = element("dl");
  const add = (name, value) => { if (value) list.append(element("dt", name), element("dd", value)); };
  $("details").classList.remove("none");
  $("details-title").textContent = image.id;
  body.replaceChildren();
  if (image.note) body.append(element("p", image.note, "note"));
  add("VM", image.vm);
  add("Made", moment(image.created_us));
  add("Kind", `${kindOf(image)}, ${image.mode}`);
  add("Stop", image.pause_us ? span(image.pause_us) : image.paused ? "was paused" : "");
  add("devices", more.device_us ? span(more.device_us) : "");
  add("disks", more.disk_us ? span(more.disk_us) : "");
  add("Worst stall", more.worst_stall_us ? span(more.worst_stall_us) : "");
  add("Deadlines missed", more.missed_deadlines === undefined ? "" : String(more.missed_deadlines));
  add("Files frozen", more.frozen_us ? span(more.frozen_us) : "");
  add("Left for the stop", more.residual_pages ? `${count(more.residual_pages, "page", "pages")}` : "");
  add("Copied", more.copied_bytes ? `${bytes(more.copied_bytes)}${more.rounds ? ` in ${count(more.rounds, "round", "rounds")}` : ""}` : "");
  add("Dirtied", image.rate ? `${bytes(image.rate)}/s since its parent` : "");
  add("Took", span(more.total_us || 0));
  add("RAM", more.ram_bytes ? bytes(more.ram_bytes) : "");
  add("Stored", bytes(image.stored_bytes));
  add("Machine", more.machine ? `${more.machine}, ${more.accel}, ${count(more.n_vcpus, "vCPU", "vCPUs")}` : "");
  add("QEMU", more.qemu_version);
  add("CRIU", more.criu);
  add("Guest", more.kernel);
  for (const disk of more.disks || []) add(`Disk ${disk.name}`, `${bytes(disk.stored_bytes)} of ${bytes(disk.size_bytes)}`);
  body.append(list, relatives(image));
  const command = image.kind === "processes" ? `stasis proc-restore ${image.id} --domain ${image.vm}`
    : image.kind === "devices" ? `stasis device-restore ${image.vm} DEVICE ${image.id}` : `stasis restore ${image.id}`;
  body.append(element("p", "To bring it back:", "quiet"), element("code", `${command} --store ${state.store}`));
}
function relatives(image) {
  const box = element("div", undefined, "go"), parent = image.parent && state.byId.get(image.parent);
  const add = (text, other) => {
    const button = element("button", text);
    button.type = "button";
    button.addEventListener("click", () => choose(other, true));
    box.append(button);
  };
  if (parent) add("Parent", parent);
  else if (image.parent) box.append(element("span", `parent ${image.parent.slice(0, 14)} is gone`, "quiet"));
  image.children.slice(0, 8).forEach((child, i) => add(image.children.length > 1 ? `Child ${i + 1}` : "Child", child));
  return box;
}

/* ---- who belongs together ---- */

const SVG = "http://www.w3.org/2000/svg";
function svg(name, attributes, text) {
  const e = document.createElementNS(SVG, name);
  for (const key in attributes) e.setAttribute(key, attributes[key]);
  if (text !== undefined) e.textContent = text;
  return e;
}

/* Columns: those asked for, then each behind the one that it came in by; neighbours last. */
function layOut(graph) {
  const nodes = new Map();
  for (const m of graph.members) nodes.set(m.pid, { pid: m.pid, name: m.command, via: m.via, column: m.via ? -1 : 0 });
  for (let pass = 0, left = true; left && pass < 50; pass++) {
    left = false;
    for (const node of nodes.values()) {
      if (node.column >= 0) continue;
      for (const edge of graph.edges) {
        if (edge.witness !== node.via) continue;
        const other = nodes.get(edge.a === node.pid ? edge.b : edge.a);
        if (other && other.column >= 0) node.column = Math.min(other.column + 1, 6);
      }
      left = left || node.column < 0;
    }
  }
  let last = 0;
  for (const node of nodes.values()) { if (node.column < 0) node.column = 1; last = Math.max(last, node.column); }
  for (const edge of graph.edges)
    for (const pid of [edge.a, edge.b])
      if (pid && edge.class !== "info" && !nodes.has(pid))
        nodes.set(pid, { pid, name: "", outside: true, column: last + 1, by: nodes.get(pid === edge.a ? edge.b : edge.a) });
  const used = [];
  for (const node of nodes.values()) {
    /* A neighbour is beside the one that it is a neighbour of, or below. */
    const free = used[node.column] === undefined ? 0 : used[node.column] + 1;
    node.row = used[node.column] = node.by ? Math.max(free, node.by.row || 0) : free;
    node.x = 16 + node.column * 250;
    node.y = 16 + node.row * 54;
  }
  return { nodes, columns: used.length, rows: Math.max(...used.map((n) => (n === undefined ? 0 : n + 1))) };
}
/* Relations of two processes that have the same class and place are one line. */
function merged(graph, nodes) {
  const lines = new Map();
  for (const edge of graph.edges) {
    if (edge.class === "info" || !edge.b || !nodes.has(edge.a) || !nodes.has(edge.b) || edge.a === edge.b) continue;
    const key = `${Math.min(edge.a, edge.b)} ${Math.max(edge.a, edge.b)} ${edge.class} ${edge.place}`;
    if (!lines.has(key)) lines.set(key, { a: nodes.get(edge.a), b: nodes.get(edge.b), edge, names: new Set(), witnesses: [] });
    const line = lines.get(key);
    line.names.add(edge.relation);
    line.witnesses.push(edge.witness + (edge.talked !== undefined ? ` (${edge.talked} messages)` : ""));
  }
  return [...lines.values()];
}
function showGraph(graph) {
  const { nodes, columns, rows } = layOut(graph), lines = merged(graph, nodes), wide = 190, high = 36;
  const picture = svg("svg", { width: columns * 250 + 20, height: rows * 54 + 30, role: "group",
    "aria-label": `${count(graph.n_members, "process", "processes")} and what ties them together` });
  for (const line of lines) {
    const [from, to] = line.a.column <= line.b.column ? [line.a, line.b] : [line.b, line.a];
    const same = from.column === to.column, x1 = from.x + wide, y1 = from.y + high / 2, y2 = to.y + high / 2;
    const x2 = same ? to.x + wide : to.x, bend = same ? 26 : (x2 - x1) / 2;
    const colour = line.edge.place === "cut" ? "--cut" : `--${line.edge.class}`;
    line.g = svg("g", {});
    const path = svg("path", { d: `M${x1} ${y1} C${x1 + bend} ${y1} ${same ? x2 + bend : x2 - bend} ${y2} ${x2} ${y2}`, fill: "none",
      "stroke-width": line.edge.class === "hard" ? 2.5 : 1.2 });
    path.style.stroke = `var(${colour})`;
    if (line.edge.place === "cut") path.setAttribute("stroke-dasharray", "5 3");
    path.append(svg("title", {}, line.witnesses.join("\n")));
    line.g.append(path, svg("text", { class: "edge-text", x: same ? x1 + 22 : x1 + (x2 - x1) * 0.66, y: same ? (y1 + y2) / 2 + 3 : y1 + (y2 - y1) * 0.8 - 4,
      "text-anchor": same ? "start" : "middle" }, [...line.names].join(", ")));
    picture.append(line.g);
  }
  for (const node of nodes.values()) {
    const label = `${node.pid} ${node.name || "stays outside"}`;
    const g = svg("g", { tabindex: 0, role: "img", "aria-label": `${label}: ${node.via || (node.outside ? "a neighbour" : "asked for")}` });
    g.append(svg("title", {}, node.via || (node.outside ? "stays outside" : "asked for")),
      svg("rect", { class: `box${node.outside ? " outside" : node.via ? "" : " root"}`, x: node.x, y: node.y, width: wide, height: high, rx: 7 }),
      svg("text", { x: node.x + 10, y: node.y + high / 2 + 4 }, label.length > 26 ? `${label.slice(0, 25)}…` : label));
    const dim = (on) => lines.forEach((line) => line.g.classList.toggle("dim", on && line.a !== node && line.b !== node));
    for (const name of ["focus", "pointerenter"]) g.addEventListener(name, () => dim(true));
    for (const name of ["blur", "pointerleave"]) g.addEventListener(name, () => dim(false));
    picture.append(g);
  }
  const cut = graph.n_members > graph.members.length || graph.n_edges > graph.edges.length;
  $("graph-text").textContent = `${count(graph.n_members, "process", "processes")}, ${count(graph.n_edges, "relation", "relations")}` +
    `${cut ? "; the first of them are shown" : ""}. Thick: must come along. Thin: can be cut. Dashed: was cut.`;
  $("graph-picture").replaceChildren(picture);
  $("graph-list").replaceChildren(...graph.edges.slice(0, 500).map((edge) => element("li", `${edge.class}, ${edge.place}: ${edge.witness}`)));
}

/* ---- begin ---- */

takeToken();
makeRanges();
for (const id of ["tree", "stops", "rates"]) pointable($(id));
$("tree").addEventListener("keydown", onKey);
$("close").addEventListener("click", () => { chooseNone(); redraw(true); $("tree").focus({ preventScroll: true }); });
$("even").addEventListener("change", () => { state.even = $("even").checked; state.wholeView = true; draw(); });
$("list").addEventListener("toggle", drawRows);
$("more").addEventListener("click", () => { state.rows += PAGE_ROWS * 5; drawRows(); });
addEventListener("hashchange", () => { takeToken(); state.tag = null; refresh(); });
/* Also when a scroll bar comes or goes, which no other event tells. */
new ResizeObserver(() => redraw()).observe($("plots"));
matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => { colours = new Map(); redraw(); });
document.addEventListener("visibilitychange", () => { if (!document.hidden) refresh(); });
setInterval(() => { if (!document.hidden) refresh(); }, REFRESH_MS);
refresh();
