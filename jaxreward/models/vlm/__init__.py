"""Vision-language models whole: images and words in, words out."""
