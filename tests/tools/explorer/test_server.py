"""The explorer's server: what it answers, and what it refuses."""

import asyncio
import base64
import hashlib
import io
import json
import re
import socket

import httpx
import numpy as np
import pytest
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from tests.trainers import tiny
from tools.explorer import __main__ as explorer
from tools.explorer import session as explorer_session
from uvim.inference.api import UViM


def photo(height=20, width=31, seed=0):
  return np.random.default_rng(seed).integers(
      0, 256, (height, width, 3), np.uint8)


def png(picture, **kwargs):
  out = io.BytesIO()
  Image.fromarray(picture).save(out, "PNG", **kwargs)
  return out.getvalue()


def picture_of(url):
  assert url.startswith("data:image/png;base64,")
  data = base64.b64decode(url.partition(",")[2])
  with Image.open(io.BytesIO(data)) as file:
    return np.asarray(file)


@pytest.fixture(scope="module")
def uvim(weights):
  return UViM.from_checkpoint(weights[0], lm=weights[1])


class Client:
  """Requests to an app of its own."""

  def __init__(self, uvim, **kwargs):
    self.session = explorer_session.Session(uvim, "tiny")
    self.app = explorer.make_app(self.session, **kwargs)

  def reply(self, method, path, **kwargs):
    async def send():
      async with httpx.AsyncClient(
          transport=httpx.ASGITransport(app=self.app),
          base_url=kwargs.pop("base", "http://localhost")) as client:
        return await client.request(method, path, **kwargs)

    return asyncio.run(send())

  def post(self, path, fields):
    out = self.reply("POST", path, json=fields)
    assert out.status_code == 200, out.text
    return out.json()

  def upload(self, data):
    return self.reply("POST", "/photos", content=data)

  def refuses(self, method, path, status=400, **kwargs):
    out = self.reply(method, path, **kwargs)
    assert out.status_code == status
    error = out.json()["error"]
    assert "\n" not in error and "Traceback" not in error
    return error


@pytest.fixture
def client(uvim):
  return Client(uvim)


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


def test_what_a_photograph_gets(client, uvim):
  x = photo()
  got = client.upload(png(x)).json()
  np.testing.assert_array_equal(picture_of(got["photo"]), x)
  assert (got["width"], got["height"]) == (31, 20)
  assert "truth" not in got and "oracle" not in got
  fields = dict(id=got["id"], temperature=1.0, seed=4, num_samples=2)
  samples = client.post("/predict", fields)["samples"]
  expected = uvim.predict(x, temperature=1.0, seed=4, num_samples=2)
  for s, sample in enumerate(samples):
    assert sample["code"] == expected.codes[0, s].tolist()
    np.testing.assert_allclose(
        sample["confidence"], np.exp(expected.logprob[0, s]), atol=1e-4)
    assert sample["bits"] == pytest.approx(
        -expected.logprob[0, s].mean() / np.log(2))
    np.testing.assert_array_equal(
        picture_of(sample["picture"]), expected.pictures()[0][s])
  info = client.reply("GET", "/info").json()
  assert info["words"] == len(info["counts"]) == tiny.WORDS
  assert info["perplexity"] == pytest.approx(tiny.WORDS)  # Untrained: even.
  assert info["grid"] == [2, 2]


def test_a_painted_code_changes_the_output(client, uvim):
  x = photo()
  number = client.upload(png(x)).json()["id"]
  pictures = []
  for code in ([1, 2, 3, 4], [-1, -1, -1, -1], [1, -1, 3, 5]):
    got = client.post("/decode", {"id": number, "code": code})
    drawn = picture_of(got["picture"])
    np.testing.assert_array_equal(
        drawn, uvim.priors.sampling(x, [code]).pictures()[0][0])
    # The likelihood of a whole code, whoever wrote it.
    assert ("bits" in got) == (-1 not in code)
    pictures.append(drawn.tobytes())
  assert len(set(pictures)) == 3


