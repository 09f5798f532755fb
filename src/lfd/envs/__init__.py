"""Environments: configuration classes and vector environments in which no transition crosses a reset."""

from lfd.envs.atari import Atari
from lfd.envs.env import Env, Gym
from lfd.envs.minigrid import MiniGrid
from lfd.envs.spaces import Spaces
from lfd.envs.vec_env import Step, VecEnv

__all__ = ["Atari", "Env", "Gym", "MiniGrid", "Spaces", "Step", "VecEnv"]
