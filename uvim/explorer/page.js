"use strict";
const $ = id => document.getElementById(id);
// Options with a natural range get a slider, all others a field.
const SLIDERS = {temperature: {min: 0, max: 2, step: 0.05},
  choice_temperature: {min: 0, max: 10, step: 0.5},
  num_iter: {min: 1, max: 64, step: 1}};
// What a control is called, if not by the name of its option.
const TITLES = {num_iter: "passes"};
// Where a prior lacks one of these, the page says so.
const USUAL_OPTIONS = ["temperature", "top_k", "top_p"];
const images = new Map();  // id → {image, truth, oracle, samples}
let info, now, chosen;     // chosen: the sample on which the code is based
let code = [], base = [], confidence = null, undo = [], locked = new Set();
let background = new Image(), request = 0;
let shown = null;  // The output of the painted code, as the server gave it.

function say(text) { $("error").textContent = text || ""; }

async function ask(path, body, raw) {
  const options = body === undefined ? {} : {
    method: "POST", body: raw ? body : JSON.stringify(body)};
  const reply = await fetch(path, options).catch(
    () => { throw Error("The server does not answer."); });
  const got = await reply.json().catch(
    () => { throw Error(`The server says ${reply.status}.`); });
  if (got.error) throw Error(got.error);
  return got;
}

async function busy(button, work) {
  say(); button.disabled = true;
  document.body.style.cursor = "progress";
  try { await work(); } catch (e) { say(e.message); }
  document.body.style.cursor = ""; button.disabled = false;
}

function element(tag, fields, ...children) {
  const out = Object.assign(document.createElement(tag), fields);
  out.append(...children);
  return out;
}

function take(image) {  // An image as the server describes it.
  const old = images.get(image.id);
  images.set(image.id, {samples: old ? old.samples : [], ...image});
  drawStrip();
}

function drawStrip() {
  $("strip").replaceChildren(...[...images.values()].map((x, i) =>
    element("button", {title: `image ${i + 1}`,
      className: now === x.id ? "on" : "", onclick: () => open_(x.id)},
      element("img", {src: x.image, alt: `image ${i + 1}`}))));
  const others = [...images.values()].filter(x => x.id !== now && codeOf(x));
  $("source").replaceChildren(...others.map(x => element("option",
    {value: x.id, textContent: `image ${
      [...images.keys()].indexOf(x.id) + 1}`})));
}

const codeOf = x => (x.chosen || x.samples[0] || x.oracle || {}).code;

function open_(id) {
  now = id; chosen = null; shown = null; locked.clear(); say();
  background = new Image();
  background.onload = drawGrid;
  background.src = images.get(id).image;
  $("predict").disabled = !info.prior;
  drawStrip(); drawCards();
  const x = images.get(id);
  if (x.samples[0] || x.oracle) choose(x.chosen || x.samples[0] || x.oracle);
  else $("editor").hidden = true;
}

function card(title, drawing, sample, note, output) {
  const picture = element("img", {src: drawing, alt: title});
  explain(picture, () => output || sample);
  const out = element("figure", {className: sample && sample === chosen
    ? "on" : ""}, picture,
    element("figcaption", {}, element("strong", {textContent: title}),
      element("div", {className: "soft", textContent: note || " "})));
  if (sample) {
    out.tabIndex = 0;
    out.onclick = () => choose(sample);
    out.onkeydown = e => { if (e.key === "Enter") choose(sample); };
  }
  return out;
}

const bits = x => x.bits === undefined ? "" : `${x.bits.toFixed(2)} bits/word`;

function drawCards() {
  const x = images.get(now);
  const cards = [card("image", x.image, null, `${x.width} × ${x.height}`)];
  if (x.truth) cards.push(card("truth", x.truth.output, null, "", x.truth));
  if (x.oracle) cards.push(card("oracle's code", x.oracle.output, x.oracle,
    bits(x.oracle)));
  x.samples.forEach((s, i) => cards.push(card(
    x.samples.length > 1 ? `prior, sample ${i + 1}` : "prior", s.output, s,
    [bits(s), s.settings, s.best && "likeliest"].filter(Boolean).join(" · "))));
  $("cards").replaceChildren(...cards);
  drawLegend();
}

