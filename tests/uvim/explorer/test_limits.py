"""The explorer under odd clients, many requests, faults and little memory."""

import asyncio
import dataclasses
import json
import socket
import struct
import threading
import time

import httpx
import numpy as np
import pytest

from tests.trainers import tiny
from tests.uvim.explorer.client import Client, Variant, noise_image, png
from uvim.cli import explore
from uvim.explorer import gallery
from uvim.explorer.session import Session
from uvim.registry import ConfigError


def test_truth_and_oracle_are_computed_once(uvim):
  calls = []

  def encode(*args):
    calls.append(args)
    return uvim.encode(*args)

  client = Client(Variant(uvim, encode=encode))
  labels = uvim.task.label_at(tiny.batch(3)["labels"][0], (16, 16))
  number = client.session.add_example(noise_image(16, 16), labels)
  first = client.get(f"/images/{number}")
  assert client.get(f"/images/{number}") == first and len(calls) == 1


def test_a_half_sent_request_ends(uvim):
  client = Client(uvim, body_seconds=0.05)

  async def half():
    yield b"x" * 100
    await asyncio.sleep(60)

  assert "0.05 s" in client.refuses("POST", "/images", 408, content=half())


def test_too_many_requests_at_once(uvim):
  client = Client(uvim, max_requests=0)
  assert "try again" in client.refuses("GET", "/info", 503)


def test_a_client_that_goes_away_prints_nothing(client, capsys):
  async def leave():
    async def receive():
      return {"type": "http.disconnect"}

    async def send(message):
      del message

    scope = {"type": "http", "method": "POST", "path": "/images",
             "headers": [(b"host", b"localhost")], "query_string": b""}
    await client.app(scope, receive, send)

  asyncio.run(leave())
  assert capsys.readouterr().err == ""


