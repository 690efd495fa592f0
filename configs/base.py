"""Defaults of every scene job; other configs start here and change a little."""

from ml_collections import ConfigDict


def get_config() -> ConfigDict:
  """Every field, with a value that suits two CPU cores."""
  return ConfigDict(
    dict(
      job="align",
      jobs=("align",),
      seed=0,
      profile=False,  # a trace and a table of step time in WORKDIR/profile
      # copies of metrics.jsonl: also fn="wandb", fn="mlflow", or one of your own
      trackers=dict(tensorboard=dict(fn="tensorboard")),
      model=dict(
        name="scene_dit",
        width=128,
        depth=4,
        heads=2,
        mlp_ratio=3,
        text_layers=2,
        condition="text",  # or "class": prompts of one item, as class labels
        place_scale=0.5,  # scale of the initial position embeddings
        place_axes=False,  # initialise them as the sum of row and column
        remat="none",
        unroll=4,
        dtype="float32",
      ),
      # for policies over latents, or with a separate text encoder
      autoencoder=dict(name="none"),
      text_encoder=dict(name="none"),
      image_encoder=dict(name="none"),  # for policies that read a source image
      # of a video: number of frames; rewards see the first frame, the middle one,
      # or all of them; the mean has weights that fall by exp(-fade) per frame from
      # the middle
      video=dict(frames=5, scored="mean", fade=0.0),
      # an adapter (LoRA) is merged into the weights, in every job
      init=dict(checkpoint="package:scenes_base", adapter=""),
      lora=dict(
        rank=0,
        alpha=32.0,
        targets="^blocks/(qkv|out|up|down)$",
        init="",  # an adapter file as the initial value of the trained adapters
      ),
      data=dict(
        source="scenes",  # or a prompts.txt / train.jsonl of your own
        grammar="scenes",  # or "free": free text
        dataset="",  # images with captions to train on, without sampling
        preferences="",  # or a file of preferences; or "scenes", made by the task
        list_size=0,  # largest number of images of a row used as a list; 0: pairs
        # columns of data.preferences and train_reward.source
        layout=dict(
          name="auto",  # recognised by its columns; or a data set; or "columns"
          columns=dict(),  # your own map: prompt="caption", images=("a", "b")
          scale=(),  # lowest and highest rating, such as (1, 5)
        ),
        reading=dict(
          split="",  # for a folder with several splits
          images="",  # folder of the images; the file's folder by default
          fit="crop",  # or "pad", "stretch", to the model's size
          confidence=0.0,  # rows with a lower confidence are left out
          skip=0.0,  # largest share of malformed rows to leave out
          heldout=0.2,  # share of prompts in the reward model's test set
          cache="",  # folder of decoded images; in memory by default
        ),
        caption_drop=0.0,  # share of captions left out, for guidance
        control="",  # source of portraits to colour: "grey", "edges" or "regions"
        # for preferences; model.user is the width of a user's vector
        users=dict(
          count=0,  # simulated users of opposite tastes, on a task's own pairs
          unseen=0,  # users only in the test: further ones, or the last of a file
          shown=4,  # comparisons that describe each user; not used for training
          drop=0.0,  # share of rows with the average user's vector
          rows=128,  # pairs in the test
          encoder=dict(name="contrast", side=1),  # comparisons -> the vector
        ),
        # rewards whose scores of a dataset's images condition the policy, instead
        # of a user
        scored=dict(
          rewards=(),
          drop=0.05,  # share of rows without scores
          rows=256,  # images whose scores define the quantiles
          ask=1.0,  # quantile requested in samples and evaluations
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
        part="policy",  # or "autoencoder": the part that trains
        steps=5000,
        batch_size=128,
        caption_corruption=0.15,
        caption_drop=0.1,
        time_mean=0.0,
        time_std=1.0,
        shift=2.5,
        moments=0.1,  # for an autoencoder: weight of the loss on latent moments
        export_dtype="bfloat16",
      ),
      finetune=dict(
        steps=1000,
        batch_size=16,
        microbatch=0,  # rows per gradient accumulation step; 0 for all
        buckets="",  # image sizes, such as "1024x1024,832x1216"; "": the policy's
        shift=0.0,  # of the times; 0: that of the sampler's schedule
        validation=0.05,  # share of images for the validation loss
        times=4,  # noise levels for each of them
        # folder of encoded images and texts, also for `align` on files; "":
        # WORKDIR/encodings; "none" encodes each batch again
        cache="",
        drawn=512,  # number of images if data.dataset names a task
        export_dtype="float32",
      ),
      rollout=dict(
        prompts=16,  # per iteration; its rows, if they come from files
        group=16,
        microbatch=256,
        num_steps=8,
        shift=2.5,
        # or "dynamic": grows with the image size
        schedule=dict(name="constant"),
        guidance_scale=1.0,
        sampler=dict(name="ode"),  # or "flow_sde", "heun", "unipc" and others
        window_start=0,
        window_size=0,  # 0: noise in every step
        # or "drawn" (random), "sliding", "growing"
        window_move=dict(name="none"),
        # `members` samples of a group share the initial noise and that of the first
        # `steps`; with `children` each chain splits into so many after every
        # `every` steps; steps -1: all steps before the window
        branch=dict(members=1, steps=0, children=0, every=1),
        aside=False,  # each noisy step branches off a deterministic chain
        # or "picture", "reference", "own": partly noised
        start=dict(name="noise"),
        # a player whose value guides the sampler: scale times its gradient in the
        # latents is added after each step, from the share `first` of the steps on
        drift=dict(player="", scale=0.01, first=0.75, unit=False),
        real=0,  # number of reference images of the task in each group
      ),
      rewards=dict(detector=dict(fn="detector", weight=1.0)),
      heldout_rewards=dict(),
      judged_rewards=dict(),  # label samples for players; eval.preferences tests them too
      kernels=dict(implementation="xla"),  # or "auto": Pallas on TPU and GPU
      composition=dict(name="weighted_sum"),
      advantage=dict(name="group", std="group"),
      objective=dict(name="diffusion_nft", beta=1.0, old_decay=0.9),
      regularizers=dict(),  # as kl=dict(fn="velocity_distance", weight=0.1)
      references=dict(),  # moving ones: reference=dict(rule="reset", metric="kl")
      players=dict(),  # networks beside the policy: critic=dict(fn="critic")
      align=dict(
        iterations=180,
        times=4,  # noise levels per sample and iteration, forward objectives
        # their density; or "logit_normal", "mode"
        density=dict(name="uniform"),
        noise="fresh",  # their noise; or the sampler's: "first", "path"
        gap=0.1,  # between the two times of a one-step prediction
        # words before the prompts with which a loss scores, for and against
        controls=dict(positive="", negative=""),
        pairs=1,  # per group, for objectives on pairs
        last_steps=1,  # differentiated steps, for objectives through the sampler
        # or a random number of them: "uniform", "normal"
        depth=dict(name="whole"),
        combine=dict(name="none"),  # of gradients of separate rewards: "marble"
        hold_policy=0,  # first iterations without training of the policy
        updates=4,  # optimizer steps per iteration
        split="times",  # or "samples": what is divided among the steps
        step_share=1.0,  # share of the noisy steps that each sample trains
        trained="",  # regex of the policy's trained parameters; all if empty
        log_prob_gap_bound=1e-5,  # a tenth of the usual clip range
        old_log_prob="auto",  # or "sealed", "stored", "recomputed"
        overlap=False,  # sample with parameters one update old, without waiting
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
      topology="v5e:16x16",  # target of the job compile_check
      compile_check=dict(
        meshes="",  # other meshes to compare, such as 16x1x1,4x4x1, or "all"
        memory=0.0,  # GiB per device; 0: as the compiler reports
        effort=0.0,  # of the compiler; -1 is several times as fast
        job="align",  # whose programs; or "train_reward"
      ),
      processes=dict(
        detect=False,  # find the others through Cloud TPU, GKE, SLURM or Open MPI
        patience=300,  # seconds to wait for all of them at the start
        heartbeat=100,  # seconds without a heartbeat until one counts as lost
      ),
      eval=dict(
        checkpoint="",  # for the job evaluate; empty for init.checkpoint
        samples=480,
        quick_samples=240,
        group=4,
        num_steps=10,
        sampler=dict(name="ode"),  # or as rollout.sampler
        start=dict(name="noise"),  # or as rollout.start
        steering=dict(name="none"),  # or "best_of_n", ..., with config.rewards
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
        # config.rewards score a generator on a benchmark's prompts
        benchmark=dict(
          prompts="",  # the benchmark's file
          images=(),  # folders of its images, and "policy" to sample here
          group=4,  # samples per prompt
          side=512,  # image side for rewards and the tower
          rows_at_once=4,  # prompts
          reference="",  # folder of real images, for distances of features
          tower=dict(
            weights=""
          ),  # for features; "": the colours of 8 x 8 cells
          nearest=5,  # neighbours, for precision, recall, density and coverage
        ),
        # evaluate the rewards on these preferences (a file, or the task), no policy
        preferences="",
        judging=dict(
          rows=256,  # prompts
          rows_at_once=16,
          views=128,  # rows scored mirrored, reworded and corrupted; 0 for none
          severities=4,  # of each corruption
          side=0,  # of images of files; 0: the task's, or 224
          frames=0,  # of each clip of a file, scored as by `video`; 0 for images
          margin=0.02,  # scores of the task that are closer are a tie
          inside="",  # a file like the training rows; "train": the task's
          combine="none",  # fits weights of config.rewards: "any", "positive"
          # requirements against ratings for weighted config.rewards, or the run
          # stops: least correlation, largest mean error
          gate=dict(pearson=None, error=None),
        ),
      ),
      export=dict(  # of the job export, from a checkpoint of align
        part="policy",  # or "reward_model", from train_reward
        step="final",  # or "best", or the number of a step
        average=True,  # the EMA; False: the parameters after the last update
        fuse=False,  # merge adapters into the weights; False: a separate folder
        dtype="same",  # as trained, or float32, bfloat16, float16
        # in the model card, such as "apache-2.0" or the address of a licence; the
        # base model's if empty
        license="",
        upload="",  # or "user/name": to the Hugging Face hub (extra `hub`)
        private=True,  # for a new repository
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
        keep=2,  # number of newest checkpoints to keep
        best="",  # metric whose highest value is kept too; "": held-out reward
        grace=0.0,  # seconds until exit after SIGTERM, saved or not; 0: no limit
      ),
    )
  )
