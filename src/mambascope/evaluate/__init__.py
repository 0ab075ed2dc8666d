"""How far scores can be trusted: tasks, metrics, and runs that can be interrupted and resumed."""
