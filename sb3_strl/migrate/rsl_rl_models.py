"""The models of an rsl_rl configuration as one policy."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from stable_baselines3.common.preprocessing import get_flattened_obs_dim

from sb3_strl.common.errors import StrlValueError, suggest
from sb3_strl.common.segments import group_spaces, is_image_group
from sb3_strl.migrate.migration import Migration, Spaces, last_name
from sb3_strl.migrate.report import Section
from sb3_strl.policies.blocks import CNN

_CLASSES = ("MLPModel", "RNNModel", "CNNModel")
_DISTRIBUTIONS = ("GaussianDistribution", "HeteroscedasticGaussianDistribution")
_RNN = {"rnn_type": "lstm", "rnn_hidden_dim": 256, "rnn_num_layers": 1}
_WIDTHS = (256, 256, 256)
_NO_NOISE = {"init_std": 1e-6, "learn_std": False}
"""The smallest noise that a Gaussian has here, for a student that has none."""


@dataclass
class Model:
    """
    What a model is made of, in rsl_rl's words.

    :param kind: class
    :param hidden: widths
    :param activation: of the perceptron
    :param normalize: observations have running statistics
    :param rnn: type, width and layers of its memory
    :param cnn: options of the encoder of every image group
    :param vectors: vector groups, ``None`` if unknown
    """

    kind: str
    hidden: list[int]
    activation: str
    normalize: bool
    rnn: dict[str, Any] | None
    cnn: dict[str, dict[str, Any]] = field(default_factory=dict)
    vectors: list[str] | None = None

    @property
    def groups(self) -> list[str] | None:
        """Vector groups, then image groups: the order of rsl_rl's latent."""
        return None if self.vectors is None else [*self.vectors, *self.cnn]


@dataclass
class Models:
    """
    Both models.

    :param sets: groups by set
    :param spaces: of the environment, if known
    """

    sets: Mapping[str, list[str]]
    spaces: Spaces | None
    actor: Model | None = None
    critic: Model | None = None

    def space_of(self, group: str) -> Any:
        """Return the space of a group, ``None`` if the environment is unknown."""
        if self.spaces is None:
            return None
        known = group_spaces(self.spaces.observation_space)
        if group not in known:
            raise StrlValueError(
                f"migrate: obs_groups names '{group}'.{suggest(group, known)} Expected groups of "
                f"the environment: {list(known)}. Mend obs_groups."
            )
        return known[group]

    def write(self, migration: Migration) -> None:
        """
        Put both models into the policy's arguments.

        :raises StrlValueError: if they differ where a policy has one option for both
        """
        actor, critic = self.actor, self.critic
        if actor is None:
            return
        if critic is not None:
            self._check_agreement(actor, critic)
        kwargs = migration.policy_kwargs
        vf = actor.hidden if critic is None else critic.hidden
        kwargs["net_arch"] = {"pi": actor.hidden, "vf": vf}
        kwargs["activation"] = actor.activation
        kwargs["empirical_normalization"] = actor.normalize
        if actor.rnn is not None:
            kind = str(actor.rnn["rnn_type"]).lower()
            kwargs["rnn"] = {
                "type": kind,
                "hidden_size": actor.rnn["rnn_hidden_dim"],
                "num_layers": actor.rnn["rnn_num_layers"],
                "critic": critic is None or critic.rnn is not None,
            }
            migration.policy = f"Mlp{kind.title()}Policy"
        if actor.cnn or (critic is not None and critic.cnn):
            self._write_encoders(migration, actor, critic)
        self._write_groups(migration, actor, critic)

    def _check_agreement(self, actor: Model, critic: Model) -> None:
        pairs: dict[str, tuple[Any, Any]] = {
            "activation": (actor.activation, critic.activation),
            "obs_normalization": (actor.normalize, critic.normalize),
        }
        if critic.rnn is not None:
            pairs["memory"] = (actor.rnn, critic.rnn)
        for what, (mine, theirs) in pairs.items():
            if mine != theirs:
                raise StrlValueError(
                    f"migrate: the {what} of the actor is {mine}, that of the critic {theirs}. "
                    "Expected the same: a policy has one for both. Train it anew with one of them."
                )

    def _write_encoders(self, migration: Migration, actor: Model, critic: Model | None) -> None:
        if not actor.cnn:
            raise StrlValueError(
                "migrate: the critic is a CNNModel, the actor none. Expected an actor that "
                "encodes images: a policy's encoders are the actor's first. Build it in Python."
            )
        encoder: dict[str, Any] = {
            "component_names": list(actor.cnn),
            "class_name": "CNN",
            "kwargs": list(actor.cnn.values()),
        }
        if critic is not None and critic.cnn:
            encoder["critic_component_names"] = list(critic.cnn)
            encoder["critic_kwargs"] = list(critic.cnn.values())
        migration.policy_kwargs["encoder"] = encoder
        migration.policy = "EncoderPolicy"

    def _write_groups(self, migration: Migration, actor: Model, critic: Model | None) -> None:
        groups: dict[str, list[str]] = {}
        for key, model in (("actor", actor), ("critic", critic)):
            if model is not None and model.groups is not None:
                groups[key] = model.groups
        if "teacher" in self.sets:
            groups["teacher"] = list(self.sets["teacher"])
        if groups:
            migration.policy_kwargs["obs_groups"] = groups
            migration.report.add("obs_groups", "mapped", "policy_kwargs.obs_groups", groups)
        if any(len(names) > 1 for names in groups.values()):
            # Segments are unique within a set, and two groups often have one of the same name.
            migration.policy_kwargs["obs_segments"] = {}
            note = "rsl_rl's groups have no segments, and those of several groups may share names"
            migration.report.add("obs_groups", "differs", "policy_kwargs.obs_segments", {}, note)

    def share_encoders(self, migration: Migration) -> None:
        """
        Let the critic use the actor's encoders.

        :raises StrlValueError: if there are none
        """
        encoder = migration.policy_kwargs.get("encoder")
        images = list(self.actor.cnn) if self.actor else []
        if encoder is None or self.critic is None or list(self.critic.cnn) != images:
            raise StrlValueError(
                "migrate: algorithm.share_cnn_encoders is true. Expected an actor and a critic "
                "with the same image groups. Mend obs_groups, or leave it out."
            )
        encoder["critic_component_names"] = "shared"
        encoder.pop("critic_kwargs", None)
        path = "algorithm.share_cnn_encoders"
        migration.report.add(path, "mapped", "policy_kwargs.encoder", "shared")


