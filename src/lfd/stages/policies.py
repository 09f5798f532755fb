"""Names of policies in the configuration of stages: "<stage>", or "<stage>@<k>" for a snapshot of its policy."""

from collections.abc import Iterable

from lfd.errors import UserError
from lfd.stages import CheckContext


def split_name(name: str) -> tuple[str, int | None]:
    """ "expert@2" is ("expert", 2), "expert" is ("expert", None)."""
    base, at, index = name.partition("@")
    if at and not index.isdigit():
        raise UserError(f"policy {name!r}: expected a number after @, as in {base}@0, got {index!r}")
    return base, int(index) if at else None


def check_policies(context: CheckContext, policies: Iterable[str], stochastic: bool) -> None:
    """Raises UserError if a snapshot will not exist, or if actions are sampled from a spread that no loss trains."""
    named = [(name, *split_name(name)) for name in policies if split_name(name)[0] in context.stages]
    for name, base, snapshot in named:
        if snapshot is not None:
            context.stages[base].check_snapshot(f"{context.name}: {name}", snapshot)
    for base in dict.fromkeys(base for _, base, _ in named) if stochastic else ():
        context.stages[base].check_stochastic(f"{context.name}.stochastic=true of {base}", context.spaces)
