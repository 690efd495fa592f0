"""Complete vision-language models: images and text in, text out."""
