"""Environments: made from configuration, stepped together, never a transition across a reset."""

from lfd.envs.atari import Atari
from lfd.envs.env import Env, Gym
from lfd.envs.minigrid import MiniGrid
from lfd.envs.spaces import Spaces
from lfd.envs.vector import Step, VecEnv

__all__ = ["Atari", "Env", "Gym", "MiniGrid", "Spaces", "Step", "VecEnv"]
