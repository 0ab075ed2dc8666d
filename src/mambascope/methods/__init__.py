"""Scores, one file per paper, and the result type that carries them with their evidence."""
