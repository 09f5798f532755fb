"""Small experiments, one for each algorithm and for collection, whose bits several tests compare."""

from dataclasses import replace
from pathlib import Path
from typing import Any

from lfd.agents.memory import GRUSpec
from lfd.agents.nets import QEnsembleSpec
from lfd.algos import Loss
from lfd.algos.airl import AIRL
from lfd.algos.awac import AWAC
from lfd.algos.bc import BC, BCObjective, Labels
from lfd.algos.bcq import BCQContinuous, BCQDiscrete
from lfd.algos.cql import CQLContinuous, CQLDiscrete
from lfd.algos.crr import CRR
from lfd.algos.dqn import DQN
from lfd.algos.edac import EDAC
from lfd.algos.fqe import FQE
from lfd.algos.gail import GAIL
from lfd.algos.iql import IQL
from lfd.algos.large_margin import LargeMargin
from lfd.algos.ppo import PPO
from lfd.algos.qrdqn import QRDQN
from lfd.algos.rebrac import ReBRACActor, ReBRACCritic
from lfd.algos.sac import SAC
from lfd.algos.td import TD
from lfd.algos.td3 import TD3Actor, TD3Critic
from lfd.algos.td3_bc import TD3BCActor
from lfd.algos.trex import TREX
from lfd.envs import Env, Gym
from lfd.hardware import Hardware
from lfd.learner.learner import Algo, Phase
from lfd.learner.optim import OptimConfig, OptimizerKind, Target
from lfd.log import RunLog
from lfd.pipeline import TrainingPipeline
from lfd.sources.dataset import DatasetSource, Sequences
from lfd.sources.interactive import Interactive
from lfd.sources.mix import Mix
from lfd.sources.preference_pairs import PreferencePairs
from lfd.sources.replay import Replay
from lfd.sources.rollout import Rollout
from lfd.stages import Stage
from lfd.stages.collect import Collect
from lfd.stages.experts import Script
from lfd.stages.fit.config import EvalConfig, Stop
from lfd.stages.fit.stage import Fit
from lfd.stages.fit_pwil import FitPWIL
from lfd.stages.ope import OffPolicyEvaluation
from lfd.store.artifacts import Store
from tests import composed

SIZES = [8]
DECAY = {"start": 1.0, "end": 0.1, "over": 100}


def dqn() -> Algo:
    replay = Replay(300, 4, 50, n_step=2, epsilon=DECAY, per_alpha=0.6, per_beta=DECAY)
    return Algo(
        composed.q_net(SIZES),
        {"td": DQN("replay")},
        {"replay": replay},
        lr=1e-3,
        batch_size=16,
        targets={"critic": Target()},
    )


def ppo() -> Algo:
    rollout = Rollout(4, 16, epochs=2, target_kl=0.02, normalize_reward=True)
    clip = {"policy": OptimConfig(max_grad_norm=0.5)}
    return Algo(
        composed.policy_value(SIZES), {"ppo": PPO("rollout")}, {"rollout": rollout},
        lr=DECAY | {"end": 1e-4, "start": 1e-3}, batch_size=16, optim=clip, normalize_obs=True,
    )  # fmt: skip


def bc() -> Algo:
    return Algo(
        composed.policy(SIZES), {"bc": BC("demos")}, {"demos": DatasetSource(validation=0.2)}, lr=1e-3, batch_size=16
    )


def cql_discrete() -> Algo:
    losses = {"td": DQN("demos"), "gap": CQLDiscrete("demos", every=2)}
    return Algo(composed.q_net(SIZES), losses, batch_size=16, targets={"critic": Target(tau=1, update_interval=10)})


def cql_continuous() -> Algo:
    losses = {"sac": SAC("demos"), "gap": CQLContinuous("demos", samples=2, target_gap=1.0)}
    return Algo(
        composed.soft_policy_critic(SIZES), losses, batch_size=16, targets={"critic": Target()}, normalize_obs=True
    )


def ppo_bc() -> Algo:
    losses = {"ppo": PPO("rollout"), "bc": BC("demos", weight=DECAY)}
    return Algo(composed.policy_value(SIZES), losses, {"rollout": Rollout(4, 16, epochs=2)}, batch_size=16)


