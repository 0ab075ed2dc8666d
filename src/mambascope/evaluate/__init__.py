"""How far scores can be trusted: metrics, one file each."""
