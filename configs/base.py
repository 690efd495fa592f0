"""Defaults of every scene job; other configs start here and change a little."""

from ml_collections import ConfigDict


def get_config() -> ConfigDict:
  """Every field there is, with the value that suits two CPU cores."""
  return ConfigDict(
    dict(
      job="align",
      jobs=("align",),
      seed=0,
      profile=False,  # a trace and a table of step time in WORKDIR/profile
      # views of metrics.jsonl: also fn="wandb", fn="mlflow", or one of your own
      trackers=dict(tensorboard=dict(fn="tensorboard")),
      model=dict(
        name="scene_dit",
        width=128,
        depth=4,
        heads=2,
        mlp_ratio=3,
        text_layers=2,
        condition="text",  # or "class": prompts of one item, no word read
        place_scale=0.5,  # of the initial embeddings of places
        place_axes=False,  # they begin as row plus column
        remat="none",
        unroll=4,
        dtype="float32",
      ),
      # of policies that work outside the pixels, or read no words themselves
      autoencoder=dict(name="none"),
      text_encoder=dict(name="none"),
      image_encoder=dict(name="none"),  # of policies that look at a picture
      # of a video: frames kept; rewards see the first, the middle or, for the
      # mean of their scores, every one of them, by exp(-fade) less per frame from
      # the middle
      video=dict(frames=5, scored="mean", fade=0.0),
      # an adapter (LoRA) is added to the weights, whatever the job
      init=dict(checkpoint="package:scenes_base", adapter=""),
      lora=dict(
        rank=0,
        alpha=32.0,
        targets="^blocks/(qkv|out|up|down)$",
        init="",  # an adapter from which the trained ones start
      ),
      data=dict(
        source="scenes",  # or a prompts.txt / train.jsonl of your own
        grammar="scenes",  # or "free": prompts in any words
        dataset="",  # images with captions to train on, nothing drawn
        preferences="",  # or pairs of them; or "scenes", drawn for the task
        list_size=0,  # most images of a row that is taken whole; 0: pairs
        # columns of data.preferences and train_reward.source
        layout=dict(
          name="auto",  # by the columns there are; or a data set; or "columns"
          columns=dict(),  # of your own: prompt="caption", images=("a", "b")
          scale=(),  # the ends of ratings, such as (1, 5)
        ),
        reading=dict(
          split="",  # of a folder that has several
          images="",  # folder of the images; that of the file by default
          fit="crop",  # or "pad", "stretch", to the model's size
          confidence=0.0,  # rows of less are left out
          skip=0.0,  # share of malformed rows that may be left out
          heldout=0.2,  # share of prompts that a reward model is tested on
          cache="",  # folder of decoded images; in memory by default
        ),
        caption_drop=0.0,  # share of captions left out, for guidance
        control="",  # of portraits to colour: "grey", "edges" or "regions"
        # of preferences, where model.user is the width of a user's vector
        users=dict(
          count=0,  # planted, of opposite tastes, on a task's own pairs
          unseen=0,  # in the test alone: others, or the last ones of a file
          shown=4,  # comparisons that each is known by; nothing learns from them
          drop=0.0,  # share of rows as of the average user
          rows=128,  # pairs of the test
          encoder=dict(name="contrast", side=1),  # comparisons -> the vector
        ),
        # rewards whose scores of a dataset's images the policy reads, in the place
        # of a user
        scored=dict(
          rewards=(),
          drop=0.05,  # share of rows without them
          rows=256,  # images whose scores a score is compared with
          ask=1.0,  # in samples and evaluations: the share that scores no more
        ),
        negative_prompt="",  # what guidance leads away from
        kind_weights=(
          1,
          1,
          1,
          1,
          1,
          1,
        ),  # in the order of grammar.KINDS, or EDITS
      ),
      pretrain=dict(
        part="policy",  # or "autoencoder": what learns
        steps=5000,
        batch_size=128,
        caption_corruption=0.15,
        caption_drop=0.1,
        time_mean=0.0,
        time_std=1.0,
        shift=2.5,
        moments=0.1,  # weight of the moments of latents, of an autoencoder
        export_dtype="bfloat16",
      ),
      finetune=dict(
        steps=1000,
        batch_size=16,
        microbatch=0,  # rows at once, whose gradients are added; 0 for all
        buckets="",  # sizes of images, as in "1024x1024,832x1216"; the policy's
        shift=0.0,  # of the times; 0: that of the sampler's schedule
        validation=0.05,  # share of images whose loss is watched
        times=4,  # of each of them
        # folder of latents and texts, of `align` on files too; "": in
        # WORKDIR/encodings; "none" encodes each batch anew
        cache="",
        drawn=512,  # images, where data.dataset names a task
        export_dtype="float32",
      ),
      rollout=dict(
        prompts=16,  # of an iteration; its rows, where they come from files
        group=16,
        microbatch=256,
        num_steps=8,
        shift=2.5,
        schedule=dict(name="constant"),  # or "dynamic": grows with the picture
        guidance_scale=1.0,
        sampler=dict(name="ode"),  # or "flow_sde", "heun", "unipc" and others
        window_start=0,
        window_size=0,  # 0: noise in every step
        window_move=dict(name="none"),  # or "drawn", "sliding", "growing"
        # so many samples of a group share their noise, initial and of steps; with
        # children they part by so many `every` few steps; steps -1: all before
        # the window
        branch=dict(members=1, steps=0, children=0, every=1),
        aside=False,  # each step's noise leaves a chain that has none
        start=dict(
          name="noise"
        ),  # or "picture", "reference", "own": partly noised
        # a player whose values the sampler climbs: scale times their gradient
        # in the latents is added after each step from the share `first` on
        drift=dict(player="", scale=0.01, first=0.75, unit=False),
        real=0,  # so many of each group are reference images of the task
      ),
      rewards=dict(detector=dict(fn="detector", weight=1.0)),
      heldout_rewards=dict(),
      judged_rewards=dict(),  # that eval.preferences judges too
      kernels=dict(implementation="xla"),  # or "auto": Pallas on TPU and GPU
      composition=dict(name="weighted_sum"),
      advantage=dict(name="group", std="group"),
      objective=dict(name="diffusion_nft", beta=1.0, old_decay=0.9),
      regularizers=dict(),  # as kl=dict(fn="velocity_distance", weight=0.1)
      references=dict(),  # that move: reference=dict(rule="reset", metric="kl")
      players=dict(),  # networks beside the policy: critic=dict(fn="critic")
      align=dict(
        iterations=180,
        times=4,  # noise levels per sample and iteration, forward objectives
        density=dict(name="uniform"),  # or "logit_normal", "mode": of them
        noise="fresh",  # or "first", "path": the sampler's, of them
        gap=0.1,  # between the two times of a one-step prediction
        # words set before prompts by which a loss scores, for and against
        controls=dict(positive="", negative=""),
        pairs=1,  # of each group, objectives on pairs
        last_steps=1,  # that are differentiated, objectives through the reward
        depth=dict(name="whole"),  # or "uniform", "normal": drawn, fewer
        combine=dict(name="none"),  # gradients of rewards kept apart: "marble"
        hold_policy=0,  # first iterations, in which the policy stays as it is
        updates=4,  # optimizer steps per iteration
        split="times",  # or "samples": what they share out
        step_share=1.0,  # of the steps with noise, that each sample trains
        trained="",  # regex of the policy's parameters that learn; all if empty
        log_prob_gap_bound=1e-5,  # a tenth of the usual clip range
        old_log_prob="auto",  # or "sealed", "stored", "recomputed"
        overlap=False,  # draw with parameters one update old, never waiting
      ),
      optimizer=dict(
        name="adamw",
        learning_rate=7e-4,
        schedule="cosine",
        final_scale=0.1,
        warmup_steps=10,
        clip_norm=1.0,
        weight_decay=0.0,
        b1=0.9,
        b2=0.99,
      ),
      ema=dict(decay=0.97),
      mesh=dict(data=-1, fsdp=1, tensor=1),
      topology="v5e:16x16",  # that the job compile_check compiles for
      compile_check=dict(
        meshes="",  # others to compare, as in 16x1x1,4x4x1, or "all"
        memory=0.0,  # GiB per device; 0 takes what the compiler gives
        effort=0.0,  # of the compiler; -1 is several times as fast
        job="align",  # or "train_reward": whose programs
      ),
      processes=dict(
        detect=False,  # ask Cloud TPU, GKE, SLURM or Open MPI for the others
        patience=300,  # seconds to wait for all of them at the start
        heartbeat=100,  # seconds without a sign until one counts as lost
      ),
      eval=dict(
        checkpoint="",  # of the job evaluate; empty for init.checkpoint
        samples=480,
        quick_samples=240,
        group=4,
        num_steps=10,
        sampler=dict(name="ode"),  # or as rollout.sampler
        start=dict(name="noise"),  # or as rollout.start
        steering=dict(name="none"),  # or "best_of_n", ...: by config.rewards
        guidance_scales=(1.0, 2.0, 3.0),
        every=25,
        seed=20,
        microbatch=240,
        evaluators=dict(  # or "file.py:function" of your own
          measures=dict(fn="measures"),
          accuracy=dict(fn="accuracy"),
          rewards=dict(fn="rewards"),
          diversity=dict(fn="diversity"),
          statistics=dict(fn="image_statistics"),
        ),
        # a generator is judged by config.rewards on a benchmark's prompts
        benchmark=dict(
          prompts="",  # its file
          images=(),  # folders of images made for it, and "policy", drawn here
          group=4,  # images of a prompt that are drawn
          side=512,  # of images that rewards and the tower see
          rows_at_once=4,  # prompts
          reference="",  # folder of real images, for distances of features
          tower=dict(weights=""),  # of the features; "": the colours of 8 x 8
          nearest=5,  # neighbours, for precision, recall, density and coverage
        ),
        # the rewards are judged on these instead of a policy: a file, or the task
        preferences="",
        judging=dict(
          rows=256,  # prompts
          rows_at_once=16,
          views=128,  # rows seen mirrored, reworded, corrupted; 0 for none
          severities=4,  # of each corruption
          side=0,  # of images of files; 0: the task's, or 224
          frames=0,  # of each clip of a file, scored as by `video`; 0 for images
          margin=0.02,  # scores of the task that are closer are a tie
          inside="",  # other rows, like those trained on; "train": the task's
          combine="none",  # fits weights of config.rewards: "any", "positive"
          # what a reward of config.rewards with a weight must reach beside the ratings,
          # or the run stops: least correlation, largest mean error
          gate=dict(pearson=None, error=None),
        ),
      ),
      export=dict(  # of the job export, from a checkpoint of align
        part="policy",  # or "reward_model", which train_reward has written
        step="final",  # or "best", or the number of a step
        average=True,  # the EMA, or what the last update left
        fuse=False,  # adapters into the weights, or as a folder of their own
        dtype="same",  # as trained, or float32, bfloat16, float16
        # of the model card, such as "apache-2.0" or the address of a licence;
        # that of the base if empty
        license="",
        upload="",  # or "user/name": to the Hugging Face hub (extra `hub`)
        private=True,  # of a repository that upload makes
      ),
      sample=dict(
        split="heldout",
        prompts=24,
        group=4,
        num_steps=10,
        sampler=dict(name="ode"),
        steering=dict(name="none"),  # as eval.steering
        start=dict(name="noise"),  # or as rollout.start
        guidance_scale=1.0,
        microbatch=96,
        scale=4,  # pixels per pixel in the files
      ),
      checkpoint=dict(
        every=25,
        keep=2,  # newest ones
        best="",  # kept too: highest metric of this name; held-out reward if ""
        grace=0.0,  # seconds after SIGTERM, saved or not; 0: no limit
      ),
    )
  )
