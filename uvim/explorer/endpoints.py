"""What the explorer does for each request; the results become JSON."""

import asyncio
import concurrent.futures
import functools
from collections.abc import Awaitable, Callable, Mapping
from typing import Any

from uvim.explorer import incoming
from uvim.explorer.film import FilmSession
from uvim.explorer.gallery import Gallery
from uvim.explorer.session import Session

# A request → what becomes JSON.
Endpoint = Callable[[Any], Awaitable[dict[str, Any]]]


class Endpoints:
  """What the pages of all kinds of models ask for.

  Attributes:
    script: the file with the part of the page that is of this kind of model.
  """

  script: str

  def __init__(self, session: Gallery, max_bytes: int):
    """Starts a thread for the model.

    Args:
      session: model and images.
      max_bytes: of an upload.
    """
    self._session = session
    self._max_bytes = max_bytes
    # One thread, so one request computes at a time: the memory that several
    # need would add up, and a session takes one call at a time.
    self._worker = concurrent.futures.ThreadPoolExecutor(max_workers=1)

  @property
  def posts(self) -> Mapping[str, Endpoint]:
    """Those whose requests have a body, by their path."""
    return {"/images": self.add}

  async def info(self, request) -> dict[str, Any]:
    del request
    return {**self._session.info(), "max_bytes": self._max_bytes}

  async def add(self, request) -> dict[str, Any]:
    body = await incoming.read_body(request, self._max_bytes)
    number = await self._compute(self._session.add, body)
    return await self._compute(self._session.describe, number)

  async def describe(self, request) -> dict[str, Any]:
    number = request.path_params["number"]
    return await self._compute(self._session.describe, number)

  async def _compute(self, function: Callable[..., Any], *args: Any,
                     **kwargs: Any) -> Any:
    """Calls the function in the worker, so that the server can still answer."""
    call = functools.partial(function, *args, **kwargs)
    loop = asyncio.get_running_loop()
    return await loop.run_in_executor(self._worker, call)


class CodeEndpoints(Endpoints):
  """What the page of a UViM asks for besides."""

  script = "code.js"
  _session: Session

  @property
  def posts(self):
    return {**super().posts, "/predict": self.predict, "/decode": self.decode}

  async def predict(self, request) -> dict[str, Any]:
    given = await incoming.read_json(request)
    number = incoming.text(given, "id")
    known = ("seed", "num_samples", *self._session.prediction_options)
    incoming.check_names(given, ("id", "given", *known))
    options = incoming.only(given, known)
    if "given" in given:
      options["given"] = incoming.code(given, "given")
    samples = await self._compute(self._session.predict, number, **options)
    return {"samples": samples}

  async def decode(self, request) -> dict[str, Any]:
    given = await incoming.read_json(request)
    number = incoming.text(given, "id")
    known = self._session.output_options
    incoming.check_names(given, ("id", "code", *known))
    code = incoming.code(given, "code")
    options = incoming.only(given, known)
    return await self._compute(self._session.decode, number, code, **options)


class FilmEndpoints(Endpoints):
  """What the page of a Pix2Seq-D asks for besides."""

  script = "film.js"
  _session: FilmSession

  @property
  def posts(self):
    return {**super().posts, "/predict": self.predict, "/beside": self.beside}

  async def predict(self, request) -> dict[str, Any]:
    given = await incoming.read_json(request)
    number = incoming.text(given, "id")
    known = ("seed", *self._session.prediction_options)
    incoming.check_names(given, ("id", *known))
    options = incoming.only(given, known)
    return await self._compute(self._session.predict, number, **options)

  async def beside(self, request) -> dict[str, Any]:
    given = await incoming.read_json(request)
    number = incoming.text(given, "id")
    incoming.check_names(given, ("id",))
    return await self._compute(self._session.answer_beside, number)


def make_endpoints(session: Gallery, max_bytes: int) -> Endpoints:
  """Those of the session's kind of model."""
  if isinstance(session, FilmSession):
    return FilmEndpoints(session, max_bytes)
  return CodeEndpoints(session, max_bytes)
