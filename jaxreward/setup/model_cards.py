"""README.md beside an export: a model card in the layout of Hugging Face.

It is made of the run's own records, and of nothing else: the same run gives the same
card. For its licence see `licences`.
"""

from __future__ import annotations

import dataclasses
import json
import os
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from etils import epath
from ml_collections import ConfigDict

from jaxreward import config as config_lib
from jaxreward import setup
from jaxreward.evaluation import tables
from jaxreward.files import write_atomic
from jaxreward.report import collect, grids
from jaxreward.setup import adapters, licences, public_reward_models, videos
from jaxreward.setup.parameters import POLICY_FILE
from jaxreward.types import Policy

FILE = "README.md"
SAMPLES = "samples"  # folder of images beside the card
SHOWN = 8  # pairs of images at most
_MARKUP = re.compile(r"([\\`*_{}\[\]<>#|!~$])")
_BY_KIND = {True: "text-to-video", False: "text-to-image"}


@dataclasses.dataclass(frozen=True)
class Card:
  """The parts of a card.

  Attributes:
    title: of the page.
    head: fields of the YAML head; empty ones are left out.
    sections: heading -> Markdown, in order; empty ones are left out.
  """

  title: str
  head: Mapping[str, Any]
  sections: Mapping[str, str]

  def text(self) -> str:
    """README.md. Values of the head are JSON, which YAML reads alike."""
    lines = ["---"]
    for name, value in self.head.items():
      if value:
        lines.append(f"{name}: {json.dumps(value, ensure_ascii=False)}")
    lines += ["---", "", f"# {plain(self.title)}"]
    for heading, body in self.sections.items():
      if body:
        lines += ["", *([f"## {heading}", ""] if heading else []), body]
    return "\n".join(lines) + "\n"


def write_policy(
  config: ConfigDict,
  policy: Policy,
  folder: epath.Path,
  workdir: epath.Path | None,
  step: int,
) -> None:
  """Writes the card of an exported policy, and sample images beside it.

  Args:
    config: of the run.
    policy: the architecture.
    folder: of the export.
    workdir: of the run; None for a card without its figures.
    step: of the checkpoint.
  """
  is_adapter = bool(config.lora.rank) and not config.export.fuse
  spec = config.init.checkpoint
  base = licences.base_of(spec)
  licence = licences.fields(config, spec, base)
  is_video = videos.is_video(policy)
  tag = "image-to-image" if policy.takes_source else _BY_KIND[is_video]
  if policy.takes_source and is_video:
    tag = "image-to-video"
  task = setup.make_task(config)
  evaluation = _record(workdir, "evaluation.json")
  samples = _copy_samples(workdir, folder)
  head = {
    **licence,
    "library_name": "diffusers" if policy.layout else "jaxreward",
    "pipeline_tag": tag,
    "tags": [
      "jaxreward", "flow-matching", "reward-alignment", config.objective.name,
      *(["lora"] if is_adapter else []),
    ],
    "base_model": base,
    "base_model_relation": base and ("adapter" if is_adapter else "finetune"),
    "datasets": licences.cached_ids("datasets", config.data.source, _preferences(config)),
  }  # fmt: skip
  what = "Adapters (LoRA)" if is_adapter else "A policy"
  last = step == config.align.iterations
  sections = {
    "": (
      f"{what} for {plain(tag.replace('-', ' '))}, aligned with rewards by"
      " jaxreward. "
      + _origin(config, base, is_adapter)
      + f" This is step {step} of {config.align.iterations},"
      + (" the moving average of its parameters." if config.export.average
         else " its parameters as the last update left them.")
    ),
    "Training": _training(config),
    "Figures": _figures(workdir, evaluation, step, last),
    "Samples": _sample_table(samples, last),
    "Load it": _loading(config, policy, is_adapter, base),
    "Licence": licences.note(config, licence, base),
    "Credits": task.credits,
    "Config": _config_block(config),
  }  # fmt: skip
  card = Card(_name(config, folder), head, sections)
  write_atomic(folder / FILE, card.text())


