"""The policy section of an st_rl configuration."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields
from typing import Any

from sb3_strl.algorithms import APPO
from sb3_strl.common.errors import StrlValueError
from sb3_strl.migrate.migration import Migration, last_name
from sb3_strl.migrate.report import Section
from sb3_strl.migrate.tables import INFERRED, STRL_POLICY_KEYS
from sb3_strl.policies import StrlPolicy
from sb3_strl.policies.aliases import resolve_policy_name
from sb3_strl.policies.discriminator import DiscriminatorSpec
from sb3_strl.policies.options import FLAT_NAMES, fold_legacy_kwargs

_TRUNKS = {"actor_hidden_dims": "pi", "critic_hidden_dims": "vf"}


def read_policy(section: Section, migration: Migration, has_critic: bool) -> None:
    """
    Take the keys of a policy.

    :param section: ``policy``
    :param migration: filled
    :param has_critic: the environment has a group for the critic
    :raises StrlValueError: if nobody knows the class, or two keys contradict each other
    """
    given = section.take("class_name")
    cls = _policy_class(last_name(given, "ActorCritic"), section)
    report, kwargs = section.report, migration.policy_kwargs
    migration.policy = cls.__name__
    report.add(section.path("class_name"), "mapped", "policy", migration.policy, str(given or ""))
    arch: dict[str, Any] = {}
    for key, ours in _TRUNKS.items():
        section.move(key, arch, ours, shown=f"policy_kwargs.net_arch.{ours}")
    if arch:
        kwargs["net_arch"] = {key: list(widths) for key, widths in arch.items()}
    _read_activation(section, kwargs)
    section.drop_unset("empirical_normalization")
    for key in STRL_POLICY_KEYS:
        section.move(key, kwargs, key, shown=f"policy_kwargs.{key}")
    if "init_noise_std" in kwargs and "noise_std_type" not in kwargs:
        note = "the logarithm of the noise is learnt, so that it cannot cross zero"
        report.add(section.path("init_noise_std"), "differs", "noise_std_type", "log", note)
    section.drop(INFERRED)
    _read_parts(section, kwargs, cls)
    _read_discriminator(section, migration, cls)
    _name_groups(section, migration, has_critic)
    _note_encoders(migration)


def _policy_class(name: str, section: Section) -> type[StrlPolicy]:
    cls = resolve_policy_name(name, f"migrate: {section.path('class_name')}")
    rnn = section.given.get("rnn_type")
    recurrent = issubclass(cls, StrlPolicy) and cls.alias_rnn is not None
    if recurrent and isinstance(rnn, str) and rnn.lower() in ("lstm", "gru"):
        word = {"lstm": "Lstm", "gru": "Gru"}
        old = word["gru" if rnn.lower() == "lstm" else "lstm"]
        cls = resolve_policy_name(cls.__name__.replace(old, word[rnn.lower()]), "migrate")
    if not issubclass(cls, StrlPolicy):
        raise StrlValueError(
            f"migrate: '{name}' is no policy that trains. Expected one. Name a class of st_rl."
        )
    return cls


def _read_activation(section: Section, kwargs: dict[str, Any]) -> None:
    name = section.take("activation")
    if name is None:
        return
    meant = "relu" if str(name).lower() == "crelu" else name
    kwargs["activation"] = meant
    note = "'crelu' means ReLU in st_rl" if meant != name else ""
    section.report.add(
        section.path("activation"), "mapped", "policy_kwargs.activation", meant, note
    )


def _name_groups(section: Section, migration: Migration, has_critic: bool) -> None:
    """Say which group segments divide: st_rl has a list for the actor and one for the critic."""
    kwargs = fold_legacy_kwargs(migration.policy_kwargs)
    migration.kwargs["policy_kwargs"] = kwargs
    actor, critic = kwargs.pop("obs_segments", None), kwargs.pop("critic_obs_segments", None)
    named: dict[str, Any] = {}
    for group, segments in (("policy", actor), ("critic", critic)):
        if segments and all(isinstance(inner, Mapping) for inner in segments.values()):
            named |= {str(key): dict(inner) for key, inner in segments.items()}
        elif segments:
            named[group] = dict(segments)
    if "critic" in named and not has_critic:
        if named["critic"] != named.get("policy"):
            raise StrlValueError(
                f"migrate: {section.path('critic_obs_segments')} are {list(named['critic'])}, but "
                "the environment has no group 'critic'. Expected one. Give the environment its "
                "privileged observations."
            )
        del named["critic"]
    if named:
        kwargs["obs_segments"] = named


def _read_parts(section: Section, kwargs: dict[str, Any], cls: type[StrlPolicy]) -> None:
    """Take the flat keys of parts; st_rl's classes ignored those of parts that they had not."""
    parts = set(cls.alias_parts or ()) | ({"rnn"} if cls.alias_rnn else set())
    flat: dict[str, Any] = {}
    for key, (part, option) in FLAT_NAMES.items():
        if part not in parts:
            section.drop({key: f"{cls.__name__} has no {part} part, so st_rl ignored it"})
        elif key in section:
            section.move(key, flat, key, shown=f"policy_kwargs.{part}.{option}")
        section.seen.add(key)
    kwargs.update(fold_legacy_kwargs(flat))


def _read_discriminator(section: Section, migration: Migration, cls: type[StrlPolicy]) -> None:
    report = section.report
    has_part = "amp" in (cls.alias_parts or ())
    if not has_part:
        section.drop({"amp_discriminator": f"{cls.__name__} has no discriminator"})
        if issubclass(migration.algorithm, APPO):
            raise StrlValueError(
                f"migrate: {migration.algorithm.__name__} needs a discriminator, but "
                f"{section.path('class_name')} stands for {cls.__name__}, which has none. "
                "Expected a class with Amp in its name, e.g. AmpActorCritic. Name that one."
            )
        return
    inner = section.section("amp_discriminator")
    found: dict[str, Any] = {}
    width = inner.take("amp_obs_dim", inner.take("input_dim"))
    if isinstance(width, int):
        migration.kwargs.setdefault("amp_obs_dim", width)
        report.add(inner.path("amp_obs_dim"), "mapped", "amp_obs_dim", width)
    elif width is not None:
        note = "an unset field; the width is read from ref_obs"
        report.add(inner.path("amp_obs_dim"), "dropped", "", width, note)
    for item in fields(DiscriminatorSpec):
        inner.move(
            item.name, found, item.name, shown=f"policy_kwargs.amp_discriminator.{item.name}"
        )
    inner.finish()
    migration.policy_kwargs["amp_discriminator"] = {
        key: list(value) if isinstance(value, tuple) else value for key, value in found.items()
    }
    if found.get("task_reward_lerp", 0.0) == 0.0:
        note = "the share of the task's reward in the mixture; 0 discards it"
        report.add(inner.path("task_reward_lerp"), "differs", "", 0.0, note)


def _note_encoders(migration: Migration) -> None:
    """Remember the order of encoders, which checkpoints number."""
    encoder = migration.policy_kwargs.get("encoder")
    if not isinstance(encoder, Mapping):
        return
    for side, key in {"actor": "component_names", "critic": "critic_component_names"}.items():
        names = encoder.get(key)
        if names is not None and names != "shared":
            migration.encoders[side] = [names] if isinstance(names, str) else list(names)
