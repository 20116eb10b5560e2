"""Configurations of rsl_rl 2 to 4 in the words of version 5."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from sb3_strl.common.errors import StrlValueError, suggest
from sb3_strl.migrate.migration import last_name
from sb3_strl.migrate.report import Report, Section

_CLASSES = {"ActorCritic": "MLPModel", "ActorCriticRecurrent": "RNNModel"}
_MODELS = ("actor", "critic", "student")
_NORMALIZATION = "empirical_normalization"
_NOISE = ("init_noise_std", "noise_std_type", "state_dependent_std")


def to_version_5(given: dict[str, Any], report: Report) -> dict[str, Any]:
    """
    Divide a section ``policy`` into actor and critic; translate the models of version 4.

    :param given: a configuration of any version
    :param report: where keys are reported
    :raises StrlValueError: for a class that version 5 has no words for
    """
    policy = given.get("policy")
    if not isinstance(policy, Mapping) or any(name in given for name in _MODELS):
        # Isaac Lab writes an empty section.
        kept = {key: value for key, value in given.items() if key != "policy" or policy}
        top = Section("", kept, report)
        models = {name: _read_model(top.section(name)) for name in _MODELS if name in top}
    else:
        top = Section("", given, report)
        models = _divide(top.section("policy"))
        top.given["obs_groups"] = _groups(given)
    _normalize(top, models)
    return {**top.given, **models}


def _read_model(section: Section) -> dict[str, Any]:
    """Return a model whose noise has a section, for which version 4 has keys of the model."""
    section.drop_unset("stochastic", *_NOISE)
    is_said = bool(section.given.get("distribution_cfg"))
    if not is_said and section.given.get("stochastic"):
        shown = "policy_kwargs.distribution_class"
        section.report.add(section.path("stochastic"), "mapped", shown, section.take("stochastic"))
        section.given["distribution_cfg"] = _distribution(section)
    note = "said by distribution_cfg" if is_said else "the model is not stochastic"
    section.drop(dict.fromkeys(("stochastic", *_NOISE), note))
    return section.given


def _divide(section: Section) -> dict[str, Any]:
    """Return actor and critic of a section ``policy``."""
    report = section.report
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
    section.drop_unset(*_NOISE)
    actor: dict[str, Any] = {**both, "distribution_cfg": _distribution(section)}
    models = {"actor": actor, "critic": dict(both)}
    for side, model in models.items():
        section.move(f"{side}_hidden_dims", model, "hidden_dims")
        model["obs_normalization"] = section.take(f"{side}_obs_normalization")
    section.finish()
    return models


def _distribution(section: Section) -> dict[str, Any]:
    kind, key = "GaussianDistribution", "state_dependent_std"
    if key in section:
        kind = "HeteroscedasticGaussianDistribution" if section.take(key) else kind
        shown = "policy_kwargs.distribution_class"
        section.report.add(section.path(key), "mapped", shown, kind)
    found: dict[str, Any] = {"class_name": kind}
    section.move("init_noise_std", found, "init_std")
    section.move("noise_std_type", found, "std_type")
    return found


def _normalize(top: Section, models: Mapping[str, dict[str, Any]]) -> None:
    """Give the normalisation of the run to the models whose own nobody set."""
    unset = [model for model in models.values() if model.get("obs_normalization") in (None, {})]
    top.drop_unset(_NORMALIZATION)
    if not unset:
        top.drop({_NORMALIZATION: "obs_normalization of actor and critic goes before it"})
    elif _NORMALIZATION in top:
        wanted = bool(top.take(_NORMALIZATION))
        for model in unset:
            model["obs_normalization"] = wanted
        note = "" if len(unset) == len(models) else "where obs_normalization is not set"
        ours = f"policy_kwargs.{_NORMALIZATION}"
        top.report.add(_NORMALIZATION, "mapped", ours, wanted, note)


def _groups(given: Mapping[str, Any]) -> dict[str, Any]:
    """Return the groups of the sets, of which the actor's was called policy."""
    groups = dict(given.get("obs_groups") or {})
    if "policy" in groups:
        groups.setdefault("actor", groups.pop("policy"))
    return groups
