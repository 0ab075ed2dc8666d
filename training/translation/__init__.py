"""The zoo's translation models: sentence pairs and how they are written, training, and decoding."""
