"""A page to look at a model's guiding code and to paint over its words.

  python -m tools.explorer --checkpoint W [--port 8008]

Serves one page at http://127.0.0.1:8008: drop in a photograph, see truth (of
the examples), the oracle's and the language model's predictions, paint over
words of the code and watch the output change (paper, Fig 10). Only this
computer can reach it unless --host says otherwise; nothing is written to disk,
and the page loads nothing from elsewhere.
"""

import argparse
import base64
import hashlib
import json
import pathlib
import re
import socket
import sys
import traceback
from collections.abc import Callable, Sequence
from typing import Any

from tools.explorer import session as explorer_session
from uvim.registry import ConfigError

EXIT_BAD_INPUT = 2
PAGE = pathlib.Path(__file__).with_name("page.html")
MAX_UPLOAD_BYTES = 32 << 20
MAX_JSON_BYTES = 1 << 20
LOOPBACK = ("127.0.0.1", "localhost", "::1")
_HEADERS = {"X-Content-Type-Options": "nosniff", "X-Frame-Options": "DENY",
            "Referrer-Policy": "no-referrer", "Cache-Control": "no-store"}


class TooLarge(ConfigError):
  """A request whose body exceeds the limit."""


def make_app(session: explorer_session.Session, *,
             max_bytes: int = MAX_UPLOAD_BYTES, any_host: bool = False) -> Any:
  """The Starlette application.

  Args:
    session: what it serves.
    max_bytes: of an upload.
    any_host: whether it answers to names other than this computer's own.
  """
  from starlette.applications import Starlette
  from starlette.middleware import Middleware
  from starlette.middleware.trustedhost import TrustedHostMiddleware
  from starlette.responses import HTMLResponse
  from starlette.routing import Route
  page = PAGE.read_text()
  policy = _content_policy(page)

  async def index(request):
    del request
    return HTMLResponse(page, headers={
        **_HEADERS, "Content-Security-Policy": policy})

  async def info(request):
    del request
    return {**session.info(), "max_bytes": max_bytes}

  async def add(request):
    data = await _body(request, max_bytes)
    return await _compute(lambda: session.describe(session.add(data)))

  async def describe(request):
    return await _compute(session.describe, request.path_params["number"])

  async def predict(request):
    fields = await _json(request)
    number, options = _string(fields, "id"), _sampling(fields)
    return {"samples": await _compute(
        lambda: session.predict(number, **options))}

  async def decode(request):
    fields = await _json(request)
    number, code = _string(fields, "id"), _code(fields)
    return await _compute(session.decode, number, code)

  # Another site must not reach us through a name of its own (DNS rebinding).
  hosts = ["*"] if any_host else [*LOOPBACK[:2], "[::1]", "testserver"]
  return Starlette(
      routes=[Route("/", index),
              Route("/info", _answer(info)),
              Route("/photos", _answer(add), methods=["POST"]),
              Route("/photos/{number}", _answer(describe)),
              Route("/predict", _answer(predict), methods=["POST"]),
              Route("/decode", _answer(decode), methods=["POST"])],
      middleware=[Middleware(TrustedHostMiddleware, allowed_hosts=hosts)])


def _content_policy(page: str) -> str:
  """Only this page's own script and style run; nothing is loaded."""
  def digests(tag):
    return " ".join(
        "'sha256-" + base64.b64encode(hashlib.sha256(
            text.encode()).digest()).decode() + "'"
        for text in re.findall(rf"<{tag}>(.*?)</{tag}>", page, re.S))
  return (f"default-src 'none'; script-src {digests('script')}; "
          f"style-src {digests('style')}; img-src data: blob:; "
          "connect-src 'self'; base-uri 'none'; form-action 'none'; "
          "frame-ancestors 'none'")


def _answer(fn: Callable[..., Any]) -> Callable[..., Any]:
  """Dicts become JSON, mistakes one line; the server survives all else."""
  from starlette.responses import JSONResponse

  async def endpoint(request):
    try:
      _check_origin(request)
      content, status = await fn(request), 200
    except TooLarge as e:
      content, status = {"error": str(e)}, 413
    except ConfigError as e:
      content, status = {"error": str(e)}, 400
    except Exception:  # noqa: BLE001 - a bug must not end the session.
      traceback.print_exc()
      content, status = {"error": "This failed; the terminal tells more."}, 500
    return JSONResponse(content, status, headers=_HEADERS)

  return endpoint


def _check_origin(request) -> None:
  """A page of another site may not post here in the user's name."""
  origin = request.headers.get("origin")
  if origin and origin.partition("://")[2] != request.headers.get("host"):
    raise ConfigError("Requests of other pages are refused.")


async def _compute(fn, *args):
  """In a thread: the page stays responsive while the model works."""
  from starlette.concurrency import run_in_threadpool
  return await run_in_threadpool(fn, *args)


