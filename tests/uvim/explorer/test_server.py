"""The explorer's server: what it answers, and what it refuses."""

import base64
import hashlib
import io
import re

import numpy as np
import pytest
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from tests.trainers import tiny
from tests.uvim.explorer.client import Client, Variant, noise_image, png
from uvim import fields, palette, pixels
from uvim.codes.base import CodeSpec
from uvim.explorer import describe
from uvim.inference import readings
from uvim.registry import ConfigError
from uvim.tasks import make_task


def image_of(url):
  assert url.startswith("data:image/png;base64,")
  data = base64.b64decode(url.partition(",")[2])
  with Image.open(io.BytesIO(data)) as file:
    return np.asarray(file)


def test_the_page_runs_its_own_script_and_loads_nothing(client):
  reply = client.reply("GET", "/")
  policy = reply.headers["content-security-policy"]
  for tag in ("script", "style"):
    text = reply.text.split(f"<{tag}>")[1].split(f"</{tag}>")[0]
    digest = base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()
    assert f"{tag}-src 'sha256-{digest}'" in policy
  assert "default-src 'none'" in policy and "unsafe" not in policy
  assert not re.search(r"https?://|<link[^>]+href=\"[^d]|\bsrc=\"|style=\"",
                       reply.text)


def test_what_an_image_gets(client, uvim):
  x = noise_image()
  got = client.upload(png(x)).json()
  np.testing.assert_array_equal(image_of(got["image"]), x)
  assert (got["width"], got["height"]) == (31, 20)
  assert "truth" not in got and "oracle" not in got
  given = dict(id=got["id"], temperature=1.0, seed=4, num_samples=2)
  samples = client.post("/predict", given)["samples"]
  expected = uvim.predict(x, temperature=1.0, seed=4, num_samples=2)
  assert len(samples) == 2
  for s, sample in enumerate(samples):
    assert sample["code"] == expected.codes[0, s].tolist()
    np.testing.assert_allclose(
        sample["confidence"], np.exp(expected.logprob[0, s]), atol=1e-4)
    assert sample["bits"] == pytest.approx(
        -expected.logprob[0, s].mean() / np.log(2))
    np.testing.assert_array_equal(
        image_of(sample["output"]), expected.pictures()[0][s])
  info = client.get("/info")
  assert info["words"] == len(info["counts"]) == tiny.WORDS
  assert info["perplexity"] == pytest.approx(tiny.WORDS)  # Untrained: even.
  assert info["grid"] == [2, 2] and info["predicts"]
  assert info["unpaintable"] == "" and "word by word" in info["given_note"]
  names = [option["name"] for option in info["options"]]
  assert names == [*uvim.prior.options, *readings.OPTIONS, "min_fraction",
                   "instance_label"]
  assert info["output_options"] == ["min_fraction", "instance_label"]
  # Nobody knows what the classes of the tiny model are.
  names = [known["name"] for known in info["classes"]]
  assert names == [f"class {c}" for c in range(1, len(names) + 1)]
  assert len(names) == uvim.task.num_categories and info["scale"] is None
  first = bytes.fromhex(info["classes"][0]["color"][1:])
  assert first == palette.class_color(1).tobytes()


def test_a_painted_code_changes_the_output(client, uvim):
  x = noise_image()
  number = client.upload(png(x)).json()["id"]
  outputs = []
  for code in ([1, 2, 3, 4], [-1, -1, -1, -1], [1, -1, 3, 5]):
    got = client.post("/decode", {"id": number, "code": code})
    drawn = image_of(got["output"])
    np.testing.assert_array_equal(
        drawn, uvim.decode(x, [code]).pictures()[0][0])
    # The likelihood of a whole code, whoever wrote it.
    assert ("bits" in got) == (-1 not in code)
    outputs.append(drawn.tobytes())
  assert len(set(outputs)) == 3
  # It is read as the prediction was.
  got = client.post("/decode", {
      "id": number, "code": [1, 2, 3, 4], "instance_label": "pixel"})
  np.testing.assert_array_equal(
      image_of(got["output"]),
      uvim.decode(x, [[1, 2, 3, 4]], instance_label="pixel").pictures()[0][0])


