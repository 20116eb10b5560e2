"""Their names and ours; data only. The guide's tables are checked against these."""

from __future__ import annotations

from typing import Any

from sb3_strl.algorithms import (
    APPO,
    ATPPO,
    PPO,
    TPPO,
    EstimatorAPPO,
    EstimatorATPPO,
    EstimatorPPO,
    EstimatorTPPO,
)

ALGORITHMS: dict[str, type[PPO]] = {
    "PPO": PPO,
    "APPO": APPO,
    "TPPO": TPPO,
    "ATPPO": ATPPO,
    "EstimatorPPO": EstimatorPPO,
    "EstimatorTPPO": EstimatorTPPO,
    "EstimatorAPPO": EstimatorAPPO,
    "EstimatorATPPO": EstimatorATPPO,
}
"""st_rl's algorithms; a name is looked up whole, never by a letter in it."""

CONFIG_NAMES: dict[str, str] = {
    "PPO": "ppo",
    "APPO": "appo",
    "TPPO": "tppo",
    "ATPPO": "atppo",
    "EstimatorPPO": "estimator_ppo",
    "EstimatorTPPO": "estimator_tppo",
    "EstimatorAPPO": "estimator_appo",
    "EstimatorATPPO": "estimator_atppo",
}
"""What ``strl train`` and ``strl zoo`` call them."""

PPO_KEYS: dict[str, str] = {
    "num_learning_epochs": "n_epochs",
    "num_mini_batches": "n_minibatches",
    "clip_param": "clip_range",
    "gamma": "gamma",
    "lam": "gae_lambda",
    "value_loss_coef": "vf_coef",
    "entropy_coef": "ent_coef",
    "learning_rate": "learning_rate",
    "max_grad_norm": "max_grad_norm",
    "use_clipped_value_loss": "use_clipped_value_loss",
    "schedule": "schedule",
    "desired_kl": "desired_kl",
}
"""Keys of PPO that st_rl and rsl_rl share."""

STRL_PPO_KEYS: dict[str, str] = {
    **PPO_KEYS,
    "clip_min_std": "clip_min_std",
    "lr_scheduler_class_name": "lr_scheduler_class",
    "lr_scheduler": "lr_scheduler_kwargs",
}

STRL_DEFAULTS: dict[str, Any] = {"n_epochs": 1, "n_minibatches": 1, "gamma": 0.998}
"""st_rl's defaults that are not ours, by our name."""

RSL_RL_DEFAULTS: dict[str, Any] = {"ent_coef": 0.01, "schedule": "adaptive"}

AMP_KEYS: tuple[str, ...] = (
    "discriminator_loss_coef",
    "mimic_loss_coef",
    "mimic_reward_coef",
    "discriminator_optimizer",
    "discriminator_learning_rate",
    "discriminator_weight_decay",
    "discriminator_max_grad_norm",
    "amp_replay_size",
)
"""Keys of adversarial algorithms that keep their name."""

TEACHER_KEYS: tuple[str, ...] = (
    "label_action_with_critic_obs",
    "teacher_act_prob",
    "update_times_scale",
    "using_ppo",
    "distillation_loss_coef",
    "distill_target",
    "distill_latent_coef",
    "distill_latent_target",
    "distill_latent_obs_component_mapping",
    "buffer_dilation_ratio",
    "hidden_state_resample_prob",
    "action_labels_from_sample",
    "pretrain_iterations",
)
"""Keys of algorithms with a teacher that keep their name."""

ESTIMATOR_KEYS: tuple[str, ...] = (
    "estimator_loss_func",
    "estimator_loss_kwargs",
    "estimator_loss_coef",
    "adaptor_loss_coef",
)
"""Keys of algorithms with estimators that keep their name."""

STRL_POLICY_KEYS: tuple[str, ...] = (
    "mu_activation",
    "init_noise_std",
    "noise_std_type",
    "obs_segments",
    "critic_obs_segments",
    "privileged_obs_segments",
    "empirical_normalization",
)
"""Keys of every policy that keep their name, or whose older name policies understand."""

INFERRED: dict[str, str] = dict.fromkeys(
    ("num_actor_obs", "num_critic_obs", "num_actions", "num_obs"),
    "read from the environment's spaces",
)
"""Keys that say what the environment says."""

RUNNER_DROPPED: dict[str, str] = {
    "runner_class_name": "there is one training loop",
    "experiment_name": "folders are named on the command line: strl train --out",
    "run_name": "folders are named on the command line: strl train --out",
    "logger": "Stable-Baselines3's logger: model.set_logger(...), tensorboard_log=",
    "neptune_project": "see logger",
    "wandb_project": "see logger",
    "wandb_tags": "see logger",
    "upload_model": "see logger",
    "git_status_repos": "pass GitStateCallback() to learn",
    "resume": "say it when you train: Algorithm.load(path, env), strl train --resume",
    "resume_path": "say it when you train: Algorithm.load(path, env), strl train --resume",
    "load_run": "name the file itself: strl migrate --checkpoint",
    "load_checkpoint": "name the file itself: strl migrate --checkpoint",
    "load_optimizer": "optimizers start anew, see the report of the checkpoint",
    "checkpoint": "name the file itself: strl migrate --checkpoint",
    "storage": "shapes are read from the environment's spaces",
    "multi_gpu": "one device is used",
    "torch_compile_mode": "networks run as they are",
    "check_for_nan": "observations, rewards and losses are always checked",
}
"""Keys of runners without effect here, and why."""
