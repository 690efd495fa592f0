"""Checks the input files of a config before anything is built.

Each job lists the image rows it will read; texts are read on the way. This comes
before networks, programs and weights, so that a damaged image stops a run in its
first seconds.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence

from absl import logging
from etils import epath
from ml_collections import ConfigDict

from jaxreward import config as config_lib
from jaxreward import processes, setup
from jaxreward.data import pictures
from jaxreward.data.image_checks import PictureRow
from jaxreward.errors import UserError, shown
from jaxreward.models import hub, packages
from jaxreward.models.text import qwen3_prompts, qwen_prompts
from jaxreward.models.vision import encoders
from jaxreward.models.vlm import small_judge, tiny
from jaxreward.rewards import references
from jaxreward.setup import rewards as reward_setup

# Per text encoder: the tokenizer with the longest context, its prompt template,
# and the policy's positions that are not for its tokens.
_READS: dict[str, tuple[str, Callable[[str], str], int]] = {
  "sd3": ("tokenizer_3", str, 77),
  "flux": ("tokenizer_2", str, 0),
  "flux2_klein": ("tokenizer", qwen3_prompts.KLEIN_TEMPLATE.format, 0),
  "qwen_image": (
    "tokenizer",
    qwen_prompts.TEMPLATE.format,
    -qwen_prompts.TEMPLATE_TOKENS,
  ),
  "wan": ("tokenizer", str, 0),
  "z_image": ("tokenizer", qwen3_prompts.TEMPLATE.format, 0),
}
_PARTS = ("autoencoder", "text_encoder", "image_encoder")


def of_prompts(config: ConfigDict, *splits: str | None) -> list[PictureRow]:
  """Images of the prompts of some splits; None for all of a file's.

  Raises:
    UserError: see `setup.load_prompts`.
  """
  prompts = [p for split in splits for p in setup.load_prompts(config, split)]
  if processes.is_first():
    warn_of_long(config, [prompt.text for prompt in prompts])
  return pictures.rows_of(prompts)


def warn_of_long(config: ConfigDict, texts: Sequence[str]) -> None:
  """Warns how many prompts are too long for the text encoder.

  They are truncated, as in the published pipelines. Not counted for encoders that
  also read an image, whose size decides the room for text.
  """
  section = config.text_encoder
  prompts = setup.make_policy(config).prompts
  if section.name not in _READS or prompts is None:
    return
  folder, template, other = _READS[section.name]
  if section.name == "sd3" and not section.get("with_t5", True):
    folder, other = "tokenizer", prompts["words"].shape[1] - 77
  most = prompts["words"].shape[1] - other
  size = lambda text: len(template(text).encode()) + 2  # tokens at most
  long = [text for text in dict.fromkeys(texts) if size(text) > most]
  if not long:
    return
  tokens = encoders.pretrained(f"{section.weights}:{folder}")
  ids = tokens([template(text) for text in long], verbose=False)["input_ids"]
  cut = [text for text, row in zip(long, ids, strict=True) if len(row) > most]
  if cut:
    logging.warning(
      "%d of %d prompts are longer than the %d tokens that"
      ' config.text_encoder.name="%s" reads; their ends are cut, first of "%s"',
      len(cut), len(set(texts)), most + min(other, 0), section.name,
      shown(cut[0]),
    )  # fmt: skip


def require_weights(
  config: ConfigDict, spec: str = "", field: str = "init.checkpoint"
) -> None:
  """Checks that local weight files exist, without a request to the hub.

  Args:
    config: of the run.
    spec: of the policy; empty for `init.checkpoint`.
    field: of the spec.

  Raises:
    UserError: names the field and the missing file or folder.
  """
  if not spec:
    spec, field = config.init.checkpoint, "init.checkpoint"
  if spec and not spec.startswith("workdir:"):
    if setup.make_policy(config).layout and not spec.startswith("package:"):
      _require_place(spec, field)
    else:
      setup.checkpoint_path(spec, field)
  for part in _PARTS:
    _require_place(config[part].get("weights", ""), f"{part}.weights")


def _require_place(spec: str, field: str) -> None:
  place = spec.partition(":")[0]
  is_hub_id = place.count("/") == 1 and not place.startswith((".", "/", "~"))
  is_absent = is_hub_id and not epath.Path(place).exists()
  if not spec or is_absent or tiny.has_no_files(spec):
    return
  is_packaged = spec.startswith(packages.PREFIX)
  if is_packaged and spec.removeprefix(packages.PREFIX) in packages.SHIPPED:
    return
  try:
    (small_judge.resolve if is_packaged else hub.resolve)(spec)
  except UserError as error:
    raise UserError(f"config.{field}: {error}") from error


def of_rewards(config: ConfigDict, workdir: epath.Path) -> list[PictureRow]:
  """Reference images of all rewards; checks that their weights exist.

  Entries by prompt, such as facts, are read by `text_files`.

  Args:
    config: of the run.
    workdir: where a trained reward model may be.

  Raises:
    UserError: names the reward and the mistake in its files.
  """
  reward_setup.require_trained(config, workdir)
  rows: list[PictureRow] = []
  for field, entry in reward_setup.sections_of(config):
    try:
      rows += _of_reward(config, field, entry)
    except UserError as error:
      raise UserError(f"config.{field}: {error}") from error
  return rows


def _of_reward(
  config: ConfigDict, field: str, entry: ConfigDict
) -> list[PictureRow]:
  fn = config_lib.resolve_callable(
    entry.fn, reward_setup.registry(), field=f"{field}.fn"
  )
  loader = getattr(fn, "loads", None)
  weights = entry.get("weights")
  options = inspect.signature(loader).parameters if loader else {}
  if reward_setup.POLICY_OF in options:
    for name in ("weights", "reference"):
      require_weights(config, entry.get(name) or "", f"{field}.{name}")
  elif loader and isinstance(weights, str):
    _require_place(weights, f"{field}.weights")
  folder = entry.get("references") if "references" in options else ""
  return references.checked(folder) if folder else []
