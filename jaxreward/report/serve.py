"""A page on loopback that follows a run and takes votes between its images.

Only this machine reaches it. Requests must name it by its own address (no other
site's name can be pointed at it), no path of a request is opened, and a vote needs
the token of the page, which no other site can read. Nothing here imports JAX.
"""

from __future__ import annotations

import http.server
import json
import os
import pathlib
import secrets
import socketserver
import urllib.parse
from collections.abc import Callable
from typing import Any, cast

from jaxreward.errors import UserError, shown
from jaxreward.report import votes

PORT = 8765
PAGE = pathlib.Path(__file__).parent / "serve.html"
ADDRESS = "127.0.0.1"
METRICS, REPORT, CONFIG = "metrics.jsonl", "report.html", "config.json"
AT_ONCE = 1_000_000  # bytes of metrics in an answer
LONGEST = 4096  # bytes of a vote
_HEADERS = {
  "Cache-Control": "no-store",
  "X-Content-Type-Options": "nosniff",
  "Referrer-Policy": "no-referrer",
  "Cross-Origin-Resource-Policy": "same-origin",
  "Cross-Origin-Opener-Policy": "same-origin",
}
# A report has no scripts, and none would run.
_REPORT_POLICY = (
  "sandbox; default-src 'none'; img-src data:; style-src 'unsafe-inline';"
  " frame-ancestors 'self'"
)


def make_server(workdir: os.PathLike[str] | str, port: int = PORT) -> Server:
  """The server of a working directory, bound but not running.

  Args:
    workdir: of a run, begun or ended.
    port: on loopback; 0 for any free one.

  Raises:
    UserError: the folder holds no run, or the port is taken.
  """
  workdir = pathlib.Path(workdir)
  config = workdir / CONFIG
  if not config.is_file():
    raise UserError(
      f"--serve={shown(workdir, 100)} holds no run: there is no {CONFIG}"
    )
  try:
    seed = int(json.loads(config.read_bytes()).get("seed", 0))
  except (OSError, ValueError, TypeError, AttributeError):
    seed = 0  # it shows what there is, of a damaged run too
  try:
    server = Server((ADDRESS, port), _Handler)
  except OSError as error:
    raise UserError(
      f"--port={port}: {error.strerror or error}; give another one, or --port=0"
      " for any that is free"
    ) from error
  server.run = _Run(workdir, seed, server.server_port)
  return server


def address_of(server: Server) -> str:
  """The URL of the page."""
  return f"http://{ADDRESS}:{server.server_port}/"


class Server(http.server.ThreadingHTTPServer):
  """Its requests are threads, which end with it."""

  daemon_threads = True
  run: _Run

  def server_bind(self) -> None:
    """Binds without asking a name server who it is."""
    socketserver.TCPServer.server_bind(self)
    self.server_name, self.server_port = ADDRESS, self.server_address[1]


class _Run:
  """What the page shows of a working directory."""

  def __init__(self, workdir: pathlib.Path, seed: int, port: int):
    self.workdir = workdir
    self.votes = votes.Votes(workdir, seed)
    self.token = secrets.token_urlsafe(32)
    self.hosts = {f"{name}:{port}" for name in (ADDRESS, "localhost")}

  def file(self, name: str) -> pathlib.Path | None:
    """A file of the working directory, if it is there and no link leads out."""
    path = self.workdir / name
    if path.is_file() and votes.inside(self.workdir, path):
      return path
    return None

  def state(self) -> dict[str, Any]:
    report = self.file(REPORT)
    pairs, ids = self.votes.pairs(), self.votes.judged()
    return {
      "name": self.workdir.resolve().name,
      "report": str(report.stat().st_mtime_ns) if report else "",
      "pairs": len(pairs),
      "left": sum(p.id not in ids for p in pairs),
      "votes": len(ids),
    }

  def metrics(self, file_id: str, offset: int) -> dict[str, Any]:
    """Whole rows from an offset on; from the start of another file."""
    path = self.file(METRICS)
    if path is None:
      return {"file": "", "offset": 0, "rows": [], "more": False}
    with open(path, "rb") as file:
      status = os.fstat(file.fileno())
      if file_id != str(status.st_ino) or not 0 <= offset <= status.st_size:
        offset = 0
      file.seek(offset)
      data = file.read(AT_ONCE)
    end = data.rfind(b"\n") + 1
    rows = []
    for line in data[:end].split(b"\n"):
      try:
        row = json.loads(line)
      except ValueError:
        continue
      if isinstance(row, dict):
        rows.append(row)
    return {
      "file": str(status.st_ino), "start": offset, "offset": offset + end,
      "rows": rows, "more": end > 0 and offset + end < status.st_size,
    }  # fmt: skip

  def pair(self) -> dict[str, Any]:
    """The next pair; nothing tells which side is which."""
    pair = self.votes.next()
    if pair is None:
      return {}
    left, right = pair.images
    return {
      "id": pair.id, "prompt": pair.prompt, "left": left, "right": right,
      "source": pair.source,
    }  # fmt: skip


