"""Answers the requests of the explorer's page.

  GET  /              the page
  GET  /info          what the model is; see `Session.info`
  POST /images        an uploaded file; gives `Session.describe`
  GET  /images/ID     the same of an image that is there
  POST /predict       {"id", options, maybe "given"}; gives samples
  POST /decode        {"id", "code", options of the outputs}; gives the output
                      for a painted code

Every answer but the page is JSON. A mistake gives {"error": one line}.
"""

import asyncio
import base64
import concurrent.futures
import functools
import hashlib
import io
import json
import pathlib
import re
import sys
import traceback
from collections.abc import Awaitable, Callable, Iterable, Sequence
from typing import Any

from uvim.cli import app
from uvim.explorer.session import Session
from uvim.registry import ConfigError

_FOLDER = pathlib.Path(__file__).parent
MAX_UPLOAD_BYTES = 32 << 20
MAX_JSON_BYTES = 1 << 20
# A float cannot hold larger whole numbers exactly. No option needs them.
_MAX_INTEGER = 2**53
LOOPBACK = ("127.0.0.1", "localhost", "::1")
# The names as a request has them.
_LOCAL_NAMES = ["127.0.0.1", "localhost", "[::1]"]
# How long a client may take to send its request.
BODY_SECONDS = 60.0
# Requests that are read, wait or compute at once. Each may hold an upload.
MAX_REQUESTS = 8
_HEADERS = {"X-Content-Type-Options": "nosniff", "X-Frame-Options": "DENY",
            "Referrer-Policy": "no-referrer", "Cache-Control": "no-store"}

# A request → what becomes JSON.
Endpoint = Callable[[Any], Awaitable[dict[str, Any]]]


class Refused(ConfigError):
  """A request that is refused with a status of its own."""

  status = 400


class TooLarge(Refused):
  """A request whose body exceeds the limit."""

  status = 413


class TooSlow(Refused):
  """A request whose body does not come."""

  status = 408


class Busy(Refused):
  """A request that the server has no time for."""

  status = 503


class OutOfMemory(Refused):
  """A request that needs more memory than there is."""

  status = 503


class Failed(Refused):
  """A request that ends in a fault of ours."""

  status = 500


class Gone(Exception):
  """The client went away; nobody waits for an answer."""


def make_app(session: Session, *, max_bytes: int = MAX_UPLOAD_BYTES,
             any_host: bool = False, body_seconds: float = BODY_SECONDS,
             max_requests: int = MAX_REQUESTS) -> Any:
  """The Starlette application.

  Args:
    session: what it serves.
    max_bytes: of an upload.
    any_host: whether it answers to names other than this computer's own.
    body_seconds: how long a client may take to send its request.
    max_requests: how many are worked on at once; one more gets the status 503.
  """
  # Imported late: the package works without Starlette, but for the explorer.
  from starlette.applications import Starlette
  from starlette.middleware import Middleware
  from starlette.middleware.trustedhost import TrustedHostMiddleware
  from starlette.routing import Route
  endpoints = Endpoints(session, max_bytes)
  answers = _Answers(body_seconds, max_requests)
  routes = [
      Route("/", _page_endpoint(read_page())),
      Route("/info", answers.of(endpoints.info)),
      Route("/images", answers.of(endpoints.add), methods=["POST"]),
      Route("/images/{number}", answers.of(endpoints.describe)),
      Route("/predict", answers.of(endpoints.predict), methods=["POST"]),
      Route("/decode", answers.of(endpoints.decode), methods=["POST"])]
  # Another site must not reach us through a name of its own (DNS rebinding).
  hosts = ["*"] if any_host else _LOCAL_NAMES
  guard = Middleware(TrustedHostMiddleware, allowed_hosts=hosts)
  return Starlette(routes=routes, middleware=[guard])


def read_page() -> str:
  """The page with its style and its script inside: it loads nothing."""
  page = (_FOLDER / "page.html").read_text()
  style = (_FOLDER / "page.css").read_text()
  script = (_FOLDER / "page.js").read_text()
  page = page.replace("/* page.css */\n", style)
  return page.replace("// page.js\n", script)


