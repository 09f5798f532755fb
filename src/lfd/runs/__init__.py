"""Runs: an experiment's run folder, dry runs, stored policies, the Python interface and the removal of artifacts."""