def test_a_client_that_leaves_in_the_middle_of_an_answer(
    client, capsys, caplog):
  number = client.session.add_entry(noise_image(900, 900))
  listener = socket.create_server(("127.0.0.1", 0))
  thread = threading.Thread(
      target=explore.serve, args=(listener, client.app), daemon=True)
  thread.start()
  for method, path, body in (
      ("GET", f"/images/{number}", ""),
      ("POST", "/predict", json.dumps({"id": number})),
      ("POST", "/images", "half of an upload")):
    with socket.create_connection(listener.getsockname()) as leaver:
      leaver.settimeout(60)
      # More is announced than is sent, of the upload.
      length = 100 if path == "/images" else len(body)
      leaver.sendall(f"{method} {path} HTTP/1.1\r\nHost: localhost\r\n"
                     f"Content-Length: {length}\r\n\r\n{body}".encode())
      if path != "/images":
        assert leaver.recv(10) == b"HTTP/1.1 2"
      # A reset connection, as of a program that was killed.
      leaver.setsockopt(
          socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
  url = "http://127.0.0.1:%d/predict" % listener.getsockname()[1]
  # They are worked on in turn: after this one, all of them are done.
  last = httpx.post(url, json={"id": number}, timeout=60)
  assert last.status_code == 200
  assert capsys.readouterr().err == "" and caplog.text == ""


def test_a_bug_does_not_end_the_session(uvim, capsys):
  client = Client(Variant(uvim, predict=lambda *args, **options: 1 / 0))
  number = client.upload(png(noise_image())).json()["id"]
  error = client.refuses("POST", "/predict", 500, json={"id": number})
  assert "division" not in error
  assert "ZeroDivisionError" in capsys.readouterr().err
  assert client.reply("GET", "/info").status_code == 200


@pytest.mark.parametrize("error", [
    MemoryError("Unable to allocate 9 GiB"),
    # As JAX says it, on a device.
    RuntimeError("RESOURCE_EXHAUSTED: Unable to allocate 9 GiB\nat 0x123")])
def test_too_little_memory_is_one_line(uvim, capsys, error):
  def fail(*args, **options):
    raise error

  client = Client(Variant(uvim, predict=fail))
  number = client.upload(png(noise_image())).json()["id"]
  told = client.refuses("POST", "/predict", 503, json={"id": number})
  assert told.startswith("There is too little memory")
  printed = capsys.readouterr().err
  assert printed.startswith("predict: out of memory (")
  assert printed.endswith("Unable to allocate 9 GiB)\n")
  assert printed.count("\n") == 1
  assert client.get(f"/images/{number}")["id"] == number  # Still alive.


def test_a_request_that_the_end_interrupts_is_one_line(uvim, capsys):
  begun = threading.Event()
  ended = threading.Event()

  def predict(*args, **options):
    begun.set()
    ended.wait(60)
    return uvim.predict(*args, **options)

  client = Client(Variant(uvim, predict=predict))
  number = client.upload(png(noise_image())).json()["id"]

  async def ask_and_cancel():
    transport = httpx.ASGITransport(app=client.app)
    async with httpx.AsyncClient(
        transport=transport, base_url="http://localhost") as asker:
      asked = asyncio.create_task(asker.post("/predict", json={"id": number}))
      await asyncio.to_thread(begun.wait, 60)
      # As uvicorn does when the user ends it.
      asked.cancel()
      return await asked

  try:
    reply = asyncio.run(ask_and_cancel())
  finally:
    ended.set()
  assert reply.status_code == 503
  assert reply.json() == {"error": "The server ends."}
  assert capsys.readouterr().err == ""


def test_an_answer_that_is_no_json_is_a_bug_like_any_other(uvim, capsys):
  def predict(*args, **options):
    prediction = uvim.predict(*args, **options)
    return dataclasses.replace(prediction, logprob=prediction.logprob * np.nan)

  client = Client(Variant(uvim, predict=predict))
  number = client.upload(png(noise_image())).json()["id"]
  client.refuses("POST", "/predict", 500, json={"id": number})
  assert "ValueError" in capsys.readouterr().err


class Overlaps:
  """Notes how many calls run at once, at most."""

  def __init__(self):
    self.most = 0
    self._num_running = 0

  def watch(self, function):
    def run(*args, **kwargs):
      self._num_running += 1
      self.most = max(self.most, self._num_running)
      # Time for another thread to begin, if there is one.
      time.sleep(0.02)
      try:
        return function(*args, **kwargs)
      finally:
        self._num_running -= 1

    return run


def test_memory_is_that_of_one_request_and_of_one_drawing(uvim):
  overlaps = Overlaps()
  num_drawn = []

  def render(outputs):
    num_drawn.append(len(outputs["panoptic"]))
    return uvim.task.render(outputs)

  task = Variant(uvim.task, render=overlaps.watch(render))

  def predict(*args, **options):
    prediction = uvim.predict(*args, **options)
    return dataclasses.replace(prediction, task=task)

  client = Client(Variant(uvim, predict=overlaps.watch(predict)))
  number = client.upload(png(noise_image())).json()["id"]
  given = {"id": number, "num_samples": 2}

  async def ask_twice():
    transport = httpx.ASGITransport(app=client.app)
    async with httpx.AsyncClient(
        transport=transport, base_url="http://localhost") as asker:
      return await asyncio.gather(
          asker.post("/predict", json=given),
          asker.post("/predict", json=given))

  for reply in asyncio.run(ask_twice()):
    assert reply.status_code == 200
  assert overlaps.most == 1
  assert num_drawn == [1, 1, 1, 1]


def test_old_images_are_forgotten_but_not_the_examples(uvim):
  session = Session(uvim, "tiny")
  first = session.add_example(noise_image(2, 2, 0), None)
  numbers = [session.add_entry(noise_image(2, 2, seed))
             for seed in range(1, gallery.MAX_IMAGES + 9)]
  assert len(session) == gallery.MAX_IMAGES
  assert first in session and numbers[-1] in session
  with pytest.raises(ConfigError, match="not here any more"):
    session.describe(numbers[0])
