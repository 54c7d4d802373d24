"use strict";
// What the pages of all kinds of models share. The script of the kind follows
// this one and has `begin()`, once `info` is there, `showImage(image)`, and
// `predict()`.
const $ = id => document.getElementById(id);
// Options with a natural range get a slider, all others a field.
const SLIDERS = {temperature: {min: 0, max: 2, step: 0.05},
  temp: {min: 0, max: 2, step: 0.05},
  choice_temperature: {min: 0, max: 10, step: 0.5},
  num_iter: {min: 1, max: 64, step: 1},
  num_steps: {min: 1, max: 100, step: 1},
  time_difference: {min: 0, max: 4, step: 0.25}};
// What a control is called, if not by the name of its option.
const TITLES = {num_iter: "passes", num_steps: "steps", temp: "temperature"};
const titleOf = name => TITLES[name] || name.replaceAll("_", "-");
const images = new Map();  // id → {image, truth, samples, …}
let info, now;

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
      className: now === x.id ? "on" : "", onclick: () => openImage(x.id)},
      element("img", {src: x.image, alt: `image ${i + 1}`}))));
}

function openImage(id) {
  now = id; say();
  $("predict").disabled = !info.predicts;
  drawStrip();
  showImage(images.get(id));
}

// A drawing with its title. `output`: as the server gave it, for the meaning
// of the pixels; `choose`: what a click does; `on`: whether it is chosen.
function card(title, drawing, {note = " ", output, choose, on = false} = {}) {
  const picture = element("img", {src: drawing, alt: title});
  explain(picture, () => output);
  const out = element("figure", {className: on ? "on" : ""}, picture,
    element("figcaption", {}, element("strong", {textContent: title}),
      element("div", {className: "soft", textContent: note})));
  if (choose) {
    out.tabIndex = 0;
    out.onclick = choose;
    out.onkeydown = e => { if (e.key === "Enter") choose(); };
  }
  return out;
}

// The image, and the truth where it is known.
function firstCards(x) {
  const cards = [card("image", x.image, {note: `${x.width} × ${x.height}`})];
  if (x.truth) cards.push(card("truth", x.truth.output, {output: x.truth}));
  return cards;
}

// ── What the colors stand for ────────────────────────────────────────────

function drawLegend(outputs) {
  if (info.scale) return drawBar();
  const present = new Set();
  for (const output of outputs)
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

// ── Upload and options ───────────────────────────────────────────────────

async function upload(file) {
  if (!file) return;
  if (file.size > info.max_bytes) return say(`${file.name} is larger than ${
    (info.max_bytes / 2 ** 20).toFixed(0)} MB.`);
  await busy($("predict"), async () => {
    const image = await ask("images", file, true);
    take(image); openImage(image.id);
    if (info.predicts) await predict();
  });
  $("file").value = "";
}

// Options whose slider ends where the model does.
function sliderOf(option) {
  const slider = SLIDERS[option.name];
  const most = (info.most || {})[option.name];
  return slider && most ? {...slider, max: Math.min(slider.max, most)} : slider;
}

function controlOf(option) {
  const slider = sliderOf(option);
  const shown = option.default === null ? "" : option.default;
  const hint = `${option.doc} ${option.allowed}`;
  let control;
  if (option.choices.length) {
    const choices = option.choices.map(x => [x, x]);
    if (option.default === null) choices.unshift(["", "off"]);
    control = element("select", {}, ...choices.map(([value, textContent]) =>
      element("option", {value, textContent})));
  } else if (slider) {
    control = element("input", {type: "range", ...slider});
  } else {
    control = element("input", {type: "number", step: "any",
      placeholder: "off"});
  }
  Object.assign(control, {id: option.name, value: shown, title: hint});
  const value = element(slider ? "output" : "span",
    {textContent: slider ? control.value : ""});
  if (slider) control.oninput = () => { value.textContent = control.value; };
  return element("label", {className: "row", title: hint},
    titleOf(option.name), control, value);
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

function settingsOf(options) {
  const short = name => titleOf(name).replace(/^temperature$/, "T");
  return Object.entries(options).map(([name, value]) =>
    `${short(name)} ${value}`).join(", ");
}

$("predict").onclick = () => busy($("predict"), () => predict());
$("file").onchange = e => upload(e.target.files[0]);
for (const kind of ["dragover", "dragleave", "drop"])
  document.addEventListener(kind, e => {
    e.preventDefault(); $("drop").classList.toggle("over", kind === "dragover");
    if (kind === "drop") upload(e.dataTransfer.files[0]);
  });
$("num_samples").oninput = () => {
  $("num_samples_out").textContent = $("num_samples").value; };

async function start() {
  try {
    info = await ask("info");
    $("sampling").hidden = !info.predicts;
    $("options").append(...info.options.map(controlOf));
    $("num_samples").max = info.max_samples;
    begin();
    for (const id of info.examples) take(await ask(`images/${id}`));
    if (info.examples.length && !now) {
      openImage(info.examples[0]);
      if (info.predicts) await busy($("predict"), () => predict());
    }
    document.body.dataset.ready = "yes";
  } catch (e) { say(e.message); }
}