class Endpoints:
  """What the server does for each request; results become JSON."""

  def __init__(self, session: Session, max_bytes: int):
    self._session = session
    self._max_bytes = max_bytes
    # One thread, so one request computes at a time: the memory that several
    # need would add up, and a session takes one call at a time.
    self._worker = concurrent.futures.ThreadPoolExecutor(max_workers=1)

  async def info(self, request) -> dict[str, Any]:
    del request
    return {**self._session.info(), "max_bytes": self._max_bytes}

  async def add(self, request) -> dict[str, Any]:
    body = await _read_body(request, self._max_bytes)
    number = await self._compute(self._session.add, body)
    return await self._compute(self._session.describe, number)

  async def describe(self, request) -> dict[str, Any]:
    number = request.path_params["number"]
    return await self._compute(self._session.describe, number)

  async def predict(self, request) -> dict[str, Any]:
    given = await _read_json(request)
    number = _text(given, "id")
    known = ("seed", "num_samples", *self._session.prediction_options)
    _check_names(given, ("id", "given", *known))
    options = _only(given, known)
    if "given" in given:
      options["given"] = _code(given, "given")
    samples = await self._compute(self._session.predict, number, **options)
    return {"samples": samples}

  async def decode(self, request) -> dict[str, Any]:
    given = await _read_json(request)
    number = _text(given, "id")
    known = self._session.output_options
    _check_names(given, ("id", "code", *known))
    code = _code(given, "code")
    options = _only(given, known)
    return await self._compute(self._session.decode, number, code, **options)

  async def _compute(self, function: Callable[..., Any], *args: Any,
                     **kwargs: Any) -> Any:
    """Calls the function in the worker, so that the server can still answer."""
    call = functools.partial(function, *args, **kwargs)
    loop = asyncio.get_running_loop()
    return await loop.run_in_executor(self._worker, call)


# ── Answers ─────────────────────────────────────────────────────────────────


def _page_endpoint(page: str) -> Callable[[Any], Awaitable[Any]]:
  from starlette.responses import HTMLResponse
  headers = {**_HEADERS, "Content-Security-Policy": _content_policy(page)}

  async def send_page(request):
    del request
    return HTMLResponse(page, headers=headers)

  return send_page


def _content_policy(page: str) -> str:
  """Only this page's own script and style run; nothing is loaded."""
  rules = [
      # Forbid everything, then allow what the page has.
      "default-src 'none'",
      f"script-src {_digests(page, 'script')}",
      f"style-src {_digests(page, 'style')}",
      "img-src data: blob:",
      "connect-src 'self'",
      "base-uri 'none'",
      "form-action 'none'",
      "frame-ancestors 'none'"]
  return "; ".join(rules)


def _digests(page: str, tag: str) -> str:
  """The hashes of the texts between all <tag> and </tag>."""
  sources = []
  for text in re.findall(rf"<{tag}>(.*?)</{tag}>", page, re.DOTALL):
    # A browser runs an inline script only if its hash is in the policy. So text
    # that somebody smuggles into the page never runs.
    digest = hashlib.sha256(text.encode()).digest()
    encoded = base64.b64encode(digest).decode()
    sources.append(f"'sha256-{encoded}'")
  return " ".join(sources)


class _Answers:
  """Sends results as JSON and mistakes as one line.

  Any other error becomes a line too, and the server goes on.
  """

  def __init__(self, body_seconds: float, max_requests: int):
    self._body_seconds = body_seconds
    self._max_requests = max_requests
    self._num_requests = 0

  def of(self, endpoint: Endpoint) -> Callable[[Any], Awaitable[Any]]:
    """What Starlette calls for a request to this endpoint."""
    from starlette.responses import JSONResponse, Response

    async def send(request):
      request.state.body_seconds = self._body_seconds
      try:
        content = await self._run(endpoint, request)
        # It becomes a text here, which may fail too.
        return JSONResponse(content, headers=_HEADERS)
      except Gone:
        return Response()  # Nobody reads it.
      except asyncio.CancelledError:
        # The user ends the server, which waits no longer for this request.
        mistake = Busy("The server ends.")
      except Exception as error:  # noqa: BLE001 - it must not end the session.
        mistake = _as_mistake(error, endpoint.__name__)
      status = getattr(mistake, "status", 400)
      return JSONResponse({"error": str(mistake)}, status, headers=_HEADERS)

    return send

  async def _run(self, endpoint: Endpoint, request) -> dict[str, Any]:
    _check_origin(request)
    # Before the body is read, since each may be large.
    if self._num_requests >= self._max_requests:
      raise Busy(f"The server works on {self._num_requests} requests already; "
                 "try again in a moment.")
    self._num_requests += 1
    try:
      return await endpoint(request)
    finally:
      self._num_requests -= 1


