"""What ``benchmarks/run_peers.py`` is made of: the jobs, the peers' environments, the runner, the tables."""