def test_truth_and_oracle_of_examples(client, uvim):
  x, labels = photo(16, 16), tiny.batch(3)["labels"][0]
  number = client.session.add_entry(x, labels)
  got = client.reply("GET", f"/photos/{number}").json()
  codes = uvim.encode([x], [labels])
  assert got["oracle"]["code"] == codes[0].tolist()
  np.testing.assert_array_equal(
      picture_of(got["oracle"]["picture"]),
      uvim.priors.sampling(x, codes).pictures()[0][0])
  np.testing.assert_array_equal(
      picture_of(got["truth"]), uvim.task.render({"panoptic": labels[None]})[0])
  # Dropped in again, it is the same photograph, and still has its truth.
  again = client.upload(png(x)).json()
  assert again["id"] == number and again["truth"] == got["truth"]


# ── What it refuses ──────────────────────────────────────────────────────────


def test_nonsense_uploads(uvim):
  client = Client(uvim, max_bytes=100_000)
  for data, words in (
      (b"", "not a picture"), (b"<svg onload=alert(1)>", "not a picture"),
      (b"%!PS-Adobe-3.0 EPSF-3.0\n", "not a picture"),
      (png(photo(64, 64))[:3000], "cannot be read"),
      (b"\x89PNG\r\n\x1a\n" + b"\0" * 99, "")):
    assert words in client.refuses("POST", "/photos", content=data)
  big = "larger than 0.0954 MB"
  assert big in client.refuses(
      "POST", "/photos", 413, content=b"x" * 100_001)

  async def endless():  # Announces no length.
    while True:
      yield b"x" * 30_000

  assert big in client.refuses("POST", "/photos", 413, content=endless())
  wide = io.BytesIO()
  Image.new("1", (60_000, 1000)).save(wide, "PNG")
  assert "60000×1000 pixels are more than" in client.refuses(
      "POST", "/photos", content=wide.getvalue())
  assert client.upload(png(photo())).status_code == 200  # Still alive.


def test_odd_pictures_are_taken(client):
  frames = [Image.fromarray(photo(8, 9, s)).convert("P") for s in (1, 2)]
  movie, ink = io.BytesIO(), io.BytesIO()
  frames[0].save(movie, "GIF", save_all=True, append_images=frames[1:])
  Image.new("CMYK", (9, 8)).save(ink, "JPEG")
  for data, size in ((png(photo(1, 1)), (1, 1)), (movie.getvalue(), (9, 8)),
                     (ink.getvalue(), (9, 8)),
                     (png(photo(2, 20_000)), (1024, 1))):
    got = client.upload(data).json()
    assert (got["width"], got["height"]) == size
    client.post("/predict", {"id": got["id"]})


def test_nothing_of_a_file_is_sent_back_but_its_pixels(client):
  notes = PngInfo()
  notes.add_text("Comment", "where I live")
  reply = client.upload(png(photo(), pnginfo=notes))
  data = base64.b64decode(reply.json()["photo"].partition(",")[2])
  assert b"where I live" not in data


def test_nonsense_requests(client):
  number = client.upload(png(photo())).json()["id"]
  for path, fields in (
      ("/predict", dict(id=number, temperature=-1)),
      ("/predict", dict(id=number, temperature="hot")),
      ("/predict", dict(id=number, num_samples=9)),
      ("/predict", dict(id=number, num_samples=True)),
      ("/predict", dict(id=number, seed=1.5)),
      ("/predict", dict(id=number, temperature=1, top_k=99)),
      ("/predict", dict(id=number, temperature=1, top_p=0)),
      ("/predict", dict(id=["x"])), ("/predict", dict()), ("/predict", []),
      ("/decode", dict(id=number)), ("/decode", dict(id=number, code=[1, 2])),
      ("/decode", dict(id=number, code=[1, 2, 3, tiny.WORDS])),
      ("/decode", dict(id=number, code=[1, 2, 3, -2])),
      ("/decode", dict(id=number, code=["1"] * 4)),
      ("/decode", dict(id="../../etc/passwd", code=[1, 2, 3, 4]))):
    client.refuses("POST", path, json=fields)
  for content in (b"", b"{", b"NaN", b"\xff", b"[" * 100_000,
                  b'{"temperature": NaN, "id": "' + number.encode() + b'"}'):
    client.refuses("POST", "/predict", content=content)
  client.refuses("POST", "/predict", 413, content=b" " * (1 << 21))
  assert client.reply("GET", "/photos/../explorer.py").status_code == 404
  assert client.reply("GET", "/tools/explorer/__main__.py").status_code == 404
  client.refuses("GET", "/photos/passwd")