def write_reward_model(
  config: ConfigDict,
  record: Mapping[str, Any],
  folder: epath.Path,
  workdir: epath.Path,
) -> None:
  """Writes the card of an exported reward model.

  Args:
    config: of the run.
    record: of the model, what `train_reward` has written.
    folder: of the export.
    workdir: of the run.
  """
  weights = public_reward_models.weights_of(record)
  base, source = licences.base_of(weights), str(config.train_reward.source)
  names = {p.name for p in folder.iterdir()}
  licence = licences.fields(config, weights, base)
  evaluation = _record(workdir, "evaluation.json")
  head = {
    **licence,
    "library_name": _library(names),
    "tags": ["jaxreward", "reward-model", "preferences"],
    "base_model": base,
    "base_model_relation": base and "finetune",
    "datasets": licences.cached_ids("datasets", source),
  }
  options, model = config.train_reward, config.reward_model
  backbone, top = model.backbone.name, model.head.name
  sections = {
    "": (
      "A reward model: it scores an image by a prompt, the higher the better, and"
      " was trained by jaxreward on preferences between images of one prompt."
    ),
    "Training": _bullets([
      ("backbone and head", f"`{backbone}`, `{top}`"),
      ("base", plain(_base_of_reward(config, base, weights))),
      ("preferences", plain(_short(source))),
      ("steps", str(options.steps)),
    ]),
    "Figures": _figures(None, evaluation, 0, True),
    "Load it": _load_reward_model(config, names),
    "Licence": licences.note(config, licence, base),
    "Credits": setup.make_task(config).credits,
    "Config": _config_block(config),
  }  # fmt: skip
  card = Card(_name(config, folder), head, sections)
  write_atomic(folder / FILE, card.text())


def _base_of_reward(config: ConfigDict, base: str, weights: str) -> str:
  """What a reward model was trained from."""
  options = config.train_reward
  if options.init_from:
    return f"the reward model {_short(options.init_from)}"
  if weights:
    return base or _short(weights)
  if options.init_from_policy:
    spec = config.init.checkpoint
    return f"the policy {_short(spec)}" if spec else "a policy drawn at random"
  return "drawn at random"


def plain(text: object) -> str:
  """Text that Markdown shows as it is, on one line."""
  return _MARKUP.sub(r"\\\1", " ".join(str(text).split()))


def markdown_table(rows: Sequence[Sequence[str]]) -> str:
  """A table; the first row holds the headings."""
  line = lambda cells: "| " + " | ".join(cells) + " |"
  first, *others = rows
  return "\n".join(
    [line(first), line(["---"] * len(first)), *map(line, others)]
  )


def _name(config: ConfigDict, folder: epath.Path) -> str:
  upload = config.export.get("upload", "")
  if upload:
    return upload.partition("/")[2]
  part = "reward model" if config.export.part == "reward_model" else "policy"
  return f"{config.model.name} {part}".replace("_", " ")


def _preferences(config: ConfigDict) -> str:
  return str(config.data.get("preferences", ""))


def _origin(config: ConfigDict, base: str, is_adapter: bool) -> str:
  spec = config.init.checkpoint
  if base:
    text = f"The base is [{base}](https://huggingface.co/{base})"
  elif spec.startswith("package:"):
    text = f"The base is `{spec}`, which comes with jaxreward"
  elif spec:
    text = f"The base is {plain(_short(spec))}"
  elif is_adapter:
    text = f"The base is random weights, drawn with seed {config.seed}"
  else:
    text = "It was trained from random weights"
  adapter = adapters.spec_of(config, adapters.BASE)
  return text + (
    f", with the adapter {plain(_short(adapter))}." if adapter else "."
  )


def _training(config: ConfigDict) -> str:
  reward = lambda n, s: (
    f"`{n}` ({plain(_short(str(s.get('fn', n))))}, weight {s.get('weight', 1.0):g})"
  )
  rewards = [reward(n, s) for n, s in config.rewards.items()]
  watchers = [f"`{n}`" for n in config.heldout_rewards]
  rows = [
    ("objective", f"`{config.objective.name}`"),
    ("advantage", f"`{config.advantage.name}`"),
    ("rewards", ", ".join(rewards)),
    ("held-out rewards, never trained on", ", ".join(watchers)),
    ("prompts", plain(_short(config.data.source))),
    ("preferences", plain(_short(_preferences(config)))),
    ("iterations", str(config.align.iterations)),
    ("samples per iteration", f"{config.rollout.prompts} prompts x"
     f" {config.rollout.group}"),
    ("LoRA", f"rank {config.lora.rank}, alpha {config.lora.alpha:g}"
     if config.lora.rank else ""),
    ("seed", str(config.seed)),
  ]  # fmt: skip
  return _bullets(rows)


