"""Requests to an OpenAI-compatible server, with retries."""

from __future__ import annotations

import email.utils
import hashlib
import http.client
import json
import math
import ssl
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Mapping
from typing import Any, TypeVar

from absl import logging

from jaxreward.errors import UserError, one_line, shown
from jaxreward.rewards.remote import answers
from jaxreward.rewards.remote.options import Options
from jaxreward.rewards.remote.store import Budget, Spent

T = TypeVar("T")

_PASSING = (408, 409, 425, 429)  # and all from 500 on
_FILTERED = ("content_filter", "content_policy_violation")
_LARGEST = 1 << 24  # bytes of a reply
_SHOWN = 160  # characters of what a server says


class NoAnswer(Exception):
  """A request without a usable answer; holds the reason."""


class _Passing(Exception):
  """A transient failure."""

  def __init__(self, reason: str, after: float = 0.0):
    super().__init__(reason)
    self.after = after


class _NoRedirect(urllib.request.HTTPRedirectHandler):
  """Follows no redirects, so that the key goes only to the configured URL."""

  def redirect_request(self, *args, **kwargs):
    return None


def _opener(options: Options) -> urllib.request.OpenerDirector:
  """An opener that bypasses proxies unless the options enable one.

  A proxy from the environment would see the images and the key of an
  unencrypted request, and would intercept requests to this machine.
  """
  proxies: dict[str, str] = {}
  proxy = urllib.request.getproxies().get("https", "")
  if proxy and not options.is_local and options.endpoint.startswith("https:"):
    if options.proxy:
      proxies = {"https": proxy}
    else:
      logging.info(
        "url=%s: HTTPS_PROXY is not asked; proxy=true takes it",
        shown(options.url, 200),
      )
  return urllib.request.build_opener(
    urllib.request.ProxyHandler(proxies), _NoRedirect
  )


def share(key: str, attempt: int) -> float:
  """A number in [0, 1), a function of a request and its attempt."""
  hashed = hashlib.sha256(f"{key}/{attempt}".encode()).digest()
  return int.from_bytes(hashed[:8], "big") / 2**64


def retry_after(value: str | None, now: float) -> float:
  """Seconds of a `Retry-After` header; 0 without a valid one.

  Args:
    value: seconds, or an HTTP date.
    now: seconds since the epoch.
  """
  try:
    seconds = float(value or 0)
  except ValueError:
    try:
      date = email.utils.parsedate_to_datetime(str(value))
      seconds = date.timestamp() - now
    except (ValueError, TypeError):
      return 0.0
  return max(0.0, seconds) if math.isfinite(seconds) else 0.0


