"""Composes, checks and builds experiments; with `cli.sweep` the only modules that import Hydra and OmegaConf."""
