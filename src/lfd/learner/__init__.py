"""The gradient step: losses, optimizers, target networks, and its recording."""