class Client:
  """A thread-safe client of one server.

  After failed attempt n it waits a random share of backoff * 2^n (full jitter),
  on top of any `Retry-After`, which delays all requests. Retried are: failed or
  lost connections, timeouts, statuses 408, 409, 425, 429 and from 500 on, and
  answers that cannot be parsed. `_opener` decides about proxies.

  Args:
    options: see `Options`.
    budget: counts every attempt.
  """

  def __init__(self, options: Options, budget: Budget):
    self._options, self._budget = options, budget
    self._url, self._key = options.endpoint, options.key
    self._open = _opener(options).open
    self._lock, self._not_before = threading.Lock(), 0.0
    self.stop = threading.Event()

  def ask(
    self,
    body: Mapping[str, Any],
    key: str,
    read: Callable[[answers.Answer], T],
  ) -> tuple[answers.Answer, T]:
    """The first answer that can be parsed, and its parsed value.

    Args:
      body: of the request; its seed changes after an unusable answer.
      key: hash of the request, from which the jitter is derived.
      read: raises `answers.Malformed`.

    Raises:
      NoAnswer: no attempt succeeded, or the budget is used up.
      UserError: the server rejects such requests, or the budget is used up and
        `over_budget` is "stop".
    """
    options, body = self._options, dict(body)
    reason = ""
    for attempt in range(options.retries + 1):
      self._await_turn()
      try:
        self._budget.take()
        reply = self._send(body)
        self._budget.count_tokens(answers.tokens_used(reply))
        answer = answers.of_reply(reply)
        return answer, read(answer)
      except answers.Malformed as error:
        reason, after = str(error), 0.0
        if "seed" in body:
          body["seed"] += options.samples
      except _Passing as error:
        reason, after = str(error), error.after
      except Spent as error:
        if options.over_budget == "stop":
          raise UserError(
            f"{error}; raise it to go on, or set over_budget=missing"
          ) from error
        raise NoAnswer(str(error)) from error
      if after > options.longest_wait:
        raise NoAnswer(f"{reason}, asks to wait {after:.0f} s")
      if attempt < options.retries:
        self._postpone(after)
        self._await_turn()
        most = min(options.longest_wait, options.backoff * 2**attempt)
        self._sleep(most * share(key, attempt))
    raise NoAnswer(reason)

  def _sleep(self, seconds: float) -> None:
    if self.stop.wait(seconds):
      raise NoAnswer("stopped")

  def _postpone(self, seconds: float) -> None:
    with self._lock:
      self._not_before = max(self._not_before, time.monotonic() + seconds)

  def _await_turn(self) -> None:
    """Waits for the last `Retry-After` of any request."""
    self._sleep(max(0.0, self._not_before - time.monotonic()))

  def _send(self, body: Mapping[str, Any]) -> Any:
    """A reply as JSON."""
    headers = {"Content-Type": "application/json", "User-Agent": "jaxreward"}
    if self._key:
      headers["Authorization"] = f"Bearer {self._key}"
    data = json.dumps(body).encode()
    request = urllib.request.Request(self._url, data, headers)
    deadline = time.monotonic() + self._options.timeout
    try:
      with self._open(request, timeout=self._options.timeout) as response:
        return json.loads(_read(response, deadline))
    except urllib.error.HTTPError as error:
      with error:
        raise self._failure(error) from None
    except (OSError, http.client.HTTPException) as error:
      reason = getattr(error, "reason", error)
      if isinstance(reason, ssl.SSLCertVerificationError):
        raise UserError(
          f"url={self._options.url}: {one_line(reason)}; trust its certificate"
          " by SSL_CERT_FILE"
        ) from None
      if isinstance(reason, TimeoutError):
        reason = TimeoutError(f"no reply within {self._options.timeout:g} s")
      is_error = isinstance(reason, BaseException)
      raise _Passing(one_line(reason) if is_error else str(reason)) from None
    except (ValueError, RecursionError) as error:
      raise _Passing("a reply that is no JSON") from error

  def _failure(self, error: urllib.error.HTTPError) -> Exception:
    """The exception for a status other than 200."""
    code, detail = _said(error, self._key)
    status = f"HTTP {error.code}"
    if code in _FILTERED:
      return NoAnswer(f"{status}, {code}")
    no_quota = code == "insufficient_quota"
    if (error.code in _PASSING or error.code >= 500) and not no_quota:
      after = retry_after(error.headers.get("Retry-After"), time.time())
      return _Passing(status, after)
    o = self._options
    field, fix = {
      401: (f"key_env={o.key_env}", "set that variable to a key it takes"),
      403: (f"key_env={o.key_env}", "give a key that may use this model"),
      404: (f"url={o.url}, model={o.model}", "check both"),
      413: (f"size={o.size}", "send smaller pictures"),
      429: (f"key_env={o.key_env}", "the account has nothing left"),
    }.get(
      error.code,
      (
        f"url={o.url}, model={o.model}",
        "check the address, the model and what it takes: schema, logprobs,"
        " temperature, max_tokens, seed, body",
      ),
    )
    return UserError(f"{field}: the server answers {status}{detail}; {fix}")


def _read(response: http.client.HTTPResponse, deadline: float) -> bytes:
  """The whole body; raises TimeoutError at the deadline."""
  parts, size = [], 0
  while part := response.read1(1 << 16):
    parts.append(part)
    size += len(part)
    if time.monotonic() > deadline:
      raise TimeoutError
    if size > _LARGEST:
      raise http.client.HTTPException("a reply without end")
  return b"".join(parts)


def _said(error: urllib.error.HTTPError, key: str) -> tuple[str, str]:
  """(code of an error, what the server says about it as ' (...)' or '').

  The key is redacted before the text is cut, which could leave a part of it.
  """
  try:
    text = error.read(_LARGEST).decode(errors="replace")
  except (OSError, http.client.HTTPException):
    return "", ""
  code = ""
  try:
    record = json.loads(text)
    record = record.get("error", record)
    if isinstance(record, dict):
      code, text = (
        str(record.get("code") or ""),
        str(record.get("message", text)),
      )
  except (ValueError, AttributeError, RecursionError):
    pass
  text = text.replace(key, "***") if key else text
  text = " ".join(text.split())[:_SHOWN]
  return code, f" ({text})" if text else ""