def read_model(section: Section, models: Models, which: str, migration: Migration) -> Model:
    """
    Take the keys of a model.

    :param section: ``actor``, ``critic`` or ``student``
    :param models: groups and spaces
    :param which: its set of groups
    :param migration: gets the distribution of the actions
    :raises StrlValueError: for a class or value that this library does not have
    """
    report = section.report
    kind = last_name(section.take("class_name"), "MLPModel")
    if kind not in _CLASSES:
        raise StrlValueError(
            f"migrate: {section.path('class_name')} is '{kind}'.{suggest(kind, _CLASSES)} Expected "
            f"one of {list(_CLASSES)}. Build a network of your own in Python."
        )
    report.add(section.path("class_name"), "mapped", "policy", kind)
    side = "critic" if which == "critic" else "actor"
    trunk = "vf" if side == "critic" else "pi"
    model = Model(
        kind,
        [int(width) for width in section.take("hidden_dims", _WIDTHS)],
        read_activation(section),
        bool(section.take("obs_normalization", False)),
        _read_rnn(section, kind),
    )
    _read_cnn(section, models, which, model)
    if -1 in model.hidden:
        width = _latent_dim(model, models, section)
        model.hidden = [width if hidden == -1 else hidden for hidden in model.hidden]
    shown = {
        "hidden_dims": (f"net_arch.{trunk}", model.hidden),
        "activation": ("activation", model.activation),
        "obs_normalization": ("empirical_normalization", model.normalize),
    }
    for key, (ours, value) in shown.items():
        report.add(section.path(key), "mapped", f"policy_kwargs.{ours}", value)
    _read_distribution(section, side, migration)
    section.finish()
    return model


def read_activation(section: Section) -> str:
    """Take the name of an activation; what rsl_rl calls ``"crelu"`` is CELU."""
    name = str(section.take("activation", "elu"))
    return "celu" if name.lower() == "crelu" else name


def _read_rnn(section: Section, kind: str) -> dict[str, Any] | None:
    if kind != "RNNModel":
        section.drop(dict.fromkeys(_RNN, f"{kind} has no memory"))
        return None
    found = {key: section.take(key, default) for key, default in _RNN.items()}
    ours = {"rnn_type": "type", "rnn_hidden_dim": "hidden_size", "rnn_num_layers": "num_layers"}
    for key, value in found.items():
        section.report.add(section.path(key), "mapped", f"policy_kwargs.rnn.{ours[key]}", value)
    return found