def _bullets(rows: Iterable[tuple[str, str]]) -> str:
  return "\n".join(f"- {name}: {text}" for name, text in rows if text)


def _short(path: str) -> str:
  """The last part of a path: the others speak of a machine."""
  return os.path.basename(path.rstrip("/")) if os.path.isabs(path) else path


def _record(workdir: epath.Path | None, name: str) -> dict[str, Any]:
  return {} if workdir is None else collect.read_json(workdir / name, [])


def _figures(
  workdir: epath.Path | None,
  evaluation: Mapping[str, Any],
  step: int,
  is_last: bool,
) -> str:
  """Tables of the run's evaluation, and of the metrics of the step."""
  parts = []
  headings, rows = tables.evaluation_rows(evaluation)
  if rows:
    note = "Held-out prompts; brackets are 95 % intervals."
    if not is_last:
      note += " After is the end of the run, and not this step."
    parts.append(f"{note}\n\n{markdown_table([headings, *_plain(rows)])}")
  model = evaluation.get("reward_model") or {}
  if model.get("accuracy") is not None:
    low, high = (tables.cell(model.get(k)) for k in ("low", "high"))
    parts.append(
      f"Held-out pairs ordered as their labels: {tables.cell(model['accuracy'])}"
      f" [{low}, {high}], n {tables.cell(model.get('n'))}."
    )
  if judgements := tables.judged_rows(evaluation):
    parts.append(markdown_table([judgements[0], *_plain(judgements[1:])]))
  if numbers := _row_of(workdir, step):
    note = f"Step {step}, on validation prompts:"
    cells = [[k.removeprefix("eval/"), tables.cell(v)] for k, v in numbers]
    table = markdown_table([["", "value"], *_plain(cells)])
    parts.append(f"{note}\n\n{table}")
  return "\n\n".join(parts)


def _plain(rows: Iterable[Sequence[str]]) -> list[list[str]]:
  return [[plain(cell) for cell in row] for row in rows]


def _row_of(workdir: epath.Path | None, step: int) -> list[tuple[str, float]]:
  """The evaluated metrics of a step of align, by name."""
  if workdir is None:
    return []
  rows = collect.read_jsonl(workdir / "metrics.jsonl", [])
  of_step = [
    r for r in rows if (r.get("job"), r.get("step")) == ("align", step)
  ]
  numbers = of_step[-1].items() if of_step else ()
  return sorted((k, v) for k, v in numbers if k.startswith("eval/"))


def _copy_samples(
  workdir: epath.Path | None, folder: epath.Path
) -> list[tuple[str, dict[str, str]]]:
  """Writes some of the report's images; (prompt, {side: file}) of each pair.

  The first pair of every category, then the next ones.
  """
  path = None if workdir is None else workdir / "grids" / "cards.npz"
  if path is None or not path.exists():
    return []
  cards = grids.load_cards(path)
  counts: dict[Any, int] = {}
  turn = []
  for i, text in enumerate(cards.texts):
    turn.append((counts.setdefault(text.get("kind"), 0), i))
    counts[text.get("kind")] += 1
  samples = []
  for number, (_, i) in enumerate(sorted(turn)[:SHOWN]):
    images = {"source": cards.beside.get("source", {}).get(i)}
    images |= {"before": cards.before[i], "after": cards.after[i]}
    files = {}
    for side, image in images.items():
      if image is None:
        continue
      files[side] = f"{SAMPLES}/{number:02d}-{side}.png"
      strip = cards.frames if side != "source" else 1
      write_atomic(folder / files[side], grids.sample_png(image, strip))
    samples.append((str(cards.texts[i].get("prompt", "")), files))
  return samples


