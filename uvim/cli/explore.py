"""A page to look at what a model predicts, and how.

  uvim explore [--checkpoint W] [--port 8008]
  uvim explore --checkpoint PIX2SEQ_D [--beside UVIM]

W is a run, a pack, a .npz or a name; without one, a small model that comes with
this package is taken. Serves one page at http://127.0.0.1:8008. Of a UViM: drop
in an image, see truth (of the examples), the oracle's and the prior's
predictions, paint over words of the code and watch the output change (paper,
Fig 10), or fix some words and let the prior draw the rest. Of a Pix2Seq-D:
watch the mask come out of noise, step by step, maybe beside a UViM's answer.
Only this computer can reach it unless --host says otherwise; nothing is written
to disk, and the page loads nothing from elsewhere.
"""

import argparse
import importlib.util
import socket
import sys
from collections.abc import Callable, Iterable, Sequence
from typing import Any

from uvim import fields
from uvim.cli import app
from uvim.cli.predict import Loader, load_model
from uvim.registry import ConfigError

DEFAULT_PORT = 8008
MEGABYTE = 2**20
MOST_UPLOAD_MB = 1024
MAX_CONNECTIONS = 64
REQUEST_SECONDS = 20.0

# (checkpoint, task, number of examples) → (image, labels or None) of each.
ExampleFinder = Callable[[str, Any, int], Iterable[tuple[Any, Any]]]
# (listening socket, Starlette application) → returns when the user ends it.
Server = Callable[[socket.socket, Any], None]


def find_no_examples(checkpoint: str, task: Any, count: int
                     ) -> Iterable[tuple[Any, Any]]:
  """The finder of the installed package, which cannot read data sets."""
  del checkpoint, task, count
  raise ConfigError("the data set of a run is read from a checkout of the "
                    "repository: python -m tools.explorer")


def serve(listener: socket.socket, application: Any, *,
          request_seconds: float = REQUEST_SECONDS) -> None:
  """Answers requests until the user ends it.

  Args:
    listener: a listening socket.
    application: from `uvim.explorer.server.make_app`.
    request_seconds: how long a client may take for its headers, or to go on
      reading an answer.
  """
  import uvicorn
  config = uvicorn.Config(
      application,
      http=_make_protocol(request_seconds),
      ws="none",
      # The application has nothing to do at its start and end.
      lifespan="off",
      # Not its warnings: any client can cause them, as often as it likes.
      log_level="error",
      # Its own set-up would close the handlers that others have made.
      log_config=None,
      proxy_headers=False,
      server_header=False,
      limit_concurrency=MAX_CONNECTIONS,
      timeout_keep_alive=10,
      # A client that still sends must not hold up the end.
      timeout_graceful_shutdown=3)
  uvicorn.Server(config).run(sockets=[listener])


def _make_protocol(seconds: float) -> type:
  """The protocol of uvicorn, but it waits only so long for a request."""
  from uvicorn.protocols.http import h11_impl

  class Protocol(h11_impl.H11Protocol):
    """Closes connections on which no request arrives, or no answer leaves."""

    _request_timer = None
    _answer_timer = None

    def connection_made(self, transport):
      super().connection_made(transport)
      self._await_request()

    def data_received(self, data):
      super().data_received(data)
      self._await_request()

    def _await_request(self):
      # One timer at a time: bytes that trickle in do not put it off.
      if self._request_timer is None:
        self._request_timer = self.loop.call_later(
            seconds, self._close_if_idle)

    def _close_if_idle(self):
      self._request_timer = None
      is_idle = self.cycle is None or self.cycle.response_complete
      if is_idle and not self.transport.is_closing():
        self.transport.close()

    def pause_writing(self):
      super().pause_writing()
      # The client does not read its answer.
      self._answer_timer = self.loop.call_later(
          seconds, self.transport.abort)

    def resume_writing(self):
      super().resume_writing()
      self._stop_answer_timer()

    def connection_lost(self, exc):
      super().connection_lost(exc)
      self._stop_answer_timer()
      if self._request_timer is not None:
        self._request_timer.cancel()

    def _stop_answer_timer(self):
      if self._answer_timer is not None:
        self._answer_timer.cancel()
        self._answer_timer = None

  return Protocol


def main(argv: Sequence[str] | None = None, *, program: str = "uvim explore",
         load: Loader = load_model,
         find_examples: ExampleFinder = find_no_examples,
         serve: Server = serve) -> int:
  """The command; returns the exit code.

  Args:
    argv: the arguments; None: those of the process.
    program: what the user typed to start it.
    load: opens a checkpoint.
    find_examples: reads images with their truth.
    serve: answers requests.
  """
  def command(args):
    _check_installed()
    _check_options(args)
    if args.checkpoint is None:
      from uvim.store import published
      args.checkpoint = published.DEFAULT_PACK
      print(f"note: {published.DEFAULT_NOTE}", file=sys.stderr)
    # Port first, model second; see `_listen`.
    with _listen(args.host, args.port) as listener:
      session = _make_session(args, load, find_examples)
      application = _make_application(args, session)
      _say_address(args.host, listener)
      try:
        serve(listener, application)
      except KeyboardInterrupt:  # How a user ends it.
        pass

  return app.run(make_parser(program), command, argv)


