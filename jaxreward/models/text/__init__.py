"""Text encoders, and how prompts are handed to them."""