def _sample_table(
  samples: Sequence[tuple[str, Mapping[str, str]]], is_last: bool
) -> str:
  if not samples:
    return ""
  sides = [
    s for s in ("source", "before", "after") if any(s in f for _, f in samples)
  ]
  cell = lambda files, s: f"![{s}]({files[s]})" if s in files else ""
  rows = [
    [plain(prompt), *(cell(files, s) for s in sides)]
    for prompt, files in samples
  ]
  note = "The same prompt and noise before training and after it."
  if not is_last:
    note += " After is the end of the run, and not this step."
  return f"{note}\n\n{markdown_table([['prompt', *sides], *rows])}"


def _loading(
  config: ConfigDict, policy: Policy, is_adapter: bool, base: str
) -> str:
  """How to load the export here and with diffusers."""
  place = config.export.get("upload", "") or "FOLDER"
  if not policy.layout:
    return (
      "With jaxreward, beside the config of the run; FOLDER is this one:\n\n"
      f"```bash\n--config.init.checkpoint=FOLDER/{POLICY_FILE}\n```"
    )
  origin = base or config.init.checkpoint.partition(":")[0] or "BASE"
  origin = _short(origin)
  flags = [f"--config.init.checkpoint={place}"]
  lines = ["import torch", "from diffusers import DiffusionPipeline", ""]
  load = f'DiffusionPipeline.from_pretrained(\n  "{origin}",'
  below = list((policy.parts or {"": ""}).values())
  if is_adapter:
    spec = config.init.checkpoint
    flags = [f"--config.init.checkpoint={spec if base else origin}"]
    flags.append(f"--config.init.adapter={place}")
    lines.append(f"pipeline = {load} torch_dtype=torch.bfloat16\n)")
    if first := adapters.spec_of(config, adapters.BASE):
      lines.append(
        f'pipeline.load_lora_weights("{_short(first)}")  # before it'
      )
    for name in below:
      options = f', subfolder="{name}"' if name else ""
      if name.endswith("_2"):
        options += ", load_into_transformer_2=True"
      lines.append(f'pipeline.load_lora_weights("{place}"{options})')
  else:
    assert policy.public_config is not None
    kind = policy.public_config["_class_name"]
    lines[1] = f"from diffusers import DiffusionPipeline, {kind}"
    parts = []
    for name in below:
      options = f', subfolder="{name}"' if name else ""
      variable = name or "transformer"
      lines.append(
        f"{variable} = {kind}.from_pretrained(\n"
        f'  "{place}"{options}, torch_dtype=torch.bfloat16\n)'
      )
      parts.append(f"{variable}={variable}")
    lines.append(
      f"pipeline = {load} {', '.join(parts)},\n  torch_dtype=torch.bfloat16\n)"
    )
  ours = " ".join(flags)
  return (
    f"With diffusers:\n\n```python\n{chr(10).join(lines)}\n```\n\n"
    f"With jaxreward, beside the config of the run:\n\n```bash\n{ours}\n```"
  )


def _library(names: set[str]) -> str:
  if "config.json" in names:
    return "transformers"
  return "open_clip" if "open_clip_config.json" in names else "jaxreward"


def _load_reward_model(config: ConfigDict, names: set[str]) -> str:
  upload = config.export.get("upload", "")
  place = upload or "FOLDER"
  text = ""
  if "config.json" in names:
    text = (
      "With transformers:\n\n```python\nfrom transformers import AutoModel\n\n"
      f'model = AutoModel.from_pretrained("{place}")\n```\n\n'
    )
  elif "open_clip_config.json" in names:
    text = (
      "With open_clip:\n\n```python\nimport open_clip\n\n"
      "model, _, preprocess = open_clip.create_model_and_transforms(\n"
      f'  "{"hf-hub" if upload else "local-dir"}:{place}"\n)\n```\n\n'
    )
  return text + (
    "With jaxreward, as the backbone to go on from:\n\n```bash\n"
    f"--config.reward_model.backbone.name={config.reward_model.backbone.name} \\\n"
    f"--config.reward_model.backbone.weights={place}\n```"
  )


def _config_block(config: ConfigDict) -> str:
  """The resolved config, with `~` for the home folder."""
  text = config_lib.to_json(config)
  home = os.path.expanduser("~")
  if len(home) > 1:
    text = text.replace(f'"{home}/', '"~/')
  return (
    "<details><summary>Every field</summary>\n\n"
    f"```json\n{text.strip()}\n```\n\n</details>"
  )
