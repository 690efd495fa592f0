"""Common options of the judges: server, requests and budget."""

from __future__ import annotations

import dataclasses
import functools
import inspect
import ipaddress
import math
import os
import re
import typing
import urllib.parse
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from jaxreward.errors import UserError, nearest
from jaxreward.rewards.contract import Loaded

_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_CHOICES = {"combine": ("mean", "median"), "over_budget": ("stop", "missing")}
_LEAST = {
  "size": 0, "concurrency": 1, "retries": 0, "samples": 1, "max_tokens": 0,
  "request_budget": 0, "token_budget": 0, "backoff": 0.0, "longest_wait": 0.0,
}  # fmt: skip
_PRIVATE = (".localhost", ".local", ".internal", ".lan", ".svc", ".home.arpa")
_PATH = "/chat/completions"


@dataclasses.dataclass(frozen=True)
class Options:
  """Options of every judge.

  Attributes:
    url: of the server, such as "http://localhost:8000/v1"; "$NAME" reads it
      from that environment variable, so that a resumed run may find the server
      elsewhere.
    model: as the server calls it.
    key_env: the environment variable that holds the API key; none if empty.
      The key itself is written nowhere.
    proxy: go through the proxy that HTTPS_PROXY names (and NO_PROXY does not
      leave out), to https addresses that are not local alone: it then sees
      neither key nor images. Without, no proxy is ever asked.
    templates: files of the question in other words (`templates`); each is
      asked, and the answers are combined. The built-in one if empty.
    principle: what images are judged by (`principles`), for all prompts.
    principles: a file of them by prompt.
    samples: answers per question and template.
    combine: "mean" or "median" of them.
    temperature: of the answers; not sent if negative.
    max_tokens: of an answer; not sent if 0.
    seed: sent for the first sample, the next number for the next; none is sent
      if negative.
    body: other fields of the request, such as {"reasoning_effort": "low"}.
    schema: ask for answers by JSON schema (`response_format`); without, the
      judge may reason before the JSON that the template asks for.
    logprobs: weigh choices by the probabilities of their words, for servers
      that give them; the text counts where they are missing. No schema then.
    size: pixels of the longer side that images are sent with; as they are
      if 0.
    concurrency: requests at a time.
    timeout: seconds for one request.
    retries: further attempts after one that failed.
    backoff: seconds; attempt n waits a share of backoff * 2^n, which is drawn
      from the request's own hash.
    longest_wait: seconds; no wait is longer. A server that asks for a longer
      one has not answered.
    cache: folder of the answers, which runs may share; by default in the
      working directory.
    request_budget: requests per run, repeated ones included; no limit if 0.
    token_budget: tokens per run as the server counts them; no limit if 0.
      Requests on their way when it is reached are answered still.
    over_budget: "stop", or "missing": what is left has no score.
  """

  url: str = ""
  model: str = ""
  key_env: str = ""
  proxy: bool = False
  templates: Sequence[str] = ()
  principle: str = ""
  principles: str = ""
  samples: int = 1
  combine: str = "mean"
  temperature: float = 0.0
  max_tokens: int = 512
  seed: int = 0
  body: Mapping[str, Any] = dataclasses.field(default_factory=dict)
  schema: bool = True
  logprobs: bool = False
  size: int = 0
  concurrency: int = 8
  timeout: float = 60.0
  retries: int = 5
  backoff: float = 1.0
  longest_wait: float = 60.0
  cache: str = ""
  request_budget: int = 0
  token_budget: int = 0
  over_budget: str = "stop"

  def __post_init__(self):
    for name, known in _CHOICES.items():
      require_choice(name, getattr(self, name), known)
    for name, least in _LEAST.items():
      value = getattr(self, name)
      if not least <= value < math.inf:
        raise UserError(f"{name}={value}: it must be at least {least}")
    if not 0 < self.timeout < math.inf:
      raise UserError(f"timeout={self.timeout}: it must be greater than 0")
    if not self.model:
      raise UserError('model="": name the model as the server calls it')
    if self.samples > 1 and self.temperature == 0:
      raise UserError(
        f"samples={self.samples}: at temperature=0.0 they are all alike; raise"
        " temperature"
      )
    if not isinstance(self.body, Mapping):
      raise UserError(f"body={self.body!r}: it must be a section")
    if "://" in self.cache:
      raise UserError(f"cache={self.cache}: give a local folder")
    if not isinstance(self.proxy, bool):
      raise UserError(f"proxy={self.proxy!r}: it must be true or false")
    _ = self.endpoint, self.key
    if self.proxy and self.endpoint.startswith("http:") and not self.is_local:
      raise UserError(
        f"proxy=True, url={self.url}: without https the proxy would see the"
        " pictures and the key; give an https address, or proxy=False"
      )

  @property
  def is_local(self) -> bool:
    """Whether the server is on this machine or in a private network."""
    return is_local(urllib.parse.urlsplit(self.endpoint).hostname or "")

  @property
  def endpoint(self) -> str:
    """Where requests go."""
    url = self.url
    if url.startswith("$"):
      url = os.environ.get(url[1:], "")
      if not url:
        raise UserError(f"url={self.url}: this environment variable is not set")
    try:
      parts = urllib.parse.urlsplit(url)
      host, _ = parts.hostname, parts.port
    except ValueError:
      parts, host = urllib.parse.urlsplit(""), None
    if parts.scheme not in ("http", "https") or not host:
      raise UserError(
        f'url="{self.url}": expected the address of an OpenAI-compatible'
        " server, such as http://localhost:8000/v1"
      )
    if parts.username or parts.password:
      raise UserError(
        "url holds a user's name or password, which would be written down;"
        " name the variable that holds the key in key_env"
      )
    if parts.query and not self.url.startswith("$"):
      raise UserError(
        "url holds a query, which would be written down and may be a secret;"
        ' put the address into an environment variable and give url="$NAME"'
      )
    path = parts.path.rstrip("/")
    path = path if path.endswith(_PATH) else path + _PATH
    return urllib.parse.urlunsplit(parts._replace(path=path, fragment=""))

  @property
  def key(self) -> str:
    """The API key; empty where none is named."""
    if not self.key_env:
      return ""
    if not _NAME.fullmatch(self.key_env):
      raise UserError(
        "key_env holds no name of an environment variable; give the name, as"
        ' in "OPENAI_API_KEY", never the key itself'
      )
    key = os.environ.get(self.key_env, "").strip()
    if not key or not key.isascii() or not key.isprintable():
      raise UserError(
        f"key_env={self.key_env}: this environment variable holds no key; set"
        " it for the process that runs the job"
      )
    return key


