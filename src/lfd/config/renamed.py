"""Names of an earlier version, each of which is refused with its new name."""

import re
from collections.abc import Iterable
from pathlib import Path

from lfd.errors import UserError

# Environments after which files of tuned/ were named.
_ENVS = "acrobot|ant|breakout|cartpole|halfcheetah|hopper|lunarlander|lunarlander_continuous"
_ENVS += "|mountaincar|pendulum|pong|reacher|walker2d"
# (owner, old name, new name[, remark]). The owner is the class of a field ("field=value" for a value of the field), the
# group of an option, "losses" for a row of that table, or "" for a key at the root, a stage or a group. Old names are
# patterns of regular expressions, to whose groups new names may refer. A new name that begins with / is an entry of a
# defaults list.
RENAMED: list[tuple[str, ...]] = [
    ("", "algo@learner", "rl_algo"),
    ("", "learner", "rl_algo"),
    ("", "fqe_algo", "fqe.algo", "ope=fqe brings it"),
    ("", "ope@fqe_algo", "ope"),
    ("", "inspect", "reward_eval"),
    ("", "appraise", "fqe", "ope=fqe brings it"),
    ("", "impl", "by_action"),
    ("", "impl/learner", "by_rl_algo"),
    ("", "tuned/dataset", "tuned", "in tuned/<env>/<dataset>.yaml"),
    ("", "tuned/learner", "tuned/rl_algo"),
    ("", "tuned/learner_from", "tuned/rl_algo"),
    ("tuned", rf"trained_({_ENVS})", r"\1/expert"),
    ("tuned", rf"(\w+?)_({_ENVS})", r"\2/\1"),
    ("dataset", "few", "expert_10"),
    ("dataset", "middling", "medium_10"),
    ("dataset", "mixed", "mixture"),
    ("pipeline", "standard", "train"),
    ("pipeline", "interactive", "dagger"),
    ("pipeline", "noise", "drex"),
    ("pipeline", "adversarial", "airl"),
    ("pipeline", "reward", "reward_then_policy"),
    ("stage", "appraise", "ope"),
    ("stage", "inspect", "reward_eval"),
    ("stage", "live", "keyboard"),
    ("stage", "later", "queue"),
    ("optim", "row", "optim"),
    ("target", "row", "target"),
    ("phase", "row", "phase"),
    ("", "agent", "net", "an agent has nets by name, as in +net@algo.agent.nets.critic=q_ensemble"),
    ("agent", "q_net", "/net@agent.nets.critic: q_ensemble"),
    ("agent", "quantile_net", "/net@agent.nets.critic: quantile_q"),
    ("agent", "policy", "/net@agent.nets.policy: policy"),
    ("agent", "policy_value", "/net@agent.nets.policy: policy", "and /net@agent.nets.value: state_value"),
    ("agent", "soft_policy_critic", "/net@agent.nets.policy: policy", "and /net@agent.nets.critic: q_ensemble"),
    ("agent", "policy_critic", "/net@agent.nets.policy: policy", "and /net@agent.nets.critic: q_ensemble"),
    ("agent", "policy_q", "/net@agent.nets.policy: policy", "and /net@agent.nets.critic: q_ensemble"),
    (
        "agent",
        "deterministic_policy_critic",
        "/net@agent.nets.policy: policy",
        "head=deterministic, and /net@agent.nets.critic: q_ensemble",
    ),
    ("agent", "critic", "/net@agent.nets.critic: q_ensemble", "and /acts_by@agent.acts_by: none"),
    ("agent", "bcq_net", "/acts_by@agent.acts_by: bcq", "and the nets critic and imitation"),
    ("agent", "bcq", "/acts_by@agent.acts_by: bcq", "and the nets vae, perturbation and critic"),
    ("agent", "pwil", "/net@agent.nets.reward: pwil"),
    ("agent", "reward_model", "/loss", "which brings its net; leave the agent out"),
    ("agent", "judge", "/loss", "which brings its net; leave the agent out"),
    ("AgentConfig", "critics", "nets.critic.critics"),
    ("AgentConfig", "layer_norm", "nets.critic.layer_norm"),
    ("AgentConfig", "quantiles", "nets.critic.quantiles"),
    ("AgentConfig", "head", "nets.policy.head"),
    ("AgentConfig", "threshold", "nets.imitation.threshold"),
    ("AgentConfig", "vae_hidden", "nets.vae.hidden"),
    ("AgentConfig", "perturbation", "nets.perturbation.phi"),
    ("AgentConfig", "candidates", "acts_by.candidates"),
    ("AgentConfig", "atoms", "nets.reward.atoms"),
    ("AgentConfig", "horizon", "nets.reward.horizon"),
    ("AgentConfig", "alpha", "nets.reward.alpha"),
    ("AgentConfig", "beta", "nets.reward.beta"),
    ("AgentConfig", "inputs", "nets.reward.inputs"),
    ("targets", "q", "critic"),
    ("optim", "q", "critic"),
    ("source", "snippets", "preference_pairs"),
    ("loss", "cloning", "bc"),
    ("loss", "conservative_discrete", "cql_discrete"),
    ("loss", "conservative_continuous", "cql_continuous"),
    ("loss", "diversity", "edac"),
    ("loss", "deterministic_gradient", "td3_actor"),
    ("loss", "td3", "td3_critic"),
    ("loss", "td3_bc", "td3_bc_actor"),
    ("loss", "discrete_bcq", "bcq_discrete"),
    ("loss", "continuous_bcq", "bcq_continuous"),
    ("Algo", "batch", "batch_size"),
    ("Algo", "sequence", "sequence_length"),
    ("OptimConfig", "clip", "max_grad_norm"),
    ("OptimConfig", "kind", "optimizer"),
    ("Target", "period", "update_interval", "tau=1 makes it a copy"),
    ("Target", "every", "update_interval"),
    ("Phase", "fresh", "on_policy_only"),
    ("FitConfig", "boundary", "reset_every"),
    ("FitConfig", "checkpoints", "snapshots"),
    ("FitConfig", "check", "eval"),
    ("Evaluate", "also", "include_if_present"),
    ("Evaluate", "sample", "stochastic"),
    ("Collect", "sigma", "action_noise"),
    ("Collect", "sample", "stochastic"),
    ("KeyboardExpert", "who", "annotator"),
    ("QueueExpert", "who", "annotator"),
    ("Rollout", "steps", "num_steps"),
    ("Rollout", "lam", "gae_lambda"),
    ("Rollout", "kl_stop", "target_kl"),
    ("Rollout", "scale_reward", "normalize_reward"),
    ("Replay", "capacity", "buffer_size"),
    ("Replay", "warmup", "learning_starts"),
    ("Replay", "rate", "env_steps_per_update"),
    ("Replay", "sigma", "action_noise"),
    ("Replay", "priority", "per_alpha"),
    ("Replay", "priority_beta", "per_beta"),
    ("Replay", "reward", "constant_reward"),
    ("DatasetSource", "of", "dataset"),
    ("DatasetSource", "reward", "constant_reward"),
    ("Interactive", "given", "initial_dataset"),
    ("Interactive", "most", "max_transitions"),
    ("Interactive", "sample", "stochastic"),
    ("PreferencePairs", "of", "dataset"),
    ("PreferencePairs", "shortest", "min_length"),
    ("PreferencePairs", "longest", "max_length"),
    ("PreferencePairs", "stride", "frame_stride"),
    ("PreferencePairs", "trajectories", "full_trajectory_prob"),
    ("Mix", "shares", "fractions"),
    ("PPO", "clip", "clip_range"),
    ("PPO", "entropy", "ent_coef"),
    ("PPO", "value", "vf_coef"),
    ("BC", "entropy", "ent_coef"),
    ("IQL", "temperature", "beta", "beta = 1 / temperature"),
    ("IQL", "max_weight", "exp_adv_max"),
    ("AWAC", "temperature", "lam"),
    ("AWAC", "max_weight", "exp_adv_max"),
    ("CRR", "max_weight", "exp_adv_max"),
    ("BCQContinuous", "minimum", "lmbda"),
    ("BCQContinuous", "kl", "kl_weight"),
    ("ReBRACCritic", "beta", "critic_bc_coef"),
    ("ReBRACActor", "beta", "actor_bc_coef"),
    ("GAIL", "form", "reward_fn"),
    ("GAIL", "spectral", "spectral_norm"),
    ("GAIL", "entropy", "ent_coef"),
    ("GAIL", "reward_fn=expert", "reward_fn=gail"),
    ("GAIL", "reward_fn=log", "reward_fn=log_d"),
    ("GAIL", "reward_fn=difference", "reward_fn=airl"),
    ("PolicySpec", "head=squashed", "head=tanh_gaussian"),
    ("PolicySpec", "head=bounded", "head=tanh_mean_gaussian"),
    ("Atari", "life_loss", "terminal_on_life_loss"),
    ("Schedule", "steps", "over"),
    ("losses", "pwil", "algo.agent.nets.reward"),
    ("losses", "gap", "cql"),
    ("losses", "discriminator", "gail", "airl for algo=airl"),
    ("losses", "diversity", "edac"),
    ("losses", "td", "dqn", "other rows too have the names of their losses: qrdqn, td3_critic, rebrac_critic"),
    ("losses", "policy", "td3_actor", "other rows too have the names of their losses: td3_bc_actor, rebrac_actor"),
]

