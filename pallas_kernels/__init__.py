"""Fused kernels for alignment, each with a plain reference.

`grouped_advantage` computes group statistics, advantages and the clipped policy
loss with its gradient in one pass over [P, G, T]; `pairwise_loss` sums the
Bradley-Terry loss, or win rates, over all pairs of up to 4,096 candidates in
memory linear in their number; `sde_step` takes a sampler's stochastic step with
its log-probability in one read of the latents and the velocity;
`stream_attention` attends over text and pixels with the norms and rotations of
queries and keys, from products that are never split into heads in memory. A folder holds
`reference.py`, the contract in plain jax.numpy; `kernel.py`, the body on
blocks; `tpu.py` and `gpu.py`, the blocks and compiler parameters of Mosaic and
of Triton; and `api.py`, what is called: it checks, picks a form by the
platform, defines the gradient, and maps the kernel over the devices of the mesh
that is set (`jax.set_mesh`). Every function takes `implementation`: "auto", or
"xla" for the plain form, which is also the right one where a compiler fuses as
well; "interpret" runs a kernel on a CPU, slowly, to check it. Inputs may be
bfloat16, sums are float32. Gradients are of first order.
"""