function choose(sample) {
  const kept = [...locked].map(i => [i, code[i]]);
  chosen = images.get(now).chosen = sample;
  base = sample.code.slice(); code = base.slice(); undo = [];
  kept.forEach(([i, word]) => { code[i] = word; });
  confidence = sample.confidence || null;
  $("editor").hidden = !!info.unpaintable; showOutput(sample);
  $("likelihood").textContent = bits(sample) || " ";
  drawCards(); drawStrip(); drawGrid(); drawUsage();
  if (kept.some(([i, word]) => word !== base[i])) repaint();
}

function showOutput(output) {
  shown = output;
  $("out").src = output.output;
  drawLegend();
}

// ── What the colors stand for ────────────────────────────────────────────

function drawLegend() {
  if (info.scale) return drawBar();
  const x = images.get(now), present = new Set();
  for (const output of [x.truth, x.oracle, ...x.samples, shown])
    if (output) (output.present || []).forEach(c => present.add(c));
  const classes = [...present].sort((a, b) => a - b);
  $("legend").replaceChildren(...classes.map(c => {
    const patch = element("i", {});
    patch.style.background = info.classes[c - 1].color;
    return element("span", {}, patch, info.classes[c - 1].name);
  }));
}

function drawBar() {
  const {lowest, highest, unit, bar} = info.scale;
  const numbers = [0, .25, .5, .75, 1].map(share => element("span",
    {textContent: `${+(lowest + share * (highest - lowest)).toPrecision(3)
      } ${unit}`}));
  $("legend").replaceChildren(element("div", {className: "bar"},
    element("img", {src: bar, alt: `from ${lowest} to ${highest} ${unit}`}),
    element("div", {}, ...numbers)));
}

function meaningOf(number) {
  if (info.scale) return number
    ? `${(number / info.scale.per_unit).toFixed(2)} ${info.scale.unit}`
    : "not known";
  return number ? info.classes[number - 1].name : "void";
}

async function readPixels(url) {
  const image = new Image();
  image.src = url;
  await image.decode();
  const canvas = element("canvas",
    {width: image.naturalWidth, height: image.naturalHeight});
  const c = canvas.getContext("2d");
  c.drawImage(image, 0, 0);
  return c.getImageData(0, 0, canvas.width, canvas.height);
}

// Says what the pixel under the pointer is. `outputOf` gives the output that
// the image shows.
function explain(image, outputOf) {
  image.onpointermove = image.onpointerdown = async event => {
    const output = outputOf(), tip = $("tip");
    if (!output || !output.values) return;
    output.pixels = output.pixels || readPixels(output.values);
    const {width, height, data} = await output.pixels;
    const box = image.getBoundingClientRect();
    // The image may be narrower or lower than its box.
    const zoom = Math.min(box.width / width, box.height / height);
    const left = box.left + (box.width - width * zoom) / 2;
    const top = box.top + (box.height - height * zoom) / 2;
    const x = Math.floor((event.clientX - left) / zoom);
    const y = Math.floor((event.clientY - top) / zoom);
    tip.hidden = x < 0 || y < 0 || x >= width || y >= height;
    if (tip.hidden) return;
    const i = 4 * (y * width + x);
    tip.textContent = meaningOf(data[i] + 256 * data[i + 1]
      + 65536 * data[i + 2]);
    const most = innerWidth - tip.offsetWidth - 4;
    tip.style.left = `${Math.min(event.clientX + 12, most)}px`;
    tip.style.top = `${event.clientY + 16}px`;
  };
  image.onpointerleave = () => { $("tip").hidden = true; };
}

// ── The code over the image ──────────────────────────────────────────────

function shape() {  // Words in a learned bottleneck have no places.
  if (info.grid) return info.grid;
  const columns = Math.ceil(Math.sqrt(info.length));
  return [Math.ceil(info.length / columns), columns];
}