# Places in a user's folder in which earlier versions looked for files: (pattern, new place).
FILES: list[tuple[str, str]] = [
    ("impl/*.yaml", "by_action/<algo>/<actions>.yaml, which algo/<algo>.yaml lists"),
    ("impl/learner/*.yaml", "by_rl_algo/<algo>/<rl_algo>.yaml, which algo/<algo>.yaml lists"),
    ("tuned/*.yaml", "tuned/<env>/<algo>.yaml, and tuned/trained_<env>.yaml in tuned/<env>/expert.yaml"),
    ("tuned/dataset/*.yaml", "tuned/<env>/<dataset>.yaml, which dataset/<dataset>.yaml lists"),
    ("tuned/learner/*.yaml", "tuned/rl_algo/<env>/<algo>_<rl_algo>.yaml"),
    ("tuned/learner_from/*.yaml", "tuned/rl_algo/<env>/<algo>_<rl_algo>.yaml"),
]


def new_name(owners: Iterable[str], old: str, prefix: str = "") -> str:
    """The message "learn.boundary is called learn.reset_every" if one of the owners had the name `old`; else "".

    `prefix` comes before both names, as "learn." or "dataset=".
    """
    for owner in owners:
        for entry, before, new, *remark in RENAMED:
            if entry == owner and (match := re.fullmatch(before, old)):
                # A new name that begins at the root, and an entry of a defaults list, stand alone.
                renamed = new if new.startswith(("algo.", "/")) else f"{prefix}{match.expand(new)}"
                return "; ".join([f"{prefix}{old} is called {renamed}", *remark])
    return ""


def new_group(choice: str) -> str:
    """`new_name` of a choice such as "impl/learner@algo", of its group, or of the folder in which its group is."""
    group, _, package = choice.partition("@")
    names = (choice, f"{group}@{package.rpartition('.')[2]}", group, group.partition("/")[0])
    return next(filter(None, (new_name([""], name) for name in names)), "")


def check_renamed(owners: Iterable[str], old: str, prefix: str = "") -> None:
    """Raises UserError with the message of `new_name` if there is one."""
    if message := new_name(owners, old, prefix):
        raise UserError(message)


def check_files(folder: Path) -> None:
    """Refuses a user's folder with a file in a place of an earlier version, where nothing reads it."""
    for pattern, place in FILES:
        for path in sorted(folder.glob(pattern)):
            raise UserError(f"{path}: expected this file in another place; move it to {place}")
