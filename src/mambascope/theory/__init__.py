"""The theory, running: how sequence layers mix tokens, and what one channel of them can express."""
