// ══ The page of a UViM: predictions, and a code to paint over ═════════════

// Where a prior lacks one of these, the page says so.
const USUAL_OPTIONS = ["temperature", "top-k", "top-p", "drop-below"];
let chosen;  // The sample on which the code is based.
let code = [], base = [], confidence = null, undo = [], locked = new Set();
let background = new Image(), request = 0;
let shown = null;  // The output of the painted code, as the server gave it.

function begin() {
  const words = info.words === null ? `${info.length} places`
    : `${info.length} words of ${info.words}`;
  $("title").textContent = `${info.title} · ${info.task} · ${words}${
    info.predicts ? "" : " · no prior"}`;
  $("unpaintable").hidden = !info.unpaintable;
  $("unpaintable").lastElementChild.textContent = info.unpaintable;
  $("hint").textContent = info.unpaintable ? ""
    : "Choose one to paint over its code.";
  $("follow").hidden = !info.given_note;
  $("given_note").textContent = info.given_note
    && `Let the rest follow: ${info.given_note}`;
  $("about").textContent = info.grid ? `${info.grid[0]} × ${info.grid[1]
    } words, each of one of ${info.words} kinds` : `${info.length
    } words without a place in the image`;
  const known = info.options.map(option => titleOf(option.name));
  const missing = USUAL_OPTIONS.filter(name => !known.includes(name));
  $("missing").textContent = missing.length
    ? `This prior has no ${missing.join(", ")}.` : "";
  $("codebook").hidden = !info.counts;
  $("word").max = info.words - 1;
  $("brush").onchange(); drawUsage();
}

function showImage(x) {
  chosen = null; shown = null; locked.clear();
  background = new Image();
  background.onload = drawGrid;
  background.src = x.image;
  drawSources(); drawCards();
  if (x.samples[0] || x.oracle) choose(x.chosen || x.samples[0] || x.oracle);
  else $("editor").hidden = true;
}

// The images whose words can be copied.
function drawSources() {
  const others = [...images.values()].filter(x => x.id !== now && codeOf(x));
  $("source").replaceChildren(...others.map(x => element("option",
    {value: x.id, textContent: `image ${
      [...images.keys()].indexOf(x.id) + 1}`})));
}

const codeOf = x => (x.chosen || x.samples[0] || x.oracle || {}).code;

const bits = x => x.bits === undefined ? "" : `${x.bits.toFixed(2)} bits/word`;

function drawCards() {
  const x = images.get(now), cards = firstCards(x);
  const add = (title, sample, note) => cards.push(card(title, sample.output, {
    note: note || " ", output: sample, choose: () => choose(sample),
    on: sample === chosen}));
  if (x.oracle) add("oracle's code", x.oracle, bits(x.oracle));
  x.samples.forEach((s, i) => add(
    x.samples.length > 1 ? `prior, sample ${i + 1}` : "prior", s,
    [bits(s), s.settings, s.best && "likeliest"].filter(Boolean).join(" · ")));
  $("cards").replaceChildren(...cards);
  drawOwnLegend();
}

function drawOwnLegend() {
  const x = images.get(now);
  drawLegend([x.truth, x.oracle, ...x.samples, shown]);
}

function choose(sample) {
  const kept = [...locked].map(i => [i, code[i]]);
  chosen = images.get(now).chosen = sample;
  base = sample.code.slice(); code = base.slice(); undo = [];
  kept.forEach(([i, word]) => { code[i] = word; });
  confidence = sample.confidence || null;
  $("editor").hidden = !!info.unpaintable; showOutput(sample);
  $("likelihood").textContent = bits(sample) || " ";
  drawCards(); drawSources(); drawGrid(); drawUsage();
  if (kept.some(([i, word]) => word !== base[i])) repaint();
}

function showOutput(output) {
  shown = output;
  $("out").src = output.output;
  drawOwnLegend();
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

// ── Codebook and prediction ──────────────────────────────────────────────

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

// `words`: {given}, the words that stay, or nothing; `title` says so.
async function predict(words = {}, title = "") {
  const id = now, options = chosenOptions();
  const got = await ask("predict", {id, ...options, ...words,
    seed: +$("seed").value || 0, num_samples: +$("num_samples").value});
  const settings = [title, settingsOf(options)].filter(Boolean).join(", ");
  const least = Math.min(...got.samples.map(s => s.bits));
  got.samples.forEach(s => Object.assign(s, {settings,
    best: got.samples.length > 1 && s.bits === least}));
  images.get(id).samples = got.samples;
  if (id === now) choose(got.samples[0]);
}

start();
