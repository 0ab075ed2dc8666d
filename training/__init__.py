"""How the two bundled language models are trained, measured and compared with simpler models of the same text."""
