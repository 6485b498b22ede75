"""Slurm, as its users meet it: jobs and their tunnels. Knows nothing of ends or commands."""
