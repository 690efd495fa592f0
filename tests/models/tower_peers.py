"""Small random PyTorch peers and how our models are held to them."""

import jax
import jax.numpy as jnp
import numpy as np

from jaxreward.models import convert, hub


def numpy(x):
  """A torch tensor as float32 NumPy."""
  return x.detach().float().numpy()


def shake(model, seed=0, scale=0.3):
  """Moves every weight away from where it starts; nothing is left at 0 or 1."""
  import torch

  generator = torch.Generator().manual_seed(seed)
  with torch.no_grad():
    for weight in model.parameters():
      fan = weight[0].numel() if weight.ndim > 1 else 1
      step = scale if weight.ndim < 2 else fan**-0.5
      weight.add_(step * torch.randn(weight.shape, generator=generator))
  return model.eval()


def close(ours, theirs, tolerance=1e-4):
  """Whether the largest error is small beside the largest value."""
  ours, theirs = np.asarray(ours, np.float32), np.asarray(theirs, np.float32)
  assert ours.shape == theirs.shape
  assert np.isfinite(theirs).all()
  error = np.abs(ours - theirs).max() / max(1.0, np.abs(theirs).max())
  assert error <= tolerance, error


def close_trees(ours, theirs, tolerance=1e-3):
  """The same for gradients, each beside the largest of its leaf."""
  ours, theirs = jax.tree.leaves(ours), jax.tree.leaves(theirs)
  for a, b in zip(ours, theirs, strict=True):
    error = np.abs(np.asarray(a) - np.asarray(b)).max()
    assert error <= tolerance * max(np.abs(b).max(), 1e-3), (a.shape, error)


def gradients(model, loss, rules, like):
  """Gradients of a torch scalar by the model's weights, in our layout."""
  model.zero_grad()
  loss.backward()
  named = {
    n: numpy(p.grad) for n, p in model.named_parameters() if p.grad is not None
  }
  return from_public(named, rules, like)


def from_public(named, rules, like):
  """Public arrays by name in our layout."""
  by_path = {r.ours: r for r in rules if r.ours}
  name = lambda path: jax.tree_util.keystr(path, simple=True, separator="/")
  return jax.tree_util.tree_map_with_path(
    lambda path, leaf: by_path[name(path)].to_ours(named.__getitem__), like
  )


def same_after_round_trip(params, rules, spec):
  """That our parameters go back to the very bits of the public file."""
  stored = hub.open_weights(spec)
  back = convert.to_public(params, rules)
  assert back
  for name, array in back.items():
    np.testing.assert_array_equal(array, stored[name].read())
  ignored = [r.public for r in rules if not r.ours]
  assert set(stored) - set(back) <= set(ignored)


def count(tree):
  """Numbers in a tree of shapes."""
  return sum(int(np.prod(x.shape)) for x in jax.tree.leaves(tree))


def half(tree):
  """The tree in bfloat16."""
  return jax.tree.map(lambda x: jnp.asarray(x, jnp.bfloat16), tree)


def qwen3(vocabulary, width=24, depth=3):
  """A small Qwen3 of transformers."""
  import transformers

  config = transformers.Qwen3Config(
    hidden_size=width, num_hidden_layers=depth, num_attention_heads=4,
    num_key_value_heads=2, head_dim=8, intermediate_size=16,
    vocab_size=vocabulary, tie_word_embeddings=True,
  )  # fmt: skip
  return shake(transformers.Qwen3Model(config))


# As Qwen3 has it, without systems, tools and earlier turns.
CHAT = (
  "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n"
  "{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% if"
  " enable_thinking is defined and enable_thinking is false %}<think>\n\n</think>"
  "\n\n{% endif %}{% endif %}"
)


def chat_tokens(folder):
  """The tokenizer of the scenes' words with the marks of a chat."""
  import transformers

  from tests.rewards import folders

  folders.save_tokenizer(folder)
  read = transformers.AutoTokenizer.from_pretrained
  found = read(folder)
  marks = ["<|im_start|>", "<|im_end|>", "<think>", "</think>"]
  found.add_special_tokens({"additional_special_tokens": marks})
  found.chat_template = CHAT
  found.save_pretrained(folder)
  return read(folder)
