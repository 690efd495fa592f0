"""Evaluates a generator on a benchmark: `:MODEL`, or `:folders` of existing images.

  python -m jaxreward.main --config=configs/evaluate.py:sd35_medium \
    --config.eval.benchmark.prompts=evaluation_metadata.jsonl \
    --config.rewards.objects.fn=objects \
    --config.rewards.objects.weights=google/owlvit-base-patch32 \
    --config.rewards.objects.facts=evaluation_metadata.jsonl --workdir=runs/geneval

The models are `scenes` and the text-to-image models of `align_public.py`.
`eval.checkpoint` names weights of a run, `init.adapter` an adapter. docs/evaluate.md
describes the benchmarks, their judges, and distances to real images.
"""

from jaxreward import config as config_lib

PUBLIC = (
  "sd35_medium", "sd35_large", "flux_dev", "flux_schnell", "qwen_image", "z_image",
  "z_image_turbo", "klein_4b", "klein_9b", "klein_base_4b", "klein_base_9b",
)  # fmt: skip


def get_config(arg: str | None = None):
  """A model, or folders."""
  given = config_lib.parse_arg(
    arg, model=("folders", "scenes", *PUBLIC), smoke=False
  )
  model = given["model"]
  if model in PUBLIC:
    tiny = ",tiny" if given["smoke"] else ""
    config = config_lib.load_sibling(
      f"align_public.py:{model},objective=diffusion_nft{tiny}", __file__
    )
    config.data.source = "scenes"
    config.eval.checkpoint = ""
  else:
    size = ":smoke" if given["smoke"] else ""
    config = config_lib.load_sibling(f"evaluate_scenes.py{size}", __file__)
  config.job = "evaluate"
  config.jobs = ("evaluate",)
  if model == "scenes":
    config.eval.benchmark.side = 36
  else:
    config.data.grammar = "free"
    config.rewards = dict()
  config.heldout_rewards = dict()
  return config
