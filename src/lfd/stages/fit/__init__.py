"""Training stages: configuration, loop, evaluation and checks."""