def phases() -> Algo:
    losses = {"td": DQN("both"), "gap": CQLDiscrete("demos")}
    sources = {"both": Mix({"demos": 0.5, "replay": 0.5}), "replay": Replay(300, 4, 50)}
    rounds = {"careful": Phase(["gap"], steps=7), "bold": Phase(["td"], epochs=1)}
    return Algo(
        composed.q_net(SIZES), losses, sources, rounds, batch_size=16, targets={"critic": Target(update_interval=3)}
    )


def members() -> Algo:
    losses = {"ppo": PPO("rollout"), "bc": BC("demos")}
    rounds = {"clone": Phase(["bc"], steps=5), "improve": Phase(["ppo"], epochs=2)}
    return Algo(
        composed.policy_value(SIZES), losses, {"rollout": Rollout(4, 16)}, rounds, batch_size=16, normalize_obs=True
    )


def dagger() -> Algo:
    demos = Interactive("teacher", "demos", beta=DECAY | {"over": 3}, episodes=2, transitions=30, num_envs=2)
    rounds = {"clone": Phase(["bc"], steps=25)}
    return Algo(
        composed.policy(SIZES), {"bc": BC("rounds")}, {"rounds": demos}, rounds, batch_size=16, normalize_obs=True
    )


def trex() -> Algo:
    source = PreferencePairs(min_length=3, max_length=10, full_trajectory_prob=0.3, validation=0.2)
    return Algo(
        composed.reward_model(),
        {"trex": TREX("demos", hidden=SIZES)},
        {"demos": source},
        batch_size=16,
        normalize_obs=True,
    )


def gail_dqn() -> Algo:
    losses = {
        "td": DQN("replay"),
        "gail": GAIL({"learner": "replay", "expert": "demos"}, gradient_penalty=1.0),
    }
    sources = {"replay": Replay(300, 4, 50, epsilon=DECAY, env_steps_per_update=0.7)}
    rounds = {"reward": Phase(["gail"], steps=7, on_policy_only=True), "policy": Phase(["td"], steps=20)}
    return Algo(
        composed.q_net(SIZES), losses, sources, rounds, batch_size=16, targets={"critic": Target()}, normalize_obs=True
    )


def gail_ppo() -> Algo:
    losses = {"ppo": PPO("rollout"), "gail": GAIL({"learner": "rollout", "expert": "demos"})}
    rounds = {"reward": Phase(["gail"], steps=3), "policy": Phase(["ppo"], epochs=2)}
    sources = {"rollout": Rollout(4, 16, normalize_reward=True)}
    return Algo(composed.policy_value(SIZES), losses, sources, rounds, batch_size=16, normalize_obs=True)


def pwil_dqn() -> Algo:
    """With a recurrent reward model, the product of the stage `reward`."""
    replay = Replay(300, 4, 50, n_step=2, epsilon=DECAY)
    return Algo(
        composed.q_net(SIZES),
        {"td": DQN("replay")},
        {"replay": replay},
        lr=1e-3,
        batch_size=16,
        targets={"critic": Target()},
    )


def pwil_ppo() -> Algo:
    sources = {"rollout": Rollout(4, 16, epochs=2, normalize_reward=True)}
    return Algo(
        composed.policy_value(SIZES), {"ppo": PPO("rollout")}, sources, lr=1e-3, batch_size=16, normalize_obs=True
    )


def qrdqn() -> Algo:
    replay = Replay(300, 4, 50, epsilon=DECAY)
    return Algo(
        composed.quantile_net(SIZES, quantiles=4), {"qrdqn": QRDQN("replay")}, {"replay": replay}, batch_size=16,
        targets={"critic": Target()},
    )  # fmt: skip


def iql() -> Algo:
    return Algo(composed.policy_critic_value(SIZES), {"iql": IQL("demos")}, batch_size=16, targets={"critic": Target()})


def awac() -> Algo:
    return Algo(composed.policy_critic(SIZES), {"awac": AWAC("demos")}, batch_size=16, targets={"critic": Target()})


def crr() -> Algo:
    slow = Target(tau=1, update_interval=10)
    return Algo(
        composed.policy_q(SIZES), {"crr": CRR("demos")}, batch_size=16, targets={"policy": slow, "critic": slow}
    )


