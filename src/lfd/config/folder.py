"""The folder of the yaml files."""

from pathlib import Path


def config_folder() -> Path:
    """conf/: inside the installed package, or beside src/ in a checkout."""
    inside = Path(__file__).parents[1] / "conf"
    return inside if inside.is_dir() else Path(__file__).parents[3] / "conf"
