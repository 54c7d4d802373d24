"""The explorer's page of a Pix2Seq-D: films, and another model beside it."""

import functools

import numpy as np
import pytest

from tests.trainers import tiny, tiny_pix2seq_d
from tests.uvim.explorer.client import Client, Variant, noise_image, png
from tests.uvim.explorer.test_server import image_of
from uvim import pixels
from uvim.explorer import film
from uvim.explorer.film import FilmSession
from uvim.inference.opening import open_predictor
from uvim.registry import ConfigError

# All tests share what is compiled for these.
OPTIONS = dict(num_steps=2, min_fraction=0.01)


@pytest.fixture(scope="module")
def model(pix2seq_d_run):
  return open_predictor(pix2seq_d_run[0])


def make_client(model, **kwargs):
  make_session = functools.partial(FilmSession, **kwargs)
  return Client(model, make_session=make_session)


def test_a_film_shows_the_masks_of_each_step(model):
  client = make_client(model)
  x = noise_image()
  number = client.upload(png(x)).json()["id"]
  got = client.post("/predict", dict(id=number, seed=3, **OPTIONS))
  steps = model.predict_steps(x, seed=3, **OPTIONS)
  assert [frame["number"] for frame in got["frames"]] == [1, 2]
  assert got["num_steps"] == 2
  for frame, step in zip(got["frames"], steps, strict=True):
    for name in ("noisy", "estimate"):
      prediction = getattr(step, name)
      np.testing.assert_array_equal(
          image_of(frame[name]["output"]), prediction.pictures()[0][0])
      # What the page says of a pixel.
      classes = prediction.outputs["panoptic"][0][0][..., 0]
      np.testing.assert_array_equal(
          pixels.ids_from_rgb(image_of(frame[name]["values"])), classes)
  # As `uvim predict` answers with this seed.
  answer = model.predict(x, seed=3, **OPTIONS)
  np.testing.assert_array_equal(
      image_of(got["answer"]["output"]), answer.pictures()[0][0])


def test_what_the_page_knows(model):
  client = make_client(model)
  info = client.get("/info")
  assert info["predicts"] and info["beside"] == ""
  names = [option["name"] for option in info["options"]]
  assert names == ["num_steps", "time_difference", "sampler", "min_fraction"]
  assert "ddim" in info["options"][2]["choices"]
  assert [known["name"] for known in info["classes"]] == [
      name for _, name, _ in tiny_pix2seq_d.ROWS]
  page = client.reply("GET", "/").text
  assert "playFilm" in page and "paint(" not in page
  # There is no code to paint over.
  assert client.reply("POST", "/decode", json={}).status_code == 404


def test_the_truth_of_an_example(model):
  client = make_client(model)
  labels = model.task.label_at(tiny.batch(3)["labels"][0], (16, 16))
  number = client.session.add_example(noise_image(16, 16), labels)
  got = client.get(f"/images/{number}")
  [drawn] = model.task.render({"panoptic": labels[None]})
  np.testing.assert_array_equal(image_of(got["truth"]["output"]), drawn)


def test_a_frame_is_small_and_the_answer_is_not(model):
  client = make_client(model)
  number = client.upload(png(noise_image(200, 800))).json()["id"]
  got = client.post("/predict", dict(id=number, **OPTIONS))
  frame = image_of(got["frames"][0]["noisy"]["output"])
  assert frame.shape == (96, film.FRAME_SIDE, 3)
  assert image_of(got["answer"]["output"]).shape == (200, 800, 3)


@pytest.mark.parametrize("num_steps", [1, 2, film.MAX_FRAMES, 37, 100])
def test_a_long_film_leaves_frames_out(num_steps):
  kept = film._kept_steps(num_steps)
  assert len(kept) == min(num_steps, film.MAX_FRAMES)
  assert (kept[0], kept[-1]) == (1, num_steps)
  assert kept == sorted(set(kept))


# ── Another model beside it ──────────────────────────────────────────────────


def test_a_uvim_answers_beside(model, uvim):
  calls = []

  def predict(*args, **options):
    calls.append(options)
    return uvim.predict(*args, **options)

  client = make_client(
      model, beside=Variant(uvim, predict=predict), beside_title="other")
  assert client.get("/info")["beside"] == "other"
  x = noise_image()
  number = client.upload(png(x)).json()["id"]
  got = client.post("/beside", {"id": number})
  expected = uvim.predict(x, temperature=0.0)
  np.testing.assert_array_equal(
      image_of(got["output"]), expected.pictures()[0][0])
  # It never changes, so it is computed once.
  assert client.post("/beside", {"id": number}) == got
  assert calls == [{"temperature": 0.0}]


@pytest.mark.parametrize("attributes,message", [
    ({"prior": None}, "other has no prior"),
    ({"kind": "pix2seq_d"}, "other is no UViM"),
    ({"output_keys": ("depth",)}, "other predicts depth; .*panoptic"),
])
def test_what_cannot_stand_beside(model, uvim, attributes, message):
  with pytest.raises(ConfigError, match=message):
    FilmSession(model, "tiny", beside=Variant(uvim, **attributes),
                beside_title="other")


def test_a_model_of_other_classes_cannot_stand_beside(model, uvim):
  other = Variant(uvim, task=Variant(uvim.task, num_categories=99))
  with pytest.raises(ConfigError, match="99 classes, and Pix2Seq-D 4"):
    FilmSession(model, "tiny", beside=other, beside_title="other")


# ── What it refuses ──────────────────────────────────────────────────────────


def test_nonsense_requests(model):
  client = make_client(model)
  number = client.upload(png(noise_image())).json()["id"]
  for options, message in (
      (dict(num_steps=film.MAX_STEPS + 1), "at most 100"),
      (dict(num_steps=0), "num_steps"), (dict(num_steps="2"), "num_steps"),
      (dict(sampler="euler"), "sampler"), (dict(seed=-1), "seed"),
      (dict(time_difference=-1), "time_difference"),
      (dict(num_samples=2), "'num_samples' is no option"),
      (dict(given=[1]), "'given' is no option")):
    assert message in client.refuses(
        "POST", "/predict", json=dict(id=number, **options))
  assert "not here any more" in client.refuses(
      "POST", "/predict", json=dict(id="passwd"))
  assert "no other model" in client.refuses(
      "POST", "/beside", json=dict(id=number))


def test_every_route_but_the_page_refuses_other_pages(model):
  client = make_client(model)
  headers = {"origin": "http://elsewhere.example"}
  for path in ("/info", "/images/0"):
    client.refuses("GET", path, headers=headers)
  for path in ("/images", "/predict", "/beside"):
    assert "other pages" in client.refuses("POST", path, headers=headers)
