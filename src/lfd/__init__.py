"""Learning from demonstrations: one declarative configuration, one experiment."""