def test_other_pages_and_other_names_are_refused(client, uvim):
  assert "other pages" in client.refuses(
      "POST", "/photos", content=png(photo()),
      headers={"origin": "http://elsewhere.example"})
  assert client.reply("POST", "/photos", content=png(photo()), headers={
      "origin": "http://localhost"}).status_code == 200
  rebound = client.reply("GET", "/info", base="http://elsewhere.example")
  assert rebound.status_code == 400
  anywhere = Client(uvim, any_host=True)
  assert anywhere.reply(
      "GET", "/info", base="http://elsewhere.example").status_code == 200


def test_a_bug_does_not_end_the_session(client, monkeypatch, capsys):
  number = client.upload(png(photo())).json()["id"]
  monkeypatch.setattr(client.session, "predict", lambda *a, **k: 1 / 0)
  error = client.refuses("POST", "/predict", 500, json={"id": number})
  assert "division" not in error
  assert "ZeroDivisionError" in capsys.readouterr().err
  assert client.reply("GET", "/info").status_code == 200


def test_old_photographs_are_forgotten_but_not_the_examples(uvim):
  session = explorer_session.Session(uvim, "tiny")
  first = session.add_entry(photo(2, 2, 0))
  session.examples.append(first)
  numbers = [session.add_entry(photo(2, 2, seed))
             for seed in range(1, explorer_session.MAX_PHOTOS + 9)]
  assert len(session._entries) == explorer_session.MAX_PHOTOS
  assert first in session._entries and numbers[-1] in session._entries
  with pytest.raises(Exception, match="not here any more"):
    session.describe(numbers[0])


# ── The command ──────────────────────────────────────────────────────────────


def command_fails(capsys, *argv):
  assert explorer.main(list(argv)) == 2
  error = capsys.readouterr().err
  assert error.startswith("error: ") and error.count("\n") == 1
  return error


def test_commands_that_cannot_be(weights, capsys):
  with socket.create_server(("127.0.0.1", 0)) as taken:
    port = str(taken.getsockname()[1])
    error = command_fails(capsys, "--checkpoint", "nowhere", "--port", port)
  assert f"127.0.0.1:{port}" in error and "in use" in error
  port = ["--port", "0", "--checkpoint"]
  assert "No checkpoint at nowhere.npz" in command_fails(
      capsys, *port, "nowhere.npz")
  assert "stage 2; stage 1 is needed" in command_fails(
      capsys, *port, str(weights[1]))
  assert "70000" in command_fails(capsys, "--port", "70000", "--checkpoint", "")


def test_the_command_serves_this_computer_alone(weights, capsys, monkeypatch):
  served = []
  monkeypatch.setattr(explorer, "_serve", lambda sock, app: served.append(
      sock.getsockname()[0]))
  assert explorer.main(["--checkpoint", str(weights[0]), "--lm",
                        str(weights[1]), "--port", "0"]) == 0
  printed = capsys.readouterr()
  assert served == ["127.0.0.1"] and "http://127.0.0.1:" in printed.out
  assert "no examples: the checkpoint does not tell" in printed.err


def test_examples_come_from_the_split_never_trained_on(
    uvim, rooms_tiny_dir, tmp_path):
  pp = ('decode|coco_panoptic|concat(["semantics","instances"], "labels")|'
        'resize(16, antialias=True)|value_range(-1, 1)|'
        'resize(16, key="labels", method="nearest")|make_canonical|'
        'keep("image","labels")')
  config = dict(dataset="rooms/tiny", val_split="validation", pp_eval=pp,
                data_dir=str(rooms_tiny_dir))
  (tmp_path / "config.json").write_text(json.dumps(config))
  session = explorer_session.Session(uvim, "tiny")
  assert explorer_session.add_examples(session, str(tmp_path), 2) == ""
  entry = session._entries[session.examples[1]]
  assert entry.photo.shape[0] > 48 and entry.labels.shape == (16, 16, 2)
  config["dataset"] = "rooms/none"
  (tmp_path / "config.json").write_text(json.dumps(config))
  assert "none" in explorer_session.add_examples(session, str(tmp_path), 2)
