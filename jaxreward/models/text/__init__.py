"""Text encoders and their prompt templates."""
