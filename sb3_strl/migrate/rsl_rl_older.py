"""Configurations of rsl_rl 2 to 4 in the words of version 5."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from sb3_strl.common.errors import StrlValueError, suggest
from sb3_strl.migrate.migration import last_name
from sb3_strl.migrate.report import Report, Section

_CLASSES = {"ActorCritic": "MLPModel", "ActorCriticRecurrent": "RNNModel"}


def to_version_5(given: dict[str, Any], report: Report) -> dict[str, Any]:
    """
    Divide a section ``policy`` into actor and critic.

    :param given: a configuration of any version
    :param report: where keys are reported
    :raises StrlValueError: for a class that version 5 has no words for
    """
    policy = given.get("policy")
    if not isinstance(policy, Mapping) or "actor" in given:
        # Isaac Lab writes an empty section.
        return {key: value for key, value in given.items() if key != "policy" or policy}
    section = Section("policy", policy, report)
    name = last_name(section.take("class_name"), "ActorCritic")
    if name not in _CLASSES:
        raise StrlValueError(
            f"migrate: policy.class_name is '{name}'.{suggest(name, _CLASSES)} Expected one of "
            f"{list(_CLASSES)}. from_strl_config knows st_rl's classes."
        )
    report.add("policy.class_name", "mapped", "policy", _CLASSES[name])
    both: dict[str, Any] = {"class_name": _CLASSES[name]}
    section.move("activation", both, "activation")
    sizes = {"rnn_type": "rnn_type", "rnn_num_layers": "rnn_num_layers"}
    sizes |= {"rnn_hidden_size": "rnn_hidden_dim", "rnn_hidden_dim": "rnn_hidden_dim"}
    for key, new in sizes.items():
        if name == "ActorCriticRecurrent":
            section.move(key, both, new)
        else:
            section.drop({key: f"{name} has no memory"})
    normalize = given.get("empirical_normalization")
    actor: dict[str, Any] = {**both, "distribution_cfg": _distribution(section)}
    critic = dict(both)
    for side, model in (("actor", actor), ("critic", critic)):
        section.move(f"{side}_hidden_dims", model, "hidden_dims")
        wanted = section.take(f"{side}_obs_normalization")
        model["obs_normalization"] = bool(normalize if wanted is None else wanted)
    section.finish()
    rest = {"policy", "empirical_normalization", "obs_groups"}
    newer = {key: value for key, value in given.items() if key not in rest}
    return {**newer, "actor": actor, "critic": critic, "obs_groups": _groups(given)}


def _distribution(section: Section) -> dict[str, Any]:
    depends = bool(section.take("state_dependent_std", False))
    kind = "HeteroscedasticGaussianDistribution" if depends else "GaussianDistribution"
    found: dict[str, Any] = {"class_name": kind}
    section.move("init_noise_std", found, "init_std")
    section.move("noise_std_type", found, "std_type")
    return found


def _groups(given: Mapping[str, Any]) -> dict[str, Any]:
    """Return the groups of the sets, of which the actor's was called policy."""
    groups = dict(given.get("obs_groups") or {})
    if "policy" in groups:
        groups.setdefault("actor", groups.pop("policy"))
    return groups
