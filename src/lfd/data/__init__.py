"""Demonstrations and experience on disk: one form, its passport, and readers of other people's files."""

from lfd.data.dataset import Dataset
from lfd.data.episode import Episode
from lfd.data.readers import read
from lfd.data.writer import Writer

__all__ = ["Dataset", "Episode", "Writer", "read"]
