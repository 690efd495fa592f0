"""Checks fields of a public `config.json` that tensors do not reveal.

A flag may change what a network computes while its tensors stay as they are. So
every field of a config is accounted for: some are read, some must have the
implemented value, some do not change the output; any other enabled field is
refused by name.
"""

from __future__ import annotations

import dataclasses
import json
import math
import os
from collections.abc import Mapping
from typing import Any

from jaxreward.errors import UserError, shown
from jaxreward.models import hub

_SHOWN = 60  # characters of an expected value in an error
# Fields of every transformers config: for training, generation, bookkeeping.
TRANSFORMERS = (
  "architectures", "attention_dropout", "attn_implementation", "auto_map",
  "bad_words_ids", "begin_suppress_tokens", "bos_token_id",
  "chunk_size_feed_forward", "decoder_start_token_id", "diversity_penalty",
  "do_sample", "dropout", "dropout_rate", "dtype", "early_stopping",
  "encoder_no_repeat_ngram_size", "eos_token_id",
  "exponential_decay_length_penalty", "finetuning_task", "forced_bos_token_id",
  "forced_eos_token_id", "gradient_checkpointing", "hidden_dropout_prob",
  "attention_probs_dropout_prob", "id2label", "initializer_factor",
  "initializer_range", "label2id", "length_penalty", "max_length", "min_length",
  "model_type", "no_repeat_ngram_size", "num_beam_groups", "num_beams",
  "num_return_sequences", "output_attentions", "output_hidden_states",
  "output_past", "output_scores", "pad_token_id", "prefix", "problem_type",
  "remove_invalid_values", "repetition_penalty", "return_dict",
  "return_dict_in_generate", "sep_token_id", "suppress_tokens",
  "task_specific_params", "temperature", "tf_legacy_loss",
  "tie_encoder_decoder", "tie_word_embeddings", "tokenizer_class", "top_k",
  "top_p", "torch_dtype", "torchscript", "transformers_version", "typical_p",
  "use_bfloat16", "use_cache",
)  # fmt: skip


@dataclasses.dataclass(frozen=True, eq=False)
class Fields:
  """The known fields of one kind of config.

  Attributes:
    read: names whose values are used.
    fixed: by name, the values that are implemented.
    unread: names without effect on outputs.
    absent: the public library's default of a missing field.
  """

  read: tuple[str, ...] = ()
  fixed: Mapping[str, tuple[Any, ...]] = dataclasses.field(default_factory=dict)
  unread: tuple[str, ...] = ()
  absent: Mapping[str, Any] = dataclasses.field(default_factory=dict)


def like(config: Mapping[str, Any], extra: Fields) -> Fields:
  """`extra`, with the fields of `config` fixed to its values.

  Args:
    config: of the requested architecture.
    extra: further accepted values, and other known fields.
  """
  fixed = {name: (value,) for name, value in config.items()}
  for name, values in extra.fixed.items():
    fixed[name] = (*fixed.get(name, ()), *values)
  for name in extra.unread:
    fixed.pop(name, None)
  return dataclasses.replace(extra, fixed=fixed)


def check(record: Mapping[str, Any], known: Fields, *, of: str) -> None:
  """Refuses a config that this implementation would not reproduce.

  Names that begin with an underscore belong to the library; only fixed ones,
  such as `_class_name`, are checked.

  Args:
    record: the config; an empty one (weights without a config) passes.
    known: its known fields.
    of: name of the file, for the error.

  Raises:
    UserError: a field whose value is not implemented, or an unknown field that
      is enabled.
  """
  if not record:
    return
  silent = {k: v for k, v in known.absent.items() if k not in record}
  for name, value in {**record, **silent}.items():
    expected = known.fixed.get(name)
    if expected is not None:
      if not any(_same(value, one) for one in expected):
        raise _other(of, name, value, expected, given=name in record)
    elif name in known.read or name in known.unread or name.startswith("_"):
      continue
    elif _is_on(value):
      raise UserError(
        f"{of}: {shown(name)}={shown(json.dumps(value))} is not known here and may change"
        " what the network computes; take weights without it, or out of the"
        " file what you know to change nothing"
      )


def read(spec: os.PathLike[str] | str) -> dict[str, Any]:
  """The required `config.json` of weights.

  Raises:
    UserError: there is none.
  """
  record = hub.read_config(spec)
  if not record:
    raise UserError(
      f"{shown(os.fspath(spec), 160)} has no config.json, or an empty one; put"
      " that of the model beside the weights"
    )
  return record


def _other(
  of: str, name: str, value: Any, expected: tuple[Any, ...], *, given: bool
) -> UserError:
  values = list(dict.fromkeys(json.dumps(one)[:_SHOWN] for one in expected))
  silent = "" if given else " (it is not there, which means that)"
  return hub.misfit(of, name, value, " or ".join(values) + silent)


def _is_on(value: Any) -> bool:
  """Whether a value enables something."""
  return value not in (None, False, 0, "", [], {})


def _same(a: Any, b: Any) -> bool:
  """Equal, with lists as tuples and numbers up to their last digits."""
  if isinstance(a, list | tuple) and isinstance(b, list | tuple):
    return len(a) == len(b) and all(map(_same, a, b))
  if isinstance(a, bool) or isinstance(b, bool):
    return a is b
  if isinstance(a, int | float) and isinstance(b, int | float):
    return math.isclose(a, b, rel_tol=1e-6)
  return a == b