def bcq_discrete() -> Algo:
    return Algo(
        composed.bcq_discrete(SIZES), {"bcq": BCQDiscrete("demos")}, batch_size=16, targets={"critic": Target()}
    )


def bcq_continuous() -> Algo:
    agent = composed.bcq_continuous(SIZES, candidates=3)
    targets = {"critic": Target(), "perturbation": Target()}
    return Algo(agent, {"bcq": BCQContinuous("demos")}, batch_size=16, targets=targets)


def deterministic(losses: dict[str, Loss], **settings: Any) -> Algo:
    """An algorithm of TD3's family, with delayed policy and target networks."""
    delayed = Target(update_interval=2)
    targets = {"critic": delayed, "policy": delayed}
    return Algo(composed.deterministic_policy_critic(SIZES), losses, batch_size=16, targets=targets, **settings)


def td3() -> Algo:
    losses = {"td3_critic": TD3Critic("replay"), "td3_actor": TD3Actor("replay", every=2)}
    return deterministic(losses, sources={"replay": Replay(300, 4, 50, action_noise=0.1)})


def td3_bc() -> Algo:
    losses = {"td3_critic": TD3Critic("demos"), "td3_bc_actor": TD3BCActor("demos", every=2)}
    return deterministic(losses, normalize_obs=True)


def rebrac() -> Algo:
    return deterministic({"rebrac_critic": ReBRACCritic("demos"), "rebrac_actor": ReBRACActor("demos", every=2)})


def edac() -> Algo:
    losses = {"sac": SAC("demos"), "edac": EDAC("demos")}
    return Algo(composed.soft_policy_critic(SIZES, critics=3), losses, batch_size=16, targets={"critic": Target()})


def sqil() -> Algo:
    sources = {
        "demos": DatasetSource(constant_reward=1.0), "both": Mix({"demos": 0.5, "replay": 0.5}),
        "replay": Replay(300, 4, 50, constant_reward=0.0, epsilon=DECAY),
    }  # fmt: skip
    losses = {"dqn": DQN("both", temperature=0.1)}
    return Algo(composed.q_net(SIZES), losses, sources, batch_size=16, targets={"critic": Target()}, normalize_obs=True)


def airl() -> Algo:
    losses = {"ppo": PPO("rollout"), "airl": AIRL({"learner": "rollout", "expert": "demos"}, hidden=SIZES)}
    rounds = {"reward": Phase(["airl"], steps=3, on_policy_only=True), "policy": Phase(["ppo"], epochs=2)}
    return Algo(
        composed.policy_value(SIZES), losses, {"rollout": Rollout(4, 16)}, rounds, batch_size=16, normalize_obs=True
    )


def rollout_replay() -> Algo:
    """Deep Q-learning on the replay of a rollout that no loss reads, in which an expert takes over some steps."""
    rollout = Rollout(4, 16, epochs=1, epsilon=DECAY, expert="teacher", expert_prob=DECAY)
    replay = Replay(300, source="rollout", n_step=2, per_alpha=0.6, batch_size=8)
    sources = {"rollout": rollout, "replay": replay}
    return Algo(composed.q_net(SIZES), {"td": DQN("replay")}, sources, batch_size=16, targets={"critic": Target()})


def ppo_replay() -> Algo:
    """On- and off-policy losses in one stage, each with its batch size; the replay is read first."""
    losses = {"own": BC("replay"), "ppo": PPO("rollout"), "bc": BC("demos")}
    sources = {
        "rollout": Rollout(4, 16, epochs=2), "replay": Replay(300, source="rollout", batch_size=24),
        "demos": DatasetSource(batch_size=8),
    }  # fmt: skip
    return Algo(composed.policy_value(SIZES), losses, sources, batch_size=16, normalize_obs=True)


def ppo_bc_td() -> Algo:
    """PPO, cloning and a critic of everything collected, each with its batch size."""
    agent = composed.policy_value(SIZES).with_nets({"critic": QEnsembleSpec()})
    losses = {"ppo": PPO("rollout"), "bc": BC("demos", weight=DECAY), "td": TD("replay")}
    sources = {
        "rollout": Rollout(4, 16, epochs=2), "replay": Replay(300, source="rollout", batch_size=24),
        "demos": DatasetSource(batch_size=8),
    }  # fmt: skip
    return Algo(agent, losses, sources, batch_size=16, targets={"critic": Target()})