def make_parser(program: str = "uvim explore") -> argparse.ArgumentParser:
  """The options of the command."""
  from uvim.explorer import server
  parser = app.make_command_parser(program, __doc__)
  add = parser.add_argument
  add("--checkpoint",
      help="a workdir, pack, .npz, address or name; default: a small model "
      "that comes with the package")
  add("--lm", help="stage II, where --checkpoint is stage I alone")
  add("--beside", metavar="UVIM",
      help="where --checkpoint is a Pix2Seq-D: a UViM of the same classes, "
      "whose answer is shown too")
  add("--host", default="127.0.0.1",
      help="default: %(default)s, this computer alone")
  add("--port", type=int, default=DEFAULT_PORT,
      help="default: %(default)s; 0: any")
  add("--examples", type=int, default=6,
      help="images with truth, of the run's validation split; default: "
      "%(default)s")
  add("--max_upload_mb", type=float,
      default=server.MAX_UPLOAD_BYTES / MEGABYTE, help="default: %(default)g")
  return parser


def _check_installed() -> None:
  for package in ("starlette", "uvicorn"):
    # Looks the package up without its import.
    if importlib.util.find_spec(package) is None:
      raise ConfigError(f"The explorer needs the package {package}, which is "
                        "not installed: pip install starlette uvicorn.")


def _check_options(args) -> None:
  """Raises a ConfigError for a number out of its range, or no host."""
  if not args.host:
    raise ConfigError("--host is empty; 0.0.0.0 stands for all networks.")
  checks = {"examples": fields.integer(0),
            "max_upload_mb": fields.number(0.001, MOST_UPLOAD_MB)}
  for name, check in checks.items():
    value = getattr(args, name)
    if not check.fits(value):
      raise ConfigError(f"--{name} {value}; it must be {check.allowed}.")


def _listen(host: str, port: int) -> socket.socket:
  """A listening socket.

  It is bound before the model is loaded, so a port in use fails at once.
  """
  if not 0 <= port <= 65535:
    raise ConfigError(f"--port {port}; it must be in 0..65535.")
  # Only addresses of IPv6 have a colon.
  family = socket.AF_INET6 if ":" in host else socket.AF_INET
  try:
    return socket.create_server((host, port), family=family)
  # UnicodeError: a name that can be no host.
  except (OSError, UnicodeError) as error:
    reason = getattr(error, "strerror", None) or error
    raise ConfigError(f"Cannot listen on {host}:{port}: {reason}. "
                      "Choose another --port.") from error


def _make_session(args, load: Loader, find_examples: ExampleFinder) -> Any:
  session = _open_session(args, load)
  if args.examples <= 0:
    return session
  try:
    examples = find_examples(args.checkpoint, session.task, args.examples)
    for image, labels in examples:
      session.add_example(image, labels)
  # Examples are optional: without them the page still takes uploads. A data
  # set has errors of many kinds.
  except Exception as error:  # noqa: BLE001
    one_line = " ".join(str(error).split())
    print(f"no examples: {one_line}", file=sys.stderr)
  return session


def _open_session(args, load: Loader) -> Any:
  """The session of --checkpoint's kind of model, without images.

  Raises:
    ConfigError: as of `load`; no UViM of the same classes as --beside.
  """
  from uvim.explorer.film import FilmSession
  from uvim.explorer.session import Session
  title = str(args.checkpoint)
  predictor = load(args.checkpoint, lm=args.lm)
  if predictor.kind == "pix2seq_d":
    beside = None if args.beside is None else load(args.beside)
    return FilmSession(predictor, title, beside=beside,
                       beside_title=args.beside or "")
  if args.beside is not None:
    raise ConfigError(f"--beside {args.beside}: only a run of Pix2Seq-D can "
                      f"have a UViM beside it, and {title} is none.")
  return Session(predictor, title)


def _make_application(args, session: Any) -> Any:
  from uvim.explorer import server
  is_local = args.host in server.LOOPBACK
  if not is_local:
    print(f"warning: whoever reaches {args.host} can use this page.",
          file=sys.stderr)
  return server.make_app(session, any_host=not is_local,
                         max_bytes=int(args.max_upload_mb * MEGABYTE))


def _say_address(host: str, listener: socket.socket) -> None:
  # An address of IPv6 has brackets in a URL. The port comes from the socket,
  # because --port 0 means any.
  name = f"[{host}]" if ":" in host else host
  port = listener.getsockname()[1]
  print(f"http://{name}:{port}  (Ctrl-C ends it)", flush=True)
