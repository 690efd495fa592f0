"""Aligns a policy that edits portraits: follow the instruction, keep the rest.

  python -m jaxreward.main --workdir=runs/portrait_edits_aligned \
    --config=configs/portrait_edits.py

With `:words` the only reward is `worded`, agreement with the prompt as a bag of words.
It fails on purpose, since it knows neither who is meant nor that the person has to stay
the same. The run uses identity edits, where giving everybody the other person's hair
has the highest reward, and follows the gradient of the reward through the sampler
(AlignProp), which finds images that no sample shows. `recognised` and `untouched` are
held out; the over-optimisation panel shows how they fall. `:person` differs in its
rewards, which keep the person (docs/portraits.md).
"""

from jaxreward import config as config_lib
from jaxreward import recipes
from jaxreward.errors import UserError

REWARDS = ("kept", "words", "person")
OBJECTIVES = ("diffusion_nft", "flow_grpo")
KEPT = dict(
  give=1.0, recolour=1.0, express=1.0, restyle=1.0, fill=1.0, unheard=1.0
)


def get_config(arg: str | None = None):
  """`:words` and `:person` as above; `objective=flow_grpo`, `smoke` as there."""
  options = config_lib.parse_arg(
    arg, reward=REWARDS, objective=OBJECTIVES, smoke=False
  )
  objective = options["objective"]
  if options["reward"] != "kept" and objective != OBJECTIVES[0]:
    raise UserError(
      f"objective={objective}: {options['reward']} follows the gradient of its reward;"
      " leave the objective out"
    )
  size = ",smoke" if options["smoke"] else ""
  config = config_lib.load_sibling(f"portraits.py:{objective}{size}", __file__)
  config.model.takes_source = True
  config.data.update(
    source="portrait_edits",
    grammar="portrait_edits",
    kind_weights=(2, 2, 1, 2, 3, 1, 1, 1, 0),
  )
  exact = lambda *names: {n: dict(fn=n, weight=1.0) for n in names}
  config.rewards = dict(
    carried_out=dict(fn="carried_out", weight=1.0),
    left_alone=dict(fn="left_alone", weight=0.5),
    same_person=dict(fn="same_person", weight=1.0),
    background=dict(fn="background", weight=0.5, kinds=KEPT),
  )
  config.heldout_rewards = exact("done", "untouched", "recognised")
  config.composition = dict(name="gdpo", epsilon=1e-6)
  config.advantage = dict(name="group", std="none")
  if not options["smoke"]:
    config.init.checkpoint = "package:portrait_edits_base"
    config.model.width = 104
    config.rollout.update(prompts=12, group=8, microbatch=96)
    config.align.iterations = 80
    if objective == "diffusion_nft":
      config.optimizer.learning_rate = 8e-4
    config.eval.update(every=40, quick_samples=96, guidance_scales=(1.0,))
  if options["reward"] != "kept":
    _follow_gradient(config, options["smoke"])
    del config.rewards.background, config.rewards.left_alone  # nothing is kept
  if options["reward"] == "words":
    config.rewards = exact("worded")
    config.heldout_rewards = exact("recognised", "untouched")
  return config


def _follow_gradient(config, smoke: bool):
  """Identity edits alone, by AlignProp."""
  config.data.kind_weights = (0, 0, 0, 0, 1, 0, 0, 0, 0)
  config.composition = dict(name="weighted_sum")
  recipes.follow_gradient(config, "full")  # at a rate of its own
  config.align.update(last_steps=2 if smoke else 4, updates=1)
  config.align.depth = dict(name="uniform")
  if not smoke:
    config.align.iterations = 60
    config.rollout.update(group=2, microbatch=24)
    config.optimizer.learning_rate = 1e-3
    config.eval.every = 20
