"""The licence of an export, and the base model that it comes from.

The licence is, in this order:

1. `config.export.license`: an identifier such as "apache-2.0", or the address of a
   licence;
2. Apache 2.0, where training started from weights that come with this library;
3. what the README.md beside the base weights says, where they are a local folder;
4. "other", with a link to the base model, where the base is a model of the hub;
5. none: the card says that none was given.
"""

from __future__ import annotations

import re

from etils import epath
from ml_collections import ConfigDict

from jaxreward import paths
from jaxreward.errors import UserError, shown
from jaxreward.setup.parameters import ASSETS

OWN = "apache-2.0"
HUB_ID = re.compile(r"[\w-][\w.-]*/[\w-][\w.-]*")
_CACHED = re.compile(r"(models|datasets)--([\w.-]+?)--([\w.-]+)")
_LICENCE = re.compile(r"[a-z0-9][a-z0-9.+-]*")


def check(config: ConfigDict) -> None:
  """Refuses a licence that the hub would not take."""
  licence = config.export.get("license", "")
  if licence and not (_LICENCE.fullmatch(licence) or _is_address(licence)):
    raise UserError(
      f'config.export.license="{shown(licence)}": expected an identifier of the'
      ' hub, such as "apache-2.0", or the address of a licence (https://...)'
    )


def _is_address(text: str) -> bool:
  return re.fullmatch(r"https://[^\s\"<>]+", text) is not None


def _is_local(spec: str) -> bool:
  if spec.startswith(("package:", "workdir:")):
    return True
  place = paths.expand(spec)
  return paths.is_there(place) or paths.is_there(place.partition(":")[0])


def base_of(spec: str) -> str:
  """The hub id of the base weights; empty if it is not known."""
  if not spec:
    return ""
  place = spec.partition(":")[0]
  if HUB_ID.fullmatch(place) and not _is_local(spec):
    return place
  return next(iter(cached_ids("models", spec)), "")


def cached_ids(kind: str, *specs: str) -> list[str]:
  """Hub ids of paths in the hub's cache, whose folders hold them."""
  matches = (_CACHED.search(spec) for spec in specs)
  return [f"{m[2]}/{m[3]}" for m in matches if m and m[1] == kind]


def fields(config: ConfigDict, spec: str, base: str) -> dict[str, str]:
  """The fields of the head; see the module."""
  licence = config.export.get("license", "")
  if _is_address(licence):
    return _other(licence.rstrip("/").rpartition("/")[2].lower(), licence)
  if licence:
    return {"license": licence}
  name = spec.removeprefix("package:")
  if spec != name and (ASSETS / f"{name}.safetensors").exists():
    return {"license": OWN}
  if spec and _is_local(spec):
    if beside := _beside(spec):
      return beside
  return (
    _other("as-base-model", f"https://huggingface.co/{base}") if base else {}
  )


def _other(name: str, link: str) -> dict[str, str]:
  return {"license": "other", "license_name": name, "license_link": link}


def _beside(spec: str) -> dict[str, str]:
  """Licence fields of a README.md in the folder of local weights or above it."""
  place = spec if paths.is_there(paths.expand(spec)) else spec.partition(":")[0]
  path = epath.Path(paths.expand(place))
  for folder in (path, path.parent):
    readme = folder / "README.md"
    if not folder.is_dir() or not readme.exists():
      continue
    head = readme.read_bytes().decode(errors="replace").split("---\n", 2)
    if len(head) == 3 and not head[0].strip():
      lines = dict(re.findall(r"^(license\w*): *(.+?) *$", head[1], re.M))
      names = ("license", "license_name", "license_link")
      texts = {n: lines[n].strip("\"'") for n in names if n in lines}
      if not _is_address(texts.get("license_link", "https://x")):
        del texts["license_link"]  # a file beside the base
      return texts
  return {}


def note(config: ConfigDict, licence: dict[str, str], base: str) -> str:
  """What a reader has to know beside the fields of the head."""
  if config.export.get("license", ""):
    return ""
  if base:
    return (
      f"Trained from [{base}](https://huggingface.co/{base}): its licence holds"
      " for these weights too."
    )
  if licence:
    return ""
  return (
    "No licence was given. `--config.export.license=...` of the job export"
    " names one."
  )
