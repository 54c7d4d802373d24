// ══ The page of a Pix2Seq-D: how a mask comes out of noise ════════════════

const LONGEST_FRAME = 500, SHORTEST_FRAME = 120, FILM_TIME = 4000;  // In ms.
let film = null;   // The sample whose film is shown.
let place = 0;     // Of the frame that is shown, from 0.
let timer = null;  // While the film runs.

function begin() {
  $("title").textContent = `${info.title} · ${info.task} · Pix2Seq-D`;
  $("predictor").textContent = "Sampling";
  $("hint").textContent = "Choose a sample to see its film.";
}

function showImage(x) {
  stopFilm();
  film = x.chosen || null;
  place = film ? film.frames.length - 1 : 0;
  drawAll();
}

function choose(sample) {
  film = images.get(now).chosen = sample;
  place = sample.frames.length - 1;
  stopFilm();
  drawAll();
}

function drawAll() { drawCards(); drawFilmstrip(); drawFrame(); }

function drawCards() {
  const x = images.get(now), cards = firstCards(x);
  for (const sample of x.samples)
    cards.push(card(`Pix2Seq-D, seed ${sample.seed}`, sample.answer.output, {
      note: steps(sample.num_steps), output: sample.answer,
      choose: () => choose(sample), on: sample === film}));
  if (x.beside) cards.push(card("UViM", x.beside.output, {
    note: info.beside, output: x.beside}));
  $("cards").replaceChildren(...cards);
  drawLegend([x.truth, x.beside, ...x.samples.map(s => s.answer)]);
}

const steps = count => count === 1 ? "1 step" : `${count} steps`;

// ── The film ─────────────────────────────────────────────────────────────

function drawFilmstrip() {
  $("film").hidden = !film;
  if (!film) return;
  $("film_about").textContent = `seed ${film.seed} · ${film.settings}`;
  $("frame").max = film.frames.length;
  $("filmstrip").replaceChildren(...film.frames.map((frame, i) =>
    element("button", {title: `step ${frame.number}`,
      onclick: () => { stopFilm(); showFrame(i); }},
      element("img", {src: frame.estimate.output,
        alt: `estimate of step ${frame.number}`}))));
}

function drawFrame() {
  if (!film) return;
  const frame = film.frames[place];
  $("noisy").src = frame.noisy.output;
  $("estimate").src = frame.estimate.output;
  $("frame").value = place + 1;
  $("step").textContent = `step ${frame.number} of ${film.num_steps}`;
  [...$("filmstrip").children].forEach((button, i) =>
    button.classList.toggle("on", i === place));
}

function showFrame(i) { place = i; drawFrame(); }

function playFilm() {
  stopFilm();
  // From the beginning, where the film is at its end.
  if (place === film.frames.length - 1) showFrame(0);
  const pause = Math.max(SHORTEST_FRAME, Math.min(LONGEST_FRAME,
    FILM_TIME / film.frames.length));
  $("play").textContent = "pause";
  timer = setInterval(() => {
    if (place < film.frames.length - 1) showFrame(place + 1);
    if (place === film.frames.length - 1) stopFilm();
  }, pause);
}

function stopFilm() {
  clearInterval(timer);
  timer = null;
  $("play").textContent = "play";
}

$("play").onclick = () => timer === null ? playFilm() : stopFilm();
$("frame").oninput = () => { stopFilm(); showFrame($("frame").value - 1); };
explain($("noisy"), () => film && film.frames[place].noisy);
explain($("estimate"), () => film && film.frames[place].estimate);

// ── Prediction ───────────────────────────────────────────────────────────

// One sample after the other, with the seeds that follow the chosen one: each
// is what `uvim predict` answers with its seed.
async function predict() {
  const x = images.get(now), options = chosenOptions();
  const first = +$("seed").value || 0, count = +$("num_samples").value;
  const samples = [];
  for (let i = 0; i < count; i++) {
    const seed = first + i;
    const got = await ask("predict", {id: x.id, ...options, seed});
    samples.push({...got, seed, settings: settingsOf(options)});
    x.samples = samples;
    // Somebody may have chosen another sample, or image, by now.
    if (!samples.includes(x.chosen)) x.chosen = samples[0];
    if (x.id !== now) continue;
    if (i === 0) { choose(samples[0]); playUnlessStill(); }
    else drawCards();
  }
  if (!info.beside || x.beside) return;
  x.beside = await ask("beside", {id: x.id});
  if (x.id === now) drawCards();
}

// Who asks for no motion starts the film.
function playUnlessStill() {
  if (!matchMedia("(prefers-reduced-motion: reduce)").matches) playFilm();
}

start();