def bc_gru() -> Algo:
    """Streams of whole episodes, with the recurrent state carried from one gradient step to the next."""
    agent = replace(composed.policy(SIZES), memory=GRUSpec(8))
    demos = DatasetSource(sequences=Sequences.streams)
    return Algo(agent, {"bc": BC("demos")}, {"demos": demos}, lr=1e-3, batch_size=24, sequence_length=6)


def ppo_bc_gru() -> Algo:
    agent = replace(composed.policy_value(SIZES), memory=GRUSpec(8))
    sources = {"rollout": Rollout(4, 16, epochs=2), "demos": DatasetSource(sequences=Sequences.streams)}
    losses = {"ppo": PPO("rollout"), "bc": BC("demos", weight=DECAY)}
    return Algo(agent, losses, sources, batch_size=16, sequence_length=4, normalize_obs=True)


def sac_demos(**losses: Loss) -> Algo:
    """Half of each batch from demonstrations."""
    sources = {"both": Mix({"demos": 0.5, "replay": 0.5}), "replay": Replay(300, 4, 50)}
    return Algo(
        composed.soft_policy_critic(SIZES), {"sac": SAC("both"), **losses}, sources, batch_size=16,
        targets={"critic": Target()},
    )  # fmt: skip


def cal_ql() -> Algo:
    return sac_demos(cql=CQLContinuous("demos", samples=2, calibrated=True))


def dqfd() -> Algo:
    sources = {
        "both": Mix({"demos": 0.25, "replay": 0.75}), "demos": DatasetSource(n_step=3),
        "replay": Replay(300, 4, 50, n_step=3, epsilon=DECAY),
    }  # fmt: skip
    losses = {"dqn": DQN("both"), "margin": LargeMargin("demos")}
    return Algo(composed.q_net(SIZES), losses, sources, batch_size=16, targets={"critic": Target()})


def gail_bc() -> Algo:
    algo = gail_ppo()
    losses = {**algo.losses, "bc": BC("demos", weight=DECAY)}
    return replace(algo, losses=losses, phases={**algo.phases, "policy": Phase(["ppo", "bc"], epochs=2)})


def td3_demos() -> Algo:
    """TD3 on what a rollout collects, cloning on the demonstrations only."""
    losses = {
        "td3_critic": TD3Critic("replay"), "td3_actor": TD3Actor("replay", every=2),
        "bc": BC("demos", error=BCObjective.mse, weight=DECAY),
    }  # fmt: skip
    rollout = Rollout(4, 16, epochs=4, action_noise=0.1)
    return deterministic(losses, sources={"rollout": rollout, "replay": Replay(300, source="rollout")})


def bc_then_ppo() -> Algo:
    """The second stage; its optimizers, schedule and stop rule are not those of the first one."""
    return replace(ppo(), sources={"rollout": Rollout(4, 16, epochs=2)})


def iql_then_ppo() -> Algo:
    agent = composed.policy_value(SIZES).with_nets({"critic": QEnsembleSpec()})
    return replace(bc_then_ppo(), agent=agent, normalize_obs=False)


def dagger_then_ppo() -> Algo:
    return replace(bc_then_ppo(), normalize_obs=False)


def clone() -> Fit:
    """The first stage of `bc_then_ppo`, which its stop rule ends before its steps are done."""
    sgd = {"policy": OptimConfig(OptimizerKind.sgd, lr={"start": 0.1, "end": 0.01, "over": 50})}
    algo = Algo(composed.policy_value(SIZES), {"bc": BC("demos")}, batch_size=16, optim=sgd, normalize_obs=True)
    return Fit(algo, 200, eval=EvalConfig(10, 1), reset_every=10, stop=Stop(plateau=2))


def offline() -> Fit:
    """The first stage of `iql_then_ppo`."""
    algo = Algo(iql_then_ppo().agent, {"iql": IQL("demos")}, batch_size=16, targets={"critic": Target()})
    return Fit(algo, 60, eval=EvalConfig(0), reset_every=30)


