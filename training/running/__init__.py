"""What every run shares: the loop, its schedule and checkpoints, models' starts, and scans that train on a CPU."""