def _as_mistake(error: Exception, name: str) -> ConfigError:
  """What the client is told of an error; the terminal is told of ours.

  Args:
    error: what ended the request.
    name: of the endpoint.
  """
  if isinstance(error, ConfigError):
    return error
  if app.is_out_of_memory(error):
    first_line = str(error).partition("\n")[0]
    details = f" ({first_line})" if first_line else ""
    print(f"{name}: out of memory{details}", file=sys.stderr)
    return OutOfMemory("There is too little memory for this; fewer samples or "
                       "a smaller image need less.")
  traceback.print_exception(error)
  return Failed("This failed; the terminal tells more.")


# ── Requests ────────────────────────────────────────────────────────────────


def _check_origin(request) -> None:
  """Raises a ConfigError if a page of another site sends the request."""
  # A browser says so of every request, images included, which name no origin.
  site = request.headers.get("sec-fetch-site", "none")
  if site in ("cross-site", "same-site"):
    raise ConfigError("Requests of other pages are refused.")
  # It names the page that asks. Other clients send no such header.
  origin = request.headers.get("origin")
  if not origin:
    return
  _, _, host = origin.partition("://")
  if host != request.headers.get("host"):
    raise ConfigError("Requests of other pages are refused.")


async def _read_body(request, limit: int) -> io.BytesIO:
  """The body of a request.

  Raises:
    TooLarge: as soon as it exceeds the limit.
    TooSlow: it is not complete in time.
    Gone: the client went away.
  """
  from starlette.requests import ClientDisconnect
  seconds = request.state.body_seconds
  body = io.BytesIO()
  try:
    async with asyncio.timeout(seconds):
      # Count what really comes: the announced length may be missing or a lie.
      async for part in request.stream():
        if body.tell() + len(part) > limit:
          raise TooLarge(f"The upload is larger than {limit / 2**20:.3g} MB.")
        body.write(part)
  except TimeoutError:
    raise TooSlow(f"The request did not come within {seconds:g} s.") from None
  except ClientDisconnect:
    raise Gone from None
  body.seek(0)
  return body


async def _read_json(request) -> dict[str, Any]:
  body = await _read_body(request, MAX_JSON_BYTES)
  try:
    content = json.loads(body.getvalue(), parse_int=_parse_integer)
  # From `_parse_integer`. ConfigError is a ValueError too, so it goes first.
  except ConfigError:
    raise
  except (ValueError, RecursionError) as error:
    raise ConfigError("The request is not JSON.") from error
  if not isinstance(content, dict):
    raise ConfigError("The request must be a JSON object.")
  return content


def _parse_integer(digits: str) -> int:
  # Python refuses to read thousands of digits; no option needs them.
  too_long = len(digits) > 20
  if too_long or abs(int(digits)) > _MAX_INTEGER:
    raise ConfigError(f"{digits[:20]}…: whole numbers must lie within "
                      f"±{_MAX_INTEGER}.")
  return int(digits)


def _check_names(given: dict[str, Any], known: Sequence[str]) -> None:
  """Raises a ConfigError for a name that this request cannot have."""
  for name in given:
    if name not in known:
      raise ConfigError(f"{name!r} is no option here; known: "
                        f"{', '.join(known)}.")


def _text(given: dict[str, Any], name: str) -> str:
  value = given.get(name)
  if not isinstance(value, str):
    raise ConfigError(f"{name} = {value!r}; it must be a text.")
  return value


def _only(given: dict[str, Any], names: Iterable[str]) -> dict[str, Any]:
  return {name: given[name] for name in names if name in given}


def _code(given: dict[str, Any], name: str) -> list[int]:
  code = given.get(name)
  if not isinstance(code, list) or not all(map(_is_word, code)):
    raise ConfigError(f"{name} must be a list of whole numbers.")
  return code


def _is_word(value: Any) -> bool:
  # `type`, because True is an instance of int.
  return type(value) is int and abs(value) < 2**31
