"""`uvim explore`: what it serves, and how it fails before it does."""

import socket
import threading

import numpy as np

from uvim.cli import explore
from uvim.inference import opening
from uvim.registry import ConfigError
from uvim.store import published


def command_fails(capsys, *argv):
  assert explore.main(list(argv)) == 2
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
  for option, value in (("--port", "70000"), ("--max_upload_mb", "nan"),
                        ("--max_upload_mb", "-1"), ("--examples", "-2"),
                        ("--host", "a..b"), ("--host", "")):
    command_fails(capsys, option, value, "--checkpoint", "nowhere.npz")


class Server:
  """Notes what it is to serve, instead of serving it."""

  def __init__(self):
    self.address = None
    self.application = None

  def __call__(self, listener, application):
    self.address = listener.getsockname()[0]
    self.application = application


def serve(weights, load_once, **kwargs):
  server = Server()
  argv = ["--checkpoint", str(weights[0]), "--lm", str(weights[1]), "--port",
          "0"]
  assert explore.main(argv, load=load_once, serve=server, **kwargs) == 0
  return server


def test_it_serves_this_computer_alone(weights, load_once, capsys):
  server = serve(weights, load_once)
  assert server.address == "127.0.0.1" and server.application is not None
  printed = capsys.readouterr()
  assert "http://127.0.0.1:" in printed.out
  # The installed package reads no data sets, and says who does.
  assert "no examples: " in printed.err
  assert "python -m tools.explorer" in printed.err


def test_without_a_checkpoint_it_takes_the_shipped_model(capsys):
  asked = []

  def load(checkpoint, *, lm=None):
    asked.append(checkpoint)
    raise ConfigError("enough")

  assert explore.main(["--port", "0"], load=load) == 2
  assert asked == [published.DEFAULT_PACK]
  note, error = capsys.readouterr().err.splitlines()
  assert note == f"note: {published.DEFAULT_NOTE}"
  assert error == "error: enough"


def test_examples_are_those_that_are_found(weights, load_once, capsys):
  asked = []

  def find(checkpoint, task, count):
    asked.append((checkpoint, task.keys, count))
    yield np.zeros((8, 9, 3), np.uint8), np.ones((8, 9, 2), np.int32)
    raise ConfigError("the others\nare broken")

  serve(weights, load_once, find_examples=find)
  assert asked == [(str(weights[0]), ("semantics", "instances"), 6)]
  assert capsys.readouterr().err == "no examples: the others are broken\n"


def test_a_half_sent_request_is_closed():
  async def application(scope, receive, send):
    raise AssertionError("no request ever arrives")

  listener = socket.create_server(("127.0.0.1", 0))
  thread = threading.Thread(
      target=explore.serve, args=(listener, application), daemon=True,
      kwargs={"request_seconds": 0.2})
  thread.start()
  for sent in (b"", b"GET / HTTP/1.1\r\nHost: local"):
    with socket.create_connection(listener.getsockname()) as client:
      client.settimeout(60)
      client.sendall(sent)
      # No bytes: the server has closed the connection.
      assert client.recv(100) == b""


def test_examples_that_cannot_be_read_end_nothing(weights, load_once, capsys):
  def find(checkpoint, task, count):
    raise KeyError("image")

  serve(weights, load_once, find_examples=find)
  assert "no examples: 'image'" in capsys.readouterr().err


def test_a_pix2seq_d_may_have_a_uvim_beside_it(
    weights, pix2seq_d_run, load_once):
  run = str(pix2seq_d_run[0])
  pack = str(weights[0])

  def load(path, *, lm=None):
    if path == run:
      return opening.open_predictor(run, lm=lm)
    return load_once(pack, lm=weights[1])

  server = Server()
  argv = ["--checkpoint", run, "--beside", pack, "--port", "0"]
  assert explore.main(argv, load=load, serve=server) == 0
  assert "/beside" in [route.path for route in server.application.routes]


def test_a_uvim_has_nothing_beside_it(weights, load_once, capsys):
  argv = ["--checkpoint", str(weights[0]), "--port", "0", "--beside", "other"]
  assert explore.main(argv, load=load_once) == 2
  error = capsys.readouterr().err
  assert error.startswith("error: --beside other: only a run of Pix2Seq-D")
  assert error.count("\n") == 1


def test_the_user_may_end_it(weights, load_once):
  def interrupted(listener, application):
    raise KeyboardInterrupt

  argv = ["--checkpoint", str(weights[0]), "--port", "0", "--examples", "0"]
  assert explore.main(argv, load=load_once, serve=interrupted) == 0
