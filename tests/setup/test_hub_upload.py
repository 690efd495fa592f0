"""An export goes to a hub, here a server on loopback that keeps what it gets."""

import base64
import http.server
import importlib.util
import json
import pathlib
import threading

import pytest
from etils import epath

from jaxreward.errors import UserError
from jaxreward.jobs import export
from jaxreward.setup import hub_upload
from tests import tiny

hub = pytest.importorskip("huggingface_hub")
from huggingface_hub import constants  # noqa: E402

pytestmark = pytest.mark.extras
SD3 = "align_public.py:sd35_medium,objective=flow_grpo,tiny"


class Hub(http.server.BaseHTTPRequestHandler):
  """The calls of `create_repo`, `repo_info` and `upload_folder`."""

  def log_message(self, *args):
    pass

  def answer(self, value, code=200):
    content = json.dumps(value).encode()
    self.send_response(code)
    self.send_header("Content-Type", "application/json")
    self.send_header("Content-Length", str(len(content)))
    self.end_headers()
    self.wfile.write(content)

  def do_GET(self):
    state, path = self.server.state, self.path.partition("?")[0]
    if state["refuse"]:
      self.answer({"error": "not today"}, 403)
    elif path == "/api/models/me/mine" or "/revision/" in path:
      private = state["repos"]["me/mine"]
      sha = "0" * 40
      self.answer({"id": "me/mine", "private": private, "sha": sha})
    else:
      self.answer({"error": "absent"}, 404)

  def do_POST(self):
    state, here = self.server.state, f"http://{self.headers['Host']}"
    size = int(self.headers.get("Content-Length") or 0)
    body = self.rfile.read(size)
    state["tokens"].add(self.headers.get("Authorization"))
    if state["refuse"]:
      self.answer({"error": "not today"}, 403)
    elif self.path == "/api/repos/create":
      asked = json.loads(body)
      name = (
        f"{asked.get('organization') or 'me'}/{asked['name'].split('/')[-1]}"
      )
      if name in state["repos"]:
        self.answer({"url": f"{here}/{name}"}, 409)
        return
      state["repos"][name] = bool(
        asked.get("private") or asked.get("visibility") == "private"
      )
      self.answer({"url": f"{here}/{name}", "name": name})
    elif "/preupload/" in self.path:
      files = json.loads(body)["files"]
      self.answer({"files": [
        {"path": f["path"], "uploadMode": "regular", "shouldIgnore": False}
        for f in files
      ]})  # fmt: skip
    elif "/commit/" in self.path:
      for line in body.splitlines():
        entry = json.loads(line)
        if entry["key"] == "file":
          value = entry["value"]
          content = base64.b64decode(value["content"])
          state["files"][value["path"]] = content
        else:
          state["message"] = entry["value"]["summary"]
      self.answer({"commitUrl": f"{here}/me/mine/commit/1", "commitOid": "1"})
    else:  # the card is looked at
      self.answer({"errors": [], "warnings": []})


@pytest.fixture
def endpoint(monkeypatch):
  """The state of a hub that this process uploads to."""
  server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Hub)
  server.state = {
    "repos": {}, "files": {}, "tokens": set(), "message": "", "refuse": False,
  }  # fmt: skip
  threading.Thread(target=server.serve_forever, daemon=True).start()
  address = f"http://127.0.0.1:{server.server_port}"
  monkeypatch.setattr(constants, "ENDPOINT", address)
  monkeypatch.setenv("HF_TOKEN", "hf_secret")
  monkeypatch.setenv("HF_HUB_DISABLE_XET", "1")
  with server:
    yield server.state
    server.shutdown()


@pytest.fixture
def folder(tmp_path):
  """An export with its card and a sample."""
  path = tmp_path / "export" / "final"
  (path / "samples").mkdir(parents=True)
  (path / "README.md").write_text("---\nlicense: mit\n---\n\n# Card\n")
  (path / "policy.safetensors").write_bytes(bytes(range(256)))
  (path / "samples" / "00-after.png").write_bytes(b"\x89PNG")
  return epath.Path(path)


def config_of(**options):
  given = {"export.upload": "me/mine"} | {
    f"export.{k}": v for k, v in options.items()
  }
  return tiny.load("align_scenes.py:smoke", given)


def test_a_folder_arrives_whole_in_a_private_repository(endpoint, folder):
  config = config_of()
  hub_upload.check(config)
  hub_upload.upload(config, folder, "Step 3")
  sent = {
    str(p.relative_to(folder)): p.read_bytes()
    for p in pathlib.Path(folder).rglob("*")
    if p.is_file()
  }
  assert {k: endpoint["files"][k] for k in sent} == sent
  assert endpoint["repos"] == {"me/mine": True}
  assert endpoint["message"] == "Step 3"
  assert endpoint["tokens"] == {"Bearer hf_secret"}
  hub_upload.upload(config, folder, "Step 4")  # it is there by now
  assert endpoint["message"] == "Step 4"


def test_a_public_repository_is_written_to_only_if_the_config_says_so(
  endpoint, folder
):
  endpoint["repos"]["me/mine"] = False
  with pytest.raises(UserError, match=r"is public and config.export.private"):
    hub_upload.upload(config_of(), folder, "Step 3")
  assert endpoint["files"] == {}
  hub_upload.upload(config_of(private=False), folder, "Step 3")
  assert "README.md" in endpoint["files"]


def test_what_the_hub_refuses_stays_on_the_disk(endpoint, folder):
  endpoint["refuse"] = True
  with pytest.raises(UserError, match="the hub has not taken it") as error:
    hub_upload.upload(config_of(), folder, "Step 3")
  assert "\n" not in str(error.value) and "hf_secret" not in str(error.value)
  assert str(folder) in str(error.value)
  assert (folder / "README.md").exists()


def test_nothing_is_done_without_a_name(folder, monkeypatch):
  config = tiny.load("align_scenes.py:smoke")
  monkeypatch.setattr(hub, "HfApi", None)
  hub_upload.check(config)
  hub_upload.upload(config, folder, "Step 3")


@pytest.mark.parametrize(
  "name", ["mine", "me/mine/again", "https://x/y", "a b/c"]
)
def test_a_wrong_name_is_refused_before_any_work(name):
  config = tiny.load(SD3, {"export.upload": name, "job": "export"})
  with pytest.raises(UserError, match=r"export\.upload=.*: expected user/name"):
    export.check(config)


def test_a_missing_token_or_package_is_said_before_any_work(monkeypatch):
  config = config_of()
  monkeypatch.setattr(hub, "get_token", lambda: None)
  with pytest.raises(UserError, match="there is no token of the hub; run hf"):
    hub_upload.check(config)
  find = importlib.util.find_spec
  monkeypatch.setattr(
    importlib.util, "find_spec",
    lambda name, *a: None if name == "huggingface_hub" else find(name, *a),
  )  # fmt: skip
  with pytest.raises(UserError, match=r'pip install "jaxreward\[hub\]"'):
    hub_upload.check(config)
