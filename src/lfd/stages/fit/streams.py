"""The open sources of a training stage."""

from collections.abc import Mapping, Sequence

import torch

from lfd.agents import Agent
from lfd.rng import derive
from lfd.sources import SourceContext, Stream
from lfd.sources.members import open_for_members
from lfd.stages import StageContext
from lfd.stages.fit.config import FitConfig


def open_streams(
    fit: FitConfig, context: StageContext, agents: Sequence[Agent], device: torch.device
) -> dict[str, Stream]:
    """Opens the sources that losses read, and those that another source follows, each once."""
    algo, sources, columns = fit.algo, fit.sources(), fit.columns_read()
    round_steps, round_epochs = fit.round_length()
    streams: dict[str, Stream] = {}

    def stream(name: str) -> Stream:
        if name not in streams:
            # By position, as a source may have the name of a stage, and names of stages change no bits.
            seed = derive(fit.seed, "source", list(columns).index(name))
            source_context = SourceContext(
                name=name, agents=agents, products=context.products, sources=sources, stream=stream,
                columns=columns[name], batch=fit.batch_of(name)[0], sequence=algo.sequence_length, gamma=algo.gamma,
                seed=seed, device=device, env=context.env, folder=context.folder / "sources" / name,
                product_folder=context.folder / name,
                # Environments are reset between two rounds only.
                reset_every=fit.reset_every + round_steps, round_steps=round_steps, round_epochs=round_epochs,
                stopping=context.stopping, set_activity=context.progress.set_activity,
            )  # fmt: skip
            streams[name] = open_for_members(sources[name], source_context)
        return streams[name]

    for name in columns:
        stream(name)
    return streams


def demo_steps(streams: Mapping[str, Stream]) -> int:
    """Rows that a training drew from datasets so far."""
    return sum(stream.demo_steps for stream in streams.values())