def test_one_answer_of_several_samples(client, uvim):
  x = noise_image()
  number = client.upload(png(x)).json()["id"]
  options = dict(num_samples=3, temperature=1, reduce="agreement")
  sample, = client.post("/predict", {"id": number, **options})["samples"]
  expected = uvim.predict(x, **options)
  np.testing.assert_array_equal(
      image_of(sample["output"]), expected.pictures()[0][0])
  assert sample["code"] == expected.codes[0, 0].tolist()


def test_given_words_stay_and_the_others_are_drawn(masked):
  client = Client(masked)
  assert "all the fixed ones" in client.get("/info")["given_note"]
  x = noise_image()
  number = client.upload(png(x)).json()["id"]
  for given in [-1, 6, -1, 1], [-1, 2, -1, 1]:
    asked = dict(id=number, given=given, num_iter=2, seed=3)
    sample, = client.post("/predict", asked)["samples"]
    expected = masked.predict(x, given=[given], num_iter=2, seed=3)
    assert sample["code"] == expected.codes[0, 0].tolist()
    assert (sample["code"][1], sample["code"][3]) == (given[1], 1)
    assert min(sample["code"]) >= 0
  for given in ([1, 2], [1, 2, 3, 8], "1234", [0.5, -1, -1, -1]):
    client.refuses("POST", "/predict", json=dict(id=number, given=given))


@pytest.mark.parametrize("spec,reason", [
    (CodeSpec(4, None, 1, 16), "Each of its 4 places has 16 real numbers"),
    (CodeSpec(4, 8, 2, 16), "Each of its 4 places has 2 words"),
])
def test_a_code_that_is_not_one_word_for_each_place(uvim, spec, reason):
  client = Client(Variant(uvim, model=Variant(uvim.model, spec=spec)))
  info = client.get("/info")
  assert info["unpaintable"].startswith(reason)
  assert info["words"] == spec.num_words


def test_a_density_is_no_probability(uvim):
  spec = CodeSpec(4, None, 1, 16)
  client = Client(Variant(uvim, model=Variant(uvim.model, spec=spec)))
  number = client.upload(png(noise_image())).json()["id"]
  sample, = client.post("/predict", {"id": number})["samples"]
  assert "bits" not in sample and "confidence" not in sample
  # Nor can words be dropped.
  names = [option["name"] for option in client.get("/info")["options"]]
  assert "drop_below" not in names and "reduce" in names


def test_truth_and_oracle_of_examples(client, uvim):
  x, labels = noise_image(16, 16), tiny.batch(3)["labels"][0]
  # Instances numbered as the oracle takes them.
  labels = uvim.task.label_at(labels, (16, 16))
  number = client.session.add_example(x, labels)
  got = client.get(f"/images/{number}")
  codes = uvim.encode([x], [labels])
  assert got["oracle"]["code"] == codes[0].tolist()
  np.testing.assert_array_equal(
      image_of(got["oracle"]["output"]),
      uvim.decode(x, codes).pictures()[0][0])
  truth = got["truth"]
  [drawn] = uvim.task.render({"panoptic": labels[None]})
  np.testing.assert_array_equal(image_of(truth["output"]), drawn)
  # What the page says of a pixel: its class.
  classes = np.maximum(labels[..., 0], 0)
  np.testing.assert_array_equal(pixels.ids_from_rgb(
      image_of(truth["values"])), classes)
  assert truth["present"] == sorted(set(classes.ravel().tolist()) - {0})
  # Dropped in again, it is the same image, and still has its truth.
  again = client.upload(png(x)).json()
  assert again["id"] == number and again["truth"] == got["truth"]
  assert client.get("/info")["examples"] == [number]


def test_depth_is_told_in_thousandths_of_a_metre():
  spec = {"depth": (4, 16)}
  task = make_task("depth", dict(
      inputs=spec, outputs=spec, input_size=(8, 8), patch_size=(4, 4)))
  scale = describe.describe_scale(task)
  assert (scale["lowest"], scale["highest"], scale["unit"]) == (0.001, 10, "m")
  assert image_of(scale["bar"]).shape == (1, 256, 3)
  depth = np.array([[[0, 1.2344], [np.nan, np.inf]], [[9, 9], [9, 9]]])
  described = describe.describe_output(task, {"depth": depth})
  np.testing.assert_array_equal(
      pixels.ids_from_rgb(image_of(described["values"])), [[0, 1234], [0, 0]])


