"""The two bundled language models: their text and tokens, training, and what they are measured by and against."""