function drawGrid() {
  if (info.unpaintable || !code.length || !background.naturalWidth) return;
  const canvas = $("grid"), [rows, columns] = shape();
  const wide = 760, ratio = background.naturalHeight / background.naturalWidth;
  canvas.width = wide;
  canvas.height = info.grid ? Math.max(wide / 4, Math.min(wide * 1.6,
    wide * ratio)) : wide * rows / columns;
  const c = canvas.getContext("2d"), w = wide / columns;
  const h = canvas.height / rows;
  if (info.grid) c.drawImage(background, 0, 0, canvas.width, canvas.height);
  code.forEach((word, i) => {
    const x = i % columns * w, y = Math.floor(i / columns) * h;
    c.globalAlpha = +$("alpha").value;
    c.fillStyle = color(word, i);
    if (c.fillStyle !== "#00000000" || word < 0) c.fillRect(x, y, w, h);
    c.globalAlpha = 1;
    c.strokeStyle = "rgba(255,255,255,.35)"; c.lineWidth = 1;
    c.strokeRect(x + .5, y + .5, w - 1, h - 1);
    if (word !== base[i]) frame(c, "#fff", x, y, w, h);
    if (locked.has(i)) frame(c, "#38bdf8", x, y, w, h);
    if (w > 34 && word >= 0) {
      c.font = `${Math.min(15, w / 3.2)}px system-ui`;
      c.textAlign = "center"; c.textBaseline = "middle";
      c.lineWidth = 3; c.strokeStyle = "rgba(0,0,0,.6)"; c.fillStyle = "#fff";
      c.strokeText(word, x + w / 2, y + h / 2);
      c.fillText(word, x + w / 2, y + h / 2);
    }
  });
  $("undo").disabled = !undo.length;
}

function frame(c, style, x, y, w, h) {
  c.strokeStyle = style; c.lineWidth = 3;
  c.strokeRect(x + 2.5, y + 2.5, w - 5, h - 5);
}

function color(word, i) {
  if (word < 0) return "#000";
  const show = $("show").value;
  if (show === "words") return `hsl(${word * 137.508 % 360} 75% 55%)`;
  if (show === "none" || !confidence || word !== base[i] && !confidence.exact)
    return "#00000000";
  return `hsl(${Math.round(130 * confidence[i])} 75% 45%)`;
}

function cellAt(event) {
  const box = $("grid").getBoundingClientRect(), [rows, columns] = shape();
  const x = Math.floor((event.clientX - box.left) / box.width * columns);
  const y = Math.floor((event.clientY - box.top) / box.height * rows);
  return x < 0 || y < 0 || x >= columns || y >= rows ? null : [y, x];
}

function newWord(i) {
  const kind = $("brush").value, other = images.get($("source").value);
  if (kind === "zero") return -1;
  if (kind === "random") return Math.floor(Math.random() * info.words);
  if (kind === "restore") return base[i];
  if (kind === "copy") return other ? codeOf(other)[i] : code[i];
  const word = Math.round(+$("word").value);
  return Math.min(info.words - 1, Math.max(0, word || 0));
}

function paint(cells) {
  for (const i of cells) {
    if ($("brush").value === "lock") {
      locked.has(i) ? locked.delete(i) : locked.add(i);
    } else if (!locked.has(i)) code[i] = newWord(i);
  }
  drawGrid(); drawUsage();
}

let stroke = null;  // Cells of the stroke so far.
function extend(event) {
  const cell = cellAt(event), size = +$("size").value, [rows, columns] = shape();
  if (!cell) return;
  const fresh = [], from = -Math.floor((size - 1) / 2);
  for (let dy = from; dy < from + size; dy++)
    for (let dx = from; dx < from + size; dx++) {
      const y = cell[0] + dy, x = cell[1] + dx, i = y * columns + x;
      if (y < 0 || x < 0 || y >= rows || x >= columns || i >= code.length ||
          stroke.has(i)) continue;
      stroke.add(i); fresh.push(i);
    }
  paint(fresh);
}

