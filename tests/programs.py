"""Small experiments, one for each algorithm and for collection, whose bits are compared by several tests."""

from pathlib import Path

from lfd.agents.actor_critic import Policy, PolicyValue, SoftPolicyCritic
from lfd.agents.judge import JudgeSpec
from lfd.agents.q import QNet
from lfd.algos.bc import Cloning
from lfd.algos.cql import ConservativeContinuous, ConservativeDiscrete
from lfd.algos.dqn import DQN
from lfd.algos.gail import Discriminator
from lfd.algos.ppo import PPO
from lfd.algos.pwil import PWIL
from lfd.algos.sac import SAC
from lfd.algos.trex import TREX
from lfd.artifacts import Store
from lfd.envs import Env, Gym
from lfd.hardware import Hardware
from lfd.learner import Algo, Phase, Target
from lfd.log import RunLog
from lfd.optim import Optim
from lfd.pipeline import TrainingPipeline
from lfd.sources.dataset import Demonstrations
from lfd.sources.interactive import Interactive
from lfd.sources.mix import Mix
from lfd.sources.replay import Replay
from lfd.sources.rollout import Rollout
from lfd.sources.snippets import Snippets
from lfd.stages import Stage
from lfd.stages.collect import Collect
from lfd.stages.experts import Script
from lfd.stages.fit import Fit
from lfd.stages.recipe import Checks, Stop

SIZES = [8]
DECAY = {"start": 1.0, "end": 0.1, "steps": 100}


def dqn() -> Algo:
    replay = Replay(300, 4, 50, n_step=2, epsilon=DECAY, priority=0.6, priority_beta=DECAY)
    return Algo(QNet(SIZES), {"td": DQN("replay")}, {"replay": replay}, lr=1e-3, batch=16, targets={"q": Target()})


def ppo() -> Algo:
    rollout = Rollout(4, 16, epochs=2, kl_stop=0.02, scale_reward=True)
    clip = {"policy": Optim(clip=0.5)}
    return Algo(
        PolicyValue(SIZES), {"ppo": PPO("rollout")}, {"rollout": rollout}, lr=DECAY | {"end": 1e-4, "start": 1e-3},
        batch=16, optim=clip, normalize_obs=True,
    )  # fmt: skip


def bc() -> Algo:
    return Algo(Policy(SIZES), {"bc": Cloning("demos")}, {"demos": Demonstrations(validation=0.2)}, lr=1e-3, batch=16)


def cql_discrete() -> Algo:
    losses = {"td": DQN("demos"), "gap": ConservativeDiscrete("demos", every=2)}
    return Algo(QNet(SIZES), losses, batch=16, targets={"q": Target(period=10)})


def cql_continuous() -> Algo:
    losses = {"sac": SAC("demos"), "gap": ConservativeContinuous("demos", samples=2, target_gap=1.0)}
    return Algo(SoftPolicyCritic(SIZES), losses, batch=16, targets={"critic": Target()}, normalize_obs=True)


def ppo_bc() -> Algo:
    losses = {"ppo": PPO("rollout"), "bc": Cloning("demos", weight=DECAY)}
    return Algo(PolicyValue(SIZES), losses, {"rollout": Rollout(4, 16, epochs=2)}, batch=16)


def phases() -> Algo:
    losses = {"td": DQN("both"), "gap": ConservativeDiscrete("demos")}
    sources = {"both": Mix({"demos": 0.5, "replay": 0.5}), "replay": Replay(300, 4, 50)}
    rounds = {"careful": Phase(["gap"], steps=7), "bold": Phase(["td"], epochs=1)}
    return Algo(QNet(SIZES), losses, sources, rounds, batch=16, targets={"q": Target(every=3)})


def members() -> Algo:
    losses = {"ppo": PPO("rollout"), "bc": Cloning("demos")}
    rounds = {"clone": Phase(["bc"], steps=5), "improve": Phase(["ppo"], epochs=2)}
    return Algo(PolicyValue(SIZES), losses, {"rollout": Rollout(4, 16)}, rounds, batch=16, normalize_obs=True)


def dagger() -> Algo:
    demos = Interactive("teacher", "demos", beta=DECAY | {"steps": 3}, episodes=2, transitions=30, num_envs=2)
    rounds = {"clone": Phase(["bc"], steps=25)}
    return Algo(Policy(SIZES), {"bc": Cloning("rounds")}, {"rounds": demos}, rounds, batch=16, normalize_obs=True)