def is_local(host: str) -> bool:
  """Whether a name or an address is of this machine or a private network.

  Names are not resolved: those without a dot or with a private suffix are
  local.
  """
  try:
    address = ipaddress.ip_address(host)
  except ValueError:
    return "." not in host or host.endswith(_PRIVATE)
  return not address.is_global


def require_choice(name: str, value: str, known: Sequence[str]) -> None:
  """Rejects an unknown value."""
  if value not in known:
    raise UserError(
      f'{name}="{value}" is none of {", ".join(known)}{nearest(value, known)}'
    )


def with_options(load: Callable[..., Loaded]) -> Callable[..., Loaded]:
  """A loader that takes the fields of a dataclass beside its own arguments.

  Args:
    load: takes these fields as one argument, `options`, annotated with the
      class.
  """
  kind = typing.get_type_hints(load)["options"]
  common_fields = inspect.signature(kind).parameters
  extra = dict(inspect.signature(load).parameters)
  del extra["options"]

  @functools.wraps(load)
  def loads(**arguments):
    common = {k: arguments.pop(k) for k in common_fields if k in arguments}
    return load(options=kind(**common), **arguments)

  def check(arguments: Mapping[str, Any]) -> None:
    """Rejects invalid options before anything is read or sent."""
    kind(**{k: arguments[k] for k in common_fields if k in arguments})

  vars(loads)["check"] = check
  vars(loads)["__signature__"] = inspect.Signature(
    [*common_fields.values(), *extra.values()]
  )
  return loads