async def _body(request, limit: int) -> bytes:
  """The body; refused as soon as it is too long, whatever was announced."""
  parts, size = [], 0
  async for part in request.stream():
    size += len(part)
    if size > limit:
      raise TooLarge(f"The upload is larger than {limit / 2**20:.3g} MB.")
    parts.append(part)
  return b"".join(parts)


async def _json(request) -> dict[str, Any]:
  text = await _body(request, MAX_JSON_BYTES)
  try:
    fields = json.loads(text)
  except (ValueError, RecursionError) as e:
    raise ConfigError("The request is not JSON.") from e
  if not isinstance(fields, dict):
    raise ConfigError("The request must be a JSON object.")
  return fields


def _string(fields, name: str) -> str:
  value = fields.get(name)
  if not isinstance(value, str):
    raise ConfigError(f"{name} = {value!r}; it must be a text.")
  return value


def _number(fields, name: str, kind: type, low: float, high: float,
            default: Any) -> Any:
  value = fields.get(name, default)
  if value is None and default is None:
    return None
  fits = isinstance(value, (int, float) if kind is float else int)
  if not fits or isinstance(value, bool) or not low <= value <= high:
    raise ConfigError(f"{name} = {value!r}; it must be a number in "
                      f"{low}..{high}.")
  return kind(value)


def _sampling(fields) -> dict[str, Any]:
  """The options of `UViM.predict` in a request."""
  return dict(
      temperature=_number(fields, "temperature", float, 0, 10, 0.0),
      seed=_number(fields, "seed", int, 0, 2**31 - 1, 0),
      num_samples=_number(fields, "num_samples", int, 1,
                          explorer_session.MAX_SAMPLES, 1),
      top_k=_number(fields, "top_k", int, 1, 10**9, None),
      top_p=_number(fields, "top_p", float, 1e-6, 1, None))


def _code(fields) -> list[int]:
  code = fields.get("code")
  if not isinstance(code, list) or not all(
      type(x) is int and abs(x) < 2**31 for x in code):
    raise ConfigError("code must be a list of whole numbers.")
  return code


def _bind(host: str, port: int) -> socket.socket:
  """Bound before the model is loaded: a port in use costs no minute."""
  if not 0 <= port <= 65535:
    raise ConfigError(f"--port {port}; it must be in 0..65535.")
  try:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    return socket.create_server((host, port), family=family)
  except OSError as e:
    raise ConfigError(f"Cannot listen on {host}:{port}: {e.strerror}. Choose "
                      "another --port.") from e


def _parser() -> argparse.ArgumentParser:
  parser = argparse.ArgumentParser(
      prog="python -m tools.explorer", description=__doc__,
      formatter_class=argparse.RawDescriptionHelpFormatter)
  add = parser.add_argument
  add("--checkpoint", required=True, help="a workdir, .npz, address or name")
  add("--lm", help="stage II, where --checkpoint is stage I alone")
  add("--host", default="127.0.0.1",
      help="default: %(default)s, this computer alone")
  add("--port", type=int, default=8008, help="default: %(default)s; 0: any")
  add("--examples", type=int, default=6,
      help="photographs with truth, of the run's validation split; default: "
      "%(default)s")
  add("--max_upload_mb", type=float, default=MAX_UPLOAD_BYTES / 2**20,
      help="default: %(default)g")
  return parser


def make_session(args) -> explorer_session.Session:
  """The model and the examples that the command line names."""
  from absl import logging

  from trainers.main import quiet_tensorflow
  from uvim.inference.api import UViM
  quiet_tensorflow()
  logging.set_verbosity(logging.ERROR)  # TFDS warns of its own calls.
  uvim = UViM.from_checkpoint(args.checkpoint, lm=args.lm)
  session = explorer_session.Session(uvim, str(args.checkpoint))
  if args.examples > 0:
    why = explorer_session.add_examples(
        session, args.checkpoint, args.examples)
    if why:
      print(f"no examples: {why}", file=sys.stderr)
  return session


def _serve(sock, app) -> None:
  import uvicorn
  server = uvicorn.Server(uvicorn.Config(app, log_level="warning"))
  server.run(sockets=[sock])


def main(argv: Sequence[str] | None = None) -> int:
  """The command; 0, or 2 after a mistake that the message explains."""
  args = _parser().parse_args(argv)
  local = args.host in LOOPBACK
  try:
    with _bind(args.host, args.port) as sock:
      app = make_app(make_session(args), any_host=not local,
                     max_bytes=int(args.max_upload_mb * 2**20))
      if not local:
        print(f"warning: whoever reaches {args.host} can use this page.",
              file=sys.stderr)
      name = f"[{args.host}]" if ":" in args.host else args.host
      print(f"http://{name}:{sock.getsockname()[1]}  (Ctrl-C ends it)",
            flush=True)
      _serve(sock, app)
  except ConfigError as error:
    print(f"error: {error}", file=sys.stderr)
    return EXIT_BAD_INPUT
  except KeyboardInterrupt:
    pass
  return 0


if __name__ == "__main__":
  sys.exit(main())
