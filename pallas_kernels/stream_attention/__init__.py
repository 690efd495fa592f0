"""Attention of several streams of tokens, from unsplit features."""

from pallas_kernels.stream_attention.api import fits, stream_attention

__all__ = ["fits", "stream_attention"]