def trex() -> Algo:
    source = Snippets(shortest=3, longest=10, trajectories=0.3, validation=0.2)
    return Algo(JudgeSpec(), {"trex": TREX("demos", hidden=SIZES)}, {"demos": source}, batch=16, normalize_obs=True)


def gail_dqn() -> Algo:
    losses = {
        "td": DQN("replay"),
        "gail": Discriminator({"learner": "replay", "expert": "demos"}, gradient_penalty=1.0),
    }
    sources = {"replay": Replay(300, 4, 50, epsilon=DECAY, rate=0.7)}
    rounds = {"reward": Phase(["gail"], steps=7, fresh=True), "policy": Phase(["td"], steps=20)}
    return Algo(QNet(SIZES), losses, sources, rounds, batch=16, targets={"q": Target()}, normalize_obs=True)


def gail_ppo() -> Algo:
    losses = {"ppo": PPO("rollout"), "gail": Discriminator({"learner": "rollout", "expert": "demos"})}
    rounds = {"reward": Phase(["gail"], steps=3), "policy": Phase(["ppo"], epochs=2)}
    sources = {"rollout": Rollout(4, 16, scale_reward=True)}
    return Algo(PolicyValue(SIZES), losses, sources, rounds, batch=16, normalize_obs=True)


def pwil_dqn() -> Algo:
    """On a reward with memory, which the stage `reward` makes."""
    replay = Replay(300, 4, 50, n_step=2, epsilon=DECAY)
    return Algo(QNet(SIZES), {"td": DQN("replay")}, {"replay": replay}, lr=1e-3, batch=16, targets={"q": Target()})


def pwil_ppo() -> Algo:
    sources = {"rollout": Rollout(4, 16, epochs=2, scale_reward=True)}
    return Algo(PolicyValue(SIZES), {"ppo": PPO("rollout")}, sources, lr=1e-3, batch=16, normalize_obs=True)


PROGRAMS_OF = (
    dqn, ppo, bc, cql_discrete, cql_continuous, ppo_bc, phases, members, dagger, trex, gail_dqn, gail_ppo, pwil_dqn,
    pwil_ppo,
)  # fmt: skip
ALGOS = {algo.__name__: algo for algo in PROGRAMS_OF}
PROGRAMS = [*ALGOS, "collect"]


def environment(program: str) -> Env:
    return Gym("Pendulum-v1", max_episode_steps=30) if program == "cql_continuous" else Gym("CartPole-v1")


def stages(
    program: str, steps: int = 240, every: int = 80, stop: Stop | None = None, seed: int = 0, checkpoints: int = 0
) -> dict[str, Stage]:
    """The last of them is wanted."""
    if program == "collect":
        expert = Fit(ppo(), steps=40, check=Checks(20, 1), checkpoints=2)
        shares = {"random": 0.3, "expert@0": 0.3, "expert": 0.4}
        demos = Collect(policies=shares, transitions=10 * steps, epsilon=0.1, min_return=12.0, num_envs=2)
        return {"expert": expert, "demos": demos}
    demos = Collect("random", transitions=300, num_envs=3)
    coupling = Algo(JudgeSpec(), {"pwil": PWIL("demos", atoms=16, horizon=20)}, batch=16)
    return {
        "demos": demos,
        "teacher": Script("tests.experts:balance"),
        "reward": Fit(coupling, 1, check=Checks(0)),
        "learn": Fit(
            ALGOS[program](), steps, seed, boundary=60, checkpoints=checkpoints, check=Checks(every, 1),
            stop=stop or Stop(), members=2 if program == "members" else 1,
            frozen={"reward": "reward"} if program.startswith("pwil") else {},
        ),
    }  # fmt: skip


def run(program: str, folder: Path, **settings: object) -> Path:
    """Run it with its artifacts in the folder; returns that of the wanted one."""
    made = stages(program, **settings)  # type: ignore[arg-type]
    with Store(folder) as store:
        pipeline = TrainingPipeline(made, [list(made)[-1]], environment(program), Hardware(), store)
        log = RunLog(folder / "run" / "metrics.jsonl")
        pipeline.run(log)
        log.finish("done", {})
        found = store.find(pipeline.keys[list(made)[-1]])
        assert found is not None
        return found