# ── Models that lack something ──────────────────────────────────────────────


def test_a_model_without_a_prior(uvim):
  client = Client(Variant(uvim, prior=None))
  info = client.get("/info")
  assert not info["predicts"] and info["options"] == []
  number = client.upload(png(noise_image())).json()["id"]
  got = client.post("/decode", {"id": number, "code": [1, 2, 3, 4]})
  assert "bits" not in got


def test_a_prior_of_other_options_and_without_likelihood(uvim):
  """The page makes its controls of what the prior has, and sends no other."""
  asked = {}

  def predict(images, **options):
    asked.update(options)
    codes = np.zeros((1, 2, tiny.LENGTH), np.int32)
    return uvim.decode(images, codes)

  def log_prob(images, codes):
    raise ConfigError("This prior gives no likelihoods.")

  option = fields.Field("sharpness", 1.0, "How sharp.",
                        check=fields.number(0))
  client = Client(Variant(
      uvim, prior=Variant(uvim.prior, options={"sharpness": option}),
      predict=predict, log_prob=log_prob, word_counts=None, grid=None))
  info = client.get("/info")
  assert info["options"][:1] == [{
      "name": "sharpness", "default": 1.0, "doc": "How sharp.",
      "allowed": "a number ≥ 0", "choices": []}]
  assert info["counts"] is None and info["grid"] is None
  number = client.upload(png(noise_image())).json()["id"]
  samples = client.post("/predict", dict(
      id=number, sharpness=2, num_samples=2))["samples"]
  assert asked == dict(sharpness=2, num_samples=2, seed=0)
  assert len(samples) == 2 and "bits" not in samples[0]
  assert "'temperature' is no option" in client.refuses(
      "POST", "/predict", json=dict(id=number, temperature=1))
  got = client.post("/decode", {"id": number, "code": [1, 2, 3, 4]})
  assert "bits" not in got


# ── What it refuses ──────────────────────────────────────────────────────────


def test_nonsense_uploads(uvim):
  client = Client(uvim, max_bytes=100_000)
  for data, words in (
      (b"", "not an image"), (b"<svg onload=alert(1)>", "not an image"),
      (b"%!PS-Adobe-3.0 EPSF-3.0\n", "not an image"),
      (png(noise_image(64, 64))[:3000], "cannot be read"),
      (b"\x89PNG\r\n\x1a\n" + b"\0" * 99, "")):
    assert words in client.refuses("POST", "/images", content=data)
  big = "larger than 0.0954 MB"
  assert big in client.refuses(
      "POST", "/images", 413, content=b"x" * 100_001)

  async def endless():  # Announces no length.
    while True:
      yield b"x" * 30_000

  assert big in client.refuses("POST", "/images", 413, content=endless())
  wide = io.BytesIO()
  Image.new("1", (60_000, 1000)).save(wide, "PNG")
  assert "60000×1000 = 60,000,000 pixels are more than" in client.refuses(
      "POST", "/images", content=wide.getvalue())
  assert client.upload(png(noise_image())).status_code == 200  # Still alive.


def test_odd_images_are_taken(client):
  frames = [Image.fromarray(noise_image(8, 9, s)).convert("P") for s in (1, 2)]
  movie = io.BytesIO()
  frames[0].save(movie, "GIF", save_all=True, append_images=frames[1:])
  ink = io.BytesIO()
  Image.new("CMYK", (9, 8)).save(ink, "JPEG")
  for data, size in ((png(noise_image(1, 1)), (1, 1)),
                     (movie.getvalue(), (9, 8)), (ink.getvalue(), (9, 8)),
                     (png(noise_image(2, 20_000)), (1024, 1))):
    got = client.upload(data).json()
    assert (got["width"], got["height"]) == size
    client.post("/predict", {"id": got["id"]})