def _read_cnn(section: Section, models: Models, which: str, model: Model) -> None:
    """Find out which groups are images, and the options of their encoders."""
    given = section.take("cnn_cfg")
    section.take("cnns")
    groups = models.sets.get(which)
    if model.kind != "CNNModel":
        model.vectors = None if groups is None else list(groups)
        return
    options = {str(key): value for key, value in (given or {}).items()}
    per_group = bool(options) and all(isinstance(value, Mapping) for value in options.values())
    if models.spaces is not None and groups is not None:
        images = [name for name in groups if is_image_group(models.space_of(name))]
    elif per_group and groups is not None:
        images = [name for name in groups if name in options]
    else:
        raise StrlValueError(
            f"migrate: which groups of the {section.name} are images is not known. Expected the "
            "environment. Pass env=, or Spaces(observation_space, action_space)."
        )
    if per_group and set(options) != set(images):
        raise StrlValueError(
            f"migrate: {section.path('cnn_cfg')} has {sorted(options)}, but the images are "
            f"{sorted(images)}. Expected options for every image. Mend cnn_cfg or obs_groups."
        )
    model.cnn = {name: _cnn_options(options[name] if per_group else options) for name in images}
    model.vectors = [name for name in groups if name not in images]
    note = "the encoder 'CNN' of this library"
    section.report.add(section.path("cnn_cfg"), "mapped", "policy_kwargs.encoder", images, note)


def _cnn_options(given: Mapping[str, Any]) -> dict[str, Any]:
    options = {key: list(v) if isinstance(v, tuple) else v for key, v in given.items()}
    if str(options.get("activation", "")).lower() == "crelu":
        options["activation"] = "celu"
    return options


def _latent_dim(model: Model, models: Models, section: Section) -> int:
    """Return the width of what the perceptron reads, which -1 stands for."""
    if model.rnn is not None:
        return int(model.rnn["rnn_hidden_dim"])
    if models.spaces is None or model.vectors is None:
        raise StrlValueError(
            f"migrate: {section.path('hidden_dims')} has -1, the width of the input, which is not "
            "known. Expected the environment. Pass env=, or write the width."
        )
    width = sum(get_flattened_obs_dim(models.space_of(group)) for group in model.vectors)
    for group, options in model.cnn.items():
        channels, *size = models.space_of(group).shape
        latent = CNN(size, channels, **options).output_dim
        width += latent if isinstance(latent, int) else 0
    return int(width)


def _read_distribution(section: Section, side: str, migration: Migration) -> None:
    given = section.take("distribution_cfg")
    path = section.path("distribution_cfg")
    if side == "critic":
        if given:
            raise StrlValueError(
                f"migrate: {path} is {given}. Expected none: the critic's value is one number. "
                "Remove it."
            )
        return
    kwargs = migration.policy_kwargs
    if not given and section.name == "student":
        kwargs["distribution_class"] = _DISTRIBUTIONS[0]
        kwargs["distribution_kwargs"] = dict(_NO_NOISE)
        note = "not given: it acts without noise, here with a standard deviation of 1e-6"
        migration.report.add(path, "differs", "policy_kwargs.distribution_kwargs", _NO_NOISE, note)
        return
    if not given:
        raise StrlValueError(
            f"migrate: there is no {path}, so the actions would have no noise and PPO nothing to "
            "learn from. Expected e.g. {class_name: GaussianDistribution}, in rsl_rl 4 "
            "stochastic: true. Write it."
        )
    options = dict(given)
    name = last_name(options.pop("class_name", None), "GaussianDistribution")
    if name not in _DISTRIBUTIONS:
        raise StrlValueError(
            f"migrate: {path}.class_name is '{name}'.{suggest(name, _DISTRIBUTIONS)} Expected one "
            f"of {list(_DISTRIBUTIONS)}; this library has no other for Box actions. Train it anew "
            "with one of them."
        )
    kwargs["distribution_class"] = name
    kwargs["distribution_kwargs"] = {
        key: list(value) if isinstance(value, tuple) else value for key, value in options.items()
    }
    migration.report.add(path, "mapped", "policy_kwargs.distribution_class", name)
