"""Trains the scene reward model on preferences over the base policy's pictures.

Other configs that train a reward model start here, for `reward_model` and
`train_reward`.
"""

from ml_collections import ConfigDict

from jaxreward import config as config_lib


def get_config(arg: str | None = None):
  """`:smoke` runs a few steps on few pictures."""
  config = config_lib.load_sibling("base.py", __file__)
  config.job = "train_reward"
  config.reward_model = ConfigDict(
    dict(
      backbone=dict(  # or "clip", "siglip", "dino", "blip", "policy"
        name="scenes",
        width=128,
        depth=2,
        heads=2,
        mlp_ratio=3,
        text_layers=2,
        stem=256,
        unroll=2,
        dtype="float32",
      ),
      head=dict(name="scalar", hidden=256),  # or "gaussian", "similarity"
      train="full",  # or "frozen": the head alone; "lora": adapters and the head
      rank=16,  # of the adapters
      alpha=32.0,
      targets="(qkv|query|kv|out|up|down)$",
      context=False,  # images are read beside the source of their edit
      frames="mean",  # of clips; or "attention"
    )
  )
  config.train_reward = ConfigDict(
    dict(
      source="scenes",  # or a file of your own, see docs/preferences.md
      heldout="",  # another file to be tested on; by default a part of source
      frames=0,  # of each animation of a file; 0 for images
      train_rows=768,  # prompts; a rare kind's prompts stand in several rows
      heldout_rows=256,
      sampling=dict(
        samples=2,  # per row and guidance scale
        guidance_scales=(1.0, 2.0),
        num_steps=10,
        shift=2.5,
        microbatch=256,
        sampler=dict(name="ode"),  # or as rollout.sampler
        branch=dict(members=1, steps=0, children=0, every=1),  # as rollout's
        # other policies whose images are compared too: files of weights
        gallery=(),
        # so many steps before each look at the clean estimate, which is read in
        # the image's place: (8, 4, 1) from nearly clean to noisy
        estimates=(),
      ),
      # with a reference the last render is the row's source image, no candidate
      pictures=dict(
        renders=2, spoiled=3, borrowed=2, strict_weight=0.5, reference=False
      ),
      # planted, of opposite taste in warm colours; unseen ones are held out
      # or known by so many of their rows
      users=dict(count=0, unseen=0, weight=0.5, shown=4),
      # by the detector, or by a reward that config.rewards, heldout_rewards or
      # judged_rewards call so: a judge's answers, kept and distilled
      labels="",
      label_noise=0.05,
      margin=0.02,  # scores that are closer are a tie
      ties="drop",
      # or "pairwise": ratings in place of answers, no matrix of pairs
      loss=dict(name="bradley_terry", margin=0.0, label_noise=0.0),
      # labels made anew before training: "preference_strength", "consensus",
      # "coteach", "importance", "aligned", "extremes"
      curation=dict(name="none"),
      proxies=dict(members=4, width=64, ridge=1e-2),  # that curation asks
      init_from_policy=True,
      init_from="",  # a trained reward model, a file: whose parts are taken
      steps=240,
      rows=32,  # per step
      pictures_per_row=8,  # all their pairs are compared
      backbone_rate=1.0,  # of the optimizer's learning rate
      last_layers=dict(),  # of a whole tower: text=11, vision=19 are trained
      backbone_optimizer=dict(name="same"),  # or one of its own, as `optimizer`
      ema_decay=0.98,
      evaluate_every=80,
      save_every=80,
      # evaluations without a better one until the run ends; 0 for never
      early_stopping=dict(patience=0, metric="eval/pair_accuracy"),
      optimizer=dict(
        name="muon",
        learning_rate=1e-2,
        schedule="cosine",
        warmup_steps=20,
        clip_norm=1.0,
        weight_decay=0.01,
        b1=0.9,
        b2=0.99,
        adam_scale=0.15,
      ),
    )
  )
  if config_lib.parse_arg(arg, smoke=False)["smoke"]:
    config.model.update(width=32, depth=2, unroll=1)
    config.init.checkpoint = ""
    config.reward_model.backbone.update(width=32, depth=1, stem=32, unroll=1)
    config.reward_model.head.hidden = 64
    config.train_reward.update(
      train_rows=24, heldout_rows=12, steps=6, rows=4, pictures_per_row=4,
      evaluate_every=3, save_every=3,
    )  # fmt: skip
    config.train_reward.sampling.update(samples=1, num_steps=2)
    config.train_reward.optimizer.warmup_steps = 2
  return config