class _Handler(http.server.BaseHTTPRequestHandler):
  protocol_version = "HTTP/1.1"
  server_version, sys_version = "jaxreward", ""
  timeout = 30

  @property
  def run(self) -> _Run:
    return cast(Server, self.server).run

  def log_message(self, format: str, *args: Any) -> None:
    """Requests are not logged."""

  def do_GET(self) -> None:
    if not self._is_ours():
      return
    url = urllib.parse.urlsplit(self.path)
    query = dict(urllib.parse.parse_qsl(url.query))
    routes: dict[str, Callable[[], None]] = {
      "/": self._page,
      "/report.html": self._report,
      "/state": lambda: self._json(self.run.state()),
      "/pair": lambda: self._json(self.run.pair()),
      "/metrics": lambda: self._metrics(query),
    }
    if url.path in routes:
      routes[url.path]()
      return
    folder, _, name = url.path.removeprefix("/").partition("/")
    image = self.run.votes.png(name) if folder == "image" else None
    if image is None:
      self._error(404, "there is no such page")
    else:
      self._send(200, image, "image/png")

  def do_POST(self) -> None:
    length = self.headers.get("Content-Length", "")
    is_short = length.isdecimal() and len(length) < 10
    if not (is_short and int(length) <= LONGEST):
      self.close_connection = True
      self._error(413, "a vote is shorter, and says how long it is")
      return
    body = self.rfile.read(int(length))
    if not self._is_ours():
      return
    token = self.headers.get("X-Token", "").encode("latin-1", "replace")
    origin = self.headers.get("Origin", f"http://{self.headers['Host']}")
    if (
      not secrets.compare_digest(token, self.run.token.encode())
      or origin != f"http://{self.headers['Host']}"
      or self.headers.get("Sec-Fetch-Site", "same-origin") != "same-origin"
    ):
      self._error(403, "reload the page: its token is of another server")
      return
    if self.path != "/vote":
      self._error(404, "there is no such page")
      return
    try:
      vote = json.loads(body)
      pair, choice = vote["pair"], vote["choice"]
    except (ValueError, KeyError, TypeError, RecursionError):
      self._error(400, "a vote is an object with pair and choice")
      return
    try:
      self.run.votes.add(str(pair), str(choice))
    except UserError as error:
      self._error(409, str(error))
      return
    self._json({"votes": len(self.run.votes.judged())})

  def _is_ours(self) -> bool:
    """Refuses a request by another name than that of loopback."""
    if self.headers.get("Host", "") in self.run.hosts:
      return True
    self._error(403, "this page is reached by its own address alone")
    return False

  def _page(self) -> None:
    nonce = secrets.token_urlsafe(16)
    text = PAGE.read_text(encoding="utf-8")
    text = text.replace("{{token}}", self.run.token).replace("{{nonce}}", nonce)
    policy = (
      f"default-src 'none'; script-src 'nonce-{nonce}'; style-src"
      f" 'nonce-{nonce}'; img-src 'self'; connect-src 'self'; frame-src 'self';"
      " base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    )
    self._send(200, text.encode(), "text/html; charset=utf-8", policy)

  def _report(self) -> None:
    path = self.run.file(REPORT)
    if path is None:
      self._error(404, "there is no report yet")
      return
    html = "text/html; charset=utf-8"
    self._send(200, path.read_bytes(), html, _REPORT_POLICY)

  def _metrics(self, query: dict[str, str]) -> None:
    offset = query.get("offset", "0")
    number = int(offset) if offset.isdecimal() and len(offset) < 16 else 0
    self._json(self.run.metrics(query.get("file", ""), number))

  def _json(self, value: Any, code: int = 200) -> None:
    content = json.dumps(value, ensure_ascii=False).encode()
    self._send(code, content, "application/json; charset=utf-8")

  def _error(self, code: int, line: str) -> None:
    self._json({"error": line}, code)

  def _send(
    self, code: int, content: bytes, kind: str, policy: str = ""
  ) -> None:
    self.send_response(code)
    policy = policy or "default-src 'none'; sandbox; frame-ancestors 'none'"
    headers = {
      "Content-Type": kind,
      "Content-Length": str(len(content)),
      "Content-Security-Policy": policy,
    }
    for name, value in (_HEADERS | headers).items():
      self.send_header(name, value)
    self.end_headers()
    self.wfile.write(content)
