"""Datasets of episodes on disk: writing, reading, metadata, and readers of foreign files."""

from lfd.data.dataset import Dataset
from lfd.data.episode import Episode
from lfd.data.readers import read
from lfd.data.writer import Writer

__all__ = ["Dataset", "Episode", "Writer", "read"]
