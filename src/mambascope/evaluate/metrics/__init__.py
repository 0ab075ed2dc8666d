"""The metrics, one file each. What each is called in a table of results, and which way is better, says `registry`."""