$("grid").onpointerdown = e => {
  e.preventDefault(); $("grid").setPointerCapture(e.pointerId);
  undo.push(code.slice()); stroke = new Set(); extend(e);
};
$("grid").onpointermove = e => {
  const cell = cellAt(e), i = cell && cell[0] * shape()[1] + cell[1];
  if (cell && i < code.length) $("cell").textContent = code[i] < 0
    ? "no word" : `word ${code[i]}` + (confidence && code[i] === base[i]
      ? `, probability ${confidence[i].toFixed(2)}` : "");
  if (stroke) extend(e);
};
$("grid").onpointerup = $("grid").onpointercancel = () => {
  if (stroke) { stroke = null; repaint(); }
};

async function repaint() {
  const mine = ++request, id = now;
  try {
    const got = await ask("decode",
      {id, code, ...chosenOptions(info.output_options)});
    if (mine !== request || id !== now) return;
    showOutput(got);
    $("likelihood").textContent = bits(got) || "a code with gaps has no " +
      "likelihood";
    confidence = got.confidence ? Object.assign(got.confidence, {exact: true})
      : chosen.confidence;
    drawGrid();
  } catch (e) { say(e.message); }
}

$("all").onclick = () => { undo.push(code.slice());
  paint(code.map((_, i) => i)); repaint(); };
$("undo").onclick = () => { code = undo.pop() || code; drawGrid(); drawUsage();
  repaint(); };
$("reset").onclick = () => { locked.clear(); choose(chosen); };

// Painted and fixed words stay; the prior draws the others.
function givenWords() {
  return code.map((word, i) =>
    word >= 0 && (locked.has(i) || word !== base[i]) ? word : -1);
}

async function follow() {
  const given = givenWords(), kept = given.filter(word => word >= 0).length;
  if (!kept) throw Error("Paint or fix words first; the rest follows them.");
  const title = `${kept} word${kept > 1 ? "s" : ""} fixed`;
  await predict({given}, title);
  // So that the next ones follow them, too.
  given.forEach((word, i) => { if (word >= 0) locked.add(i); });
  drawGrid();
}

$("follow").onclick = () => busy($("follow"), follow);
$("brush").onchange = () => {
  $("word").hidden = $("brush").value !== "word";
  $("source").hidden = $("brush").value !== "copy"; };
$("show").onchange = $("alpha").oninput = drawGrid;
explain($("out"), () => shown);

// ── Codebook, upload, prediction ────────────────────────────────────────

function drawUsage() {
  if (!info.counts) return;
  const canvas = $("usage"), c = canvas.getContext("2d");
  const w = canvas.width = 460, h = canvas.height = 220, used = new Set(code);
  const order = info.counts.map((n, i) => [n, i]).sort((a, b) => b[0] - a[0]);
  const top = Math.log1p(order[0][0]), step = w / order.length;
  const style = getComputedStyle(document.documentElement);
  for (const wanted of [false, true]) {
    c.fillStyle = style.getPropertyValue(wanted ? "--mark" : "--soft");
    order.forEach(([n, i], x) => { if (used.has(i) === wanted) {
      const tall = Math.max(2, h * Math.log1p(n) / top);
      c.fillRect(x * step, h - tall, Math.max(1.5, step * .85), tall); } });
  }
  used.delete(-1);
  $("usage_text").textContent = `${info.words} words, perplexity ${
    info.perplexity.toFixed(0)}` + (code.length ? `; ${used.size} in this code`
      : "");
}

async function upload(file) {
  if (!file) return;
  if (file.size > info.max_bytes) return say(`${file.name} is larger than ${
    (info.max_bytes / 2 ** 20).toFixed(0)} MB.`);
  await busy($("predict"), async () => {
    const image = await ask("images", file, true);
    take(image); open_(image.id);
    if (info.prior) await predict();
  });
  $("file").value = "";
}

function sliderOf(option, slider) {
  // More passes than words are as many as there are words.
  return option.name === "num_iter"
    ? {...slider, max: Math.min(slider.max, info.length)} : slider;
}

