"""How fast the package is on this machine, beside what else the same work could be done with."""