def test_nothing_of_a_file_is_sent_back_but_its_pixels(client):
  notes = PngInfo()
  notes.add_text("Comment", "where I live")
  reply = client.upload(png(noise_image(), pnginfo=notes))
  data = base64.b64decode(reply.json()["image"].partition(",")[2])
  assert b"where I live" not in data


def test_nonsense_requests(client):
  number = client.upload(png(noise_image())).json()["id"]
  for path, given in (
      ("/predict", dict(id=number, temperature=-1)),
      ("/predict", dict(id=number, temperature="hot")),
      ("/predict", dict(id=number, temperature=10**400)),
      ("/predict", dict(id=number, temperature=None)),
      ("/predict", dict(id=number, num_samples=9)),
      ("/predict", dict(id=number, num_samples=True)),
      ("/predict", dict(id=number, seed=1.5)),
      ("/predict", dict(id=number, seed=2**32)),
      ("/predict", dict(id=number, temperature=1, top_k=99)),
      ("/predict", dict(id=number, temperature=1, top_p=0)),
      ("/predict", dict(id=number, temprature=1)),
      ("/decode", dict(id=number, code=[1, 2, 3, 4], seed=1)),
      ("/predict", dict(id=["x"])), ("/predict", dict()), ("/predict", []),
      ("/decode", dict(id=number)), ("/decode", dict(id=number, code=[1, 2])),
      ("/decode", dict(id=number, code=[])),
      ("/decode", dict(id=number, code=[1, 2, 3, tiny.WORDS])),
      ("/decode", dict(id=number, code=[1, 2, 3, -2])),
      ("/decode", dict(id=number, code=["1"] * 4)),
      ("/decode", dict(id="../../etc/passwd", code=[1, 2, 3, 4]))):
    client.refuses("POST", path, json=given)
  for content in (b"", b"{", b"NaN", b"\xff", b"[" * 100_000,
                  b"1" * 10_000,
                  b'{"temperature": NaN, "id": "' + number.encode() + b'"}',
                  b'{"temperature": 1e999, "id": "' + number.encode() + b'"}'):
    client.refuses("POST", "/predict", content=content)
  client.refuses("POST", "/predict", 413, content=b" " * (1 << 21))
  assert client.reply("GET", "/images/../server.py").status_code == 404
  assert client.reply("GET", "/uvim/explorer/server.py").status_code == 404
  client.refuses("GET", "/images/passwd")


def test_other_pages_and_other_names_are_refused(client, uvim):
  assert "other pages" in client.refuses(
      "POST", "/images", content=png(noise_image()),
      headers={"origin": "http://elsewhere.example"})
  assert client.reply("POST", "/images", content=png(noise_image()), headers={
      "origin": "http://localhost"}).status_code == 200
  rebound = client.reply("GET", "/info", base="http://elsewhere.example")
  assert rebound.status_code == 400
  anywhere = Client(uvim, any_host=True)
  assert anywhere.reply(
      "GET", "/info", base="http://elsewhere.example").status_code == 200


def test_every_route_but_the_page_refuses_other_pages(client):
  paths = [route.path for route in client.app.routes]
  assert paths[0] == "/" and len(paths) > 4
  for route in client.app.routes[1:]:
    for method in route.methods:
      path = route.path.replace("{number}", "0")
      headers = {"origin": "http://elsewhere.example"}
      reply = client.reply(method, path, headers=headers)
      assert reply.status_code == 400, (method, path)
      # An answer to HEAD has no body.
      assert method == "HEAD" or "other pages" in reply.json()["error"]


def test_an_image_tag_of_another_page_computes_nothing(client):
  number = client.session.add_example(noise_image(16, 16), None)
  for site in ("cross-site", "same-site"):
    assert "other pages" in client.refuses(
        "GET", f"/images/{number}", headers={"sec-fetch-site": site})
  assert client.reply("GET", f"/images/{number}", headers={
      "sec-fetch-site": "same-origin"}).status_code == 200


def test_the_name_of_a_test_client_is_no_way_in(client):
  reply = client.reply("GET", "/info", base="http://testserver")
  assert reply.status_code == 400