def imitate() -> Fit:
    """The first stage of `dagger_then_ppo`: labels of an expert that also takes some of the actions."""
    rollout = Rollout(4, 16, epochs=2, expert="teacher", expert_prob=DECAY)
    losses = {"bc": BC("rollout", labels=Labels.expert_action)}
    return Fit(Algo(dagger_then_ppo().agent, losses, {"rollout": rollout}, batch_size=16), 64, eval=EvalConfig(0))


def fqe() -> Algo:
    """Evaluates the policy of the stage `policy`."""
    return Algo(composed.critic(SIZES), {"fqe": FQE("demos")}, batch_size=16, targets={"critic": Target(0.1)})


PROGRAMS_OF = (
    dqn, ppo, bc, cql_discrete, cql_continuous, ppo_bc, phases, members, dagger, trex, gail_dqn, gail_ppo, pwil_dqn,
    pwil_ppo, qrdqn, iql, awac, crr, bcq_discrete, bcq_continuous, td3, td3_bc, rebrac, edac, sqil, airl,
    rollout_replay, ppo_replay, ppo_bc_td, bc_gru, ppo_bc_gru, sac_demos, cal_ql, dqfd, gail_bc, td3_demos, bc_then_ppo,
    iql_then_ppo, dagger_then_ppo, fqe,
)  # fmt: skip
ALGOS = {algo.__name__: algo for algo in PROGRAMS_OF}
PROGRAMS = [*ALGOS, "collect"]
# Programs whose state is of the same kinds as that of an earlier one; killing them once is enough.
VARIANTS = [*ALGOS][[*ALGOS].index("qrdqn") :]
FROZEN = {"pwil_dqn": {"reward": "reward"}, "pwil_ppo": {"reward": "reward"}, "fqe": {"policy": "policy"}}
INIT_FROM = {"bc_then_ppo": "clone", "iql_then_ppo": "offline", "dagger_then_ppo": "imitate"}
CONTINUOUS = (
    "cql_continuous", "bcq_continuous", "td3", "td3_bc", "rebrac", "edac", "sac_demos", "cal_ql", "td3_demos",
)  # fmt: skip


def environment(program: str) -> Env:
    return Gym("Pendulum-v1", max_episode_steps=30) if program in CONTINUOUS else Gym("CartPole-v1")


def stages(
    program: str, steps: int = 240, every: int = 80, stop: Stop | None = None, seed: int = 0, snapshots: int = 0
) -> dict[str, Stage]:
    """The stages of a program; the last one is the target."""
    if program == "collect":
        expert = Fit(ppo(), steps=40, eval=EvalConfig(20, 1), snapshots=2)
        fractions = {"random": 0.3, "expert@0": 0.3, "expert": 0.4}
        demos = Collect(policies=fractions, transitions=10 * steps, epsilon=0.1, min_return=12.0, num_envs=2)
        return {"expert": expert, "demos": demos}
    demos = Collect("random", transitions=300, num_envs=3)
    return {
        "demos": demos,
        "teacher": Script("tests.experts:balance"),
        "reward": FitPWIL(composed.pwil(atoms=16, horizon=20), "demos"),
        "policy": Fit(bc(), 10, eval=EvalConfig(0)),
        "clone": clone(),
        "offline": offline(),
        "imitate": imitate(),
        "learn": (OffPolicyEvaluation if program == "fqe" else Fit)(
            ALGOS[program](), steps, seed, reset_every=60, snapshots=snapshots, eval=EvalConfig(every, 1),
            stop=stop or Stop(), members=2 if program in ("members", "fqe") else 1, frozen=FROZEN.get(program, {}),
            init_from=INIT_FROM.get(program, ""),
        ),
    }  # fmt: skip


def run(program: str, folder: Path, **settings: object) -> Path:
    """Runs a program with its artifacts in `folder`; returns the artifact of its target."""
    program_stages = stages(program, **settings)  # type: ignore[arg-type]
    with Store(folder) as store:
        pipeline = TrainingPipeline(program_stages, [list(program_stages)[-1]], environment(program), Hardware(), store)
        log = RunLog(folder / "run" / "metrics.jsonl")
        pipeline.run(log)
        log.finish("done", {})
        artifact = store.find(pipeline.keys[list(program_stages)[-1]])
        assert artifact is not None
        return artifact
