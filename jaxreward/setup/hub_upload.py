"""Uploads an export to the Hugging Face hub, by `huggingface_hub` (extra `hub`).

The token is that of `hf auth login` or of HF_TOKEN; it is in no config and no record.
"""

from __future__ import annotations

import importlib.util

from absl import logging
from etils import epath
from ml_collections import ConfigDict

from jaxreward import files
from jaxreward.errors import UserError, one_line, shown
from jaxreward.setup import licences


def check(config: ConfigDict) -> None:
  """Refuses an upload that could not be done, before any work.

  Raises:
    UserError: no name of a repository, no package, or no token.
  """
  target = config.export.get("upload", "")
  if not target:
    return
  field = f'config.export.upload="{shown(target)}"'
  if not licences.HUB_ID.fullmatch(target):
    raise UserError(f"{field}: expected user/name, or organisation/name")
  if importlib.util.find_spec("huggingface_hub") is None:
    raise UserError(
      f'{field}: the package is missing; pip install "jaxreward[hub]"'
    )
  import huggingface_hub

  if not huggingface_hub.get_token():
    raise UserError(
      f"{field}: there is no token of the hub; run hf auth login, or set HF_TOKEN"
    )


def upload(config: ConfigDict, folder: epath.Path, message: str) -> None:
  """Uploads a folder in one commit if `export.upload` names a repository.

  A repository that does not exist is made, private with `export.private`.

  Raises:
    UserError: it exists and is public, which `export.private` forbids; or the
      hub has refused. The folder stays.
  """
  target = config.export.get("upload", "")
  if not target:
    return
  import huggingface_hub

  private, url = config.export.private, ""
  api = huggingface_hub.HfApi()
  try:
    api.create_repo(target, private=private, exist_ok=True)
    if not private or api.repo_info(target).private:
      with files.local_folder(folder) as path:
        url = api.upload_folder(
          repo_id=target, folder_path=path, commit_message=message
        ).commit_url
  except Exception as error:  # of the hub client or of its HTTP client
    raise UserError(
      f'config.export.upload="{target}": the hub has not taken it'
      f" ({one_line(error)}); the export is in {folder}, and hf upload {target}"
      f" {folder} sends it later"
    ) from error
  if not url:
    raise UserError(
      f'config.export.upload="{target}" is public and config.export.private=True:'
      f" nothing was sent; set it to False. The export is in {folder}"
    )
  logging.info("uploaded: %s", url)