function controlOf(option) {
  const slider = SLIDERS[option.name];
  const shown = option.default === null ? "" : option.default;
  const hint = `${option.doc} ${option.allowed}`;
  let control;
  if (option.choices.length) {
    const choices = option.choices.map(x => [x, x]);
    if (option.default === null) choices.unshift(["", "off"]);
    control = element("select", {}, ...choices.map(([value, textContent]) =>
      element("option", {value, textContent})));
  } else if (slider) {
    control = element("input", {type: "range", ...sliderOf(option, slider)});
  } else {
    control = element("input", {type: "number", step: "any",
      placeholder: "off"});
  }
  Object.assign(control, {id: option.name, value: shown, title: hint});
  const value = element(slider ? "output" : "span",
    {textContent: slider ? control.value : ""});
  if (slider) control.oninput = () => { value.textContent = control.value; };
  return element("label", {className: "row", title: hint},
    TITLES[option.name] || option.name.replaceAll("_", "-"), control, value);
}

function addControls() {
  $("options").append(...info.options.map(controlOf));
  const known = info.options.map(option => option.name);
  const missing = USUAL_OPTIONS.filter(name => !known.includes(name));
  $("missing").textContent = missing.length
    ? `This prior has no ${missing.join(", ").replaceAll("_", "-")}.` : "";
}

// What the user chose; an empty field is left out. `names`: of which options.
function chosenOptions(names) {
  const given = {};
  for (const option of info.options) {
    if (names && !names.includes(option.name)) continue;
    const text = $(option.name).value;
    if (text === "") continue;
    given[option.name] = option.choices.length ? text : +text;
  }
  return given;
}

// `words`: {given}, the words that stay, or nothing; `title` says so.
async function predict(words = {}, title = "") {
  const id = now, options = chosenOptions();
  const got = await ask("predict", {id, ...options, ...words,
    seed: +$("seed").value || 0, num_samples: +$("num_samples").value});
  const settings = [title, ...Object.entries(options).map(([name, value]) =>
    `${name === "temperature" ? "T" : TITLES[name] || name} ${value}`)]
    .filter(Boolean).join(", ");
  const least = Math.min(...got.samples.map(s => s.bits));
  got.samples.forEach(s => Object.assign(s, {settings,
    best: got.samples.length > 1 && s.bits === least}));
  images.get(id).samples = got.samples;
  if (id === now) choose(got.samples[0]);
}

$("predict").onclick = () => busy($("predict"), predict);
$("file").onchange = e => upload(e.target.files[0]);
for (const kind of ["dragover", "dragleave", "drop"])
  document.addEventListener(kind, e => {
    e.preventDefault(); $("drop").classList.toggle("over", kind === "dragover");
    if (kind === "drop") upload(e.dataTransfer.files[0]);
  });
$("num_samples").oninput = () => {
  $("num_samples_out").textContent = $("num_samples").value; };

(async () => {
  try {
    info = await ask("info");
    const words = info.words === null ? `${info.length} places`
      : `${info.length} words of ${info.words}`;
    $("title").textContent = `${info.title} · ${info.task} · ${words}${
      info.prior ? "" : " · no prior"}`;
    $("unpaintable").hidden = !info.unpaintable;
    $("paint_hint").hidden = !!info.unpaintable;
    $("unpaintable").lastElementChild.textContent = info.unpaintable;
    $("follow").hidden = !info.given_note;
    $("given_note").textContent = info.given_note
      && `Let the rest follow: ${info.given_note}`;
    $("about").textContent = info.grid ? `${info.grid[0]} × ${info.grid[1]
      } words, each of one of ${info.words} kinds` : `${info.length
      } words without a place in the image`;
    $("sampling").hidden = !info.prior;
    addControls();
    $("codebook").hidden = !info.counts;
    $("num_samples").max = info.max_samples; $("word").max = info.words - 1;
    $("brush").onchange(); drawUsage();
    for (const id of info.examples) take(await ask(`images/${id}`));
    if (info.examples.length && !now) {
      open_(info.examples[0]);
      if (info.prior) await busy($("predict"), predict);
    }
    document.body.dataset.ready = "yes";
  } catch (e) { say(e.message); }
})();
