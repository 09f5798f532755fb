"""Artifacts of stages on disk: keys, locks, files, provenance and durations."""
