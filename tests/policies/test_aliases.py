"""Names resolve to policies with the parts in their names."""

import itertools
import pickle
import re
import subprocess
import sys

import pytest
import torch as th
from torch import nn

import sb3_strl.policies
from sb3_strl import AMPPPO, APPO, PPO
from sb3_strl.common.errors import StrlTypeError, StrlValueError
from sb3_strl.policies import POLICY_ALIASES, StrlPolicy, aliases, resolve_policy_name
from sb3_strl.policies.options import fold_legacy_kwargs, resolve_parts
from tests.envs.toy import PointMass

SMALL = {"net_arch": [8]}

GRAMMAR = re.compile(
    "(Visual)?(Encoder)?(Privilege)?(Estimator)?(Amp)?(Deterministic)?(Mlp)?(Lstm|Gru)?Policy"
)
TABLE = {
    "ActorCritic": ("MlpPolicy", "", None),
    "ActorCriticRecurrent": ("MlpLstmPolicy", "", "lstm"),
    "EncoderStateAc": ("EncoderEstimatorPolicy", "encoder estimator", None),
    "EncoderStateAcRecurrent": ("EncoderEstimatorLstmPolicy", "encoder estimator", "lstm"),
    "AmpActorCritic": ("AmpPolicy", "amp", None),
    "AmpActorCriticRecurrent": ("AmpLstmPolicy", "amp", "lstm"),
    "EncoderActorCritic": ("EncoderPolicy", "encoder", None),
    "EncoderActorCriticRecurrent": ("EncoderLstmPolicy", "encoder", "lstm"),
    "EncoderAmpActorCriticRecurrent": ("EncoderAmpLstmPolicy", "encoder amp", "lstm"),
    "PrivilegeStateAcRecurrent": ("PrivilegeEstimatorLstmPolicy", "adaptor estimator", "lstm"),
    "StateAc": ("EstimatorPolicy", "estimator", None),
    "StateAcRecurrent": ("EstimatorLstmPolicy", "estimator", "lstm"),
    "VisualDeterministicRecurrent": (
        "VisualDeterministicLstmPolicy",
        "visual deterministic",
        "lstm",
    ),
    "VisualDeterministicAC": ("VisualDeterministicPolicy", "visual deterministic", None),
    "MlpGruPolicy": ("MlpGruPolicy", "", "gru"),
    "EncoderAmpPolicy": ("EncoderAmpPolicy", "encoder amp", None),
    "PrivilegeEstimatorPolicy": ("PrivilegeEstimatorPolicy", "adaptor estimator", None),
    "VisualPolicy": ("VisualPolicy", "visual", None),
    "VisualLstmPolicy": ("VisualLstmPolicy", "visual", "lstm"),
    "CnnPolicy": ("VisualPolicy", "visual", None),
    "EstimatorAmpLstmPolicy": ("EstimatorAmpLstmPolicy", "estimator amp", "lstm"),
    "EncoderEstimatorAmpLstmPolicy": (
        "EncoderEstimatorAmpLstmPolicy",
        "encoder estimator amp",
        "lstm",
    ),
}


# ---------------------------------------------------------------------- names


@pytest.mark.parametrize("name", TABLE)
def test_every_name_of_the_table(name: str) -> None:
    alias, parts, rnn = TABLE[name]
    cls = resolve_policy_name(name)
    assert cls is POLICY_ALIASES[name] is POLICY_ALIASES[alias]
    assert cls.__name__ == alias
    assert cls.alias_parts == frozenset(parts.split())
    assert cls.alias_rnn == rnn
    assert vars(sb3_strl.policies)[alias] is cls


def test_the_grammar_is_complete_and_says_what_it_means() -> None:
    words = ["Visual", "Encoder", "Privilege", "Estimator", "Amp", "Deterministic", "Mlp"]
    parts = {"Privilege": "adaptor"}
    options = [("", word) for word in words]
    count = 0
    for *chosen, rnn in itertools.product(*options, ("", "Lstm", "Gru")):
        name = "".join(chosen) + rnn + "Policy"
        if name == "Policy":
            continue
        cls = POLICY_ALIASES[name]
        assert cls.alias_parts == {parts.get(w, w.lower()) for w in chosen if w not in ("", "Mlp")}
        assert cls.alias_rnn == (rnn.lower() or None)
        assert cls.__doc__
        count += 1
    assert count == 2**7 * 3 - 1
    unknown = [n for n in POLICY_ALIASES if not GRAMMAR.fullmatch(n)]
    assert set(unknown) == {"StrlPolicy", "CnnPolicy", "CnnLstmPolicy"} | {
        name for name in TABLE if not name.endswith("Policy")
    }


def test_the_free_alias_has_no_say() -> None:
    assert StrlPolicy.alias_parts is None
    assert POLICY_ALIASES["StrlPolicy"] is StrlPolicy


def test_classes_are_found_by_import_path() -> None:
    for cls in set(POLICY_ALIASES.values()):
        assert pickle.loads(pickle.dumps(cls)) is cls
    assert vars(aliases)["VisualEncoderAmpGruPolicy"].__module__ == "sb3_strl.policies.aliases"


@pytest.mark.integration
def test_a_fresh_process_finds_a_generated_class() -> None:
    content = pickle.dumps(POLICY_ALIASES["EncoderEstimatorAmpGruPolicy"]).hex()
    script = f"import pickle; print(pickle.loads(bytes.fromhex('{content}')).__name__)"
    done = subprocess.run(
        [sys.executable, "-c", script], check=True, capture_output=True, text=True, timeout=120
    )
    assert done.stdout.strip() == "EncoderEstimatorAmpGruPolicy"


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("MlPolicy", r"PPO: unknown policy 'MlPolicy'\. Did you mean 'MlpPolicy' or "),
        ("AmpEncoderPolicy", r"Did you mean 'EncoderAmpPolicy' or "),
        ("LstmEncoderAmpPolicy", r"Did you mean 'EncoderAmpLstmPolicy' or "),
        ("StateAcRecurent", r"Did you mean 'StateAcRecurrent'"),
        ("qqq", r"unknown policy 'qqq'\. Expected a policy class, or a name of the form"),
        ("Policy", r"unknown policy 'Policy'"),
        ("MultiInputPolicy", "Use 'MlpPolicy', which takes Dict observations, too"),
        ("MultiInputLstmPolicy", "Use 'MlpLstmPolicy', which takes Dict observations, too"),
        ("FieldMutexPolicy", r"'FieldMutexPolicy' chooses among trained policies.*teacher"),
        ("ActorCriticClimbMutex", r"Build sb3_strl.policies.ClimbMutexPolicy\("),
    ],
)
def test_unknown_names(name: str, message: str) -> None:
    with pytest.raises(StrlValueError, match=message):
        resolve_policy_name(name, "PPO")


# ---------------------------------------------------------------------- parts and keywords


def test_named_parts_are_on_with_their_defaults() -> None:
    parts = resolve_parts("P", frozenset({"encoder", "visual", "amp", "deterministic"}), "gru")
    assert parts.encoder == parts.visual == parts.amp == {}
    assert parts.rnn == {"type": "gru"}
    assert parts.deterministic
    assert parts.estimator is parts.adaptor is None


def test_the_free_alias_takes_every_keyword() -> None:
    given = {key: {"k": key} for key in ("encoder", "visual", "estimator", "adaptor", "rnn")}
    parts = resolve_parts("P", None, None, amp_discriminator={}, deterministic=True, **given)
    assert parts.rnn == {"k": "rnn", "type": "lstm"}
    assert (parts.encoder, parts.visual) == ({"k": "encoder"}, {"k": "visual"})
    assert (parts.estimator, parts.adaptor) == ({"k": "estimator"}, {"k": "adaptor"})
    assert parts.amp == {}
    assert parts.deterministic
    nothing = resolve_parts("P", None, None)
    assert vars(nothing) == {**dict.fromkeys(vars(nothing)), "deterministic": False}


@pytest.mark.parametrize(
    ("keyword", "word", "part"),
    [
        ("encoder", "Encoder", "encoder"),
        ("visual", "Visual", "visual"),
        ("estimator", "Estimator", "estimator"),
        ("adaptor", "Privilege", "adaptor"),
        ("amp_discriminator", "Amp", "amp"),
        ("deterministic", "Deterministic", "deterministic"),
    ],
)
def test_a_keyword_for_a_part_that_the_name_lacks(keyword: str, word: str, part: str) -> None:
    value = True if keyword == "deterministic" else {}
    message = rf"MlpPolicy: '{keyword}' was given, but .* no {part} part.*name has '{word}'"
    with pytest.raises(StrlTypeError, match=message):
        resolve_parts("MlpPolicy", frozenset(), None, **{keyword: value})


@pytest.mark.parametrize("part", ["estimator", "adaptor"])
def test_what_cannot_be_inferred_must_be_said(part: str) -> None:
    with pytest.raises(StrlTypeError, match=rf"P: the {part} part cannot be inferred.*{part}=dict"):
        resolve_parts("P", frozenset({part}), None)


def test_memory_is_welcome_everywhere() -> None:
    assert resolve_parts("P", frozenset(), None, rnn={}).rnn == {"type": "lstm"}
    assert resolve_parts("P", frozenset(), None, rnn={"type": "gru"}).rnn == {"type": "gru"}
    given = resolve_parts("P", frozenset(), "gru", rnn={"hidden_size": 8, "type": "GRU"}).rnn
    assert given == {"hidden_size": 8, "type": "GRU"}
    with pytest.raises(StrlValueError, match=r"P: rnn=dict\(type='lstm'\) contradicts .* 'gru'"):
        resolve_parts("P", frozenset(), "gru", rnn={"type": "lstm"})


def test_keywords_that_contradict_or_are_no_mappings() -> None:
    with pytest.raises(StrlTypeError, match="deterministic=False contradicts the policy's name"):
        resolve_parts("P", frozenset({"deterministic"}), None, deterministic=False)
    with pytest.raises(StrlTypeError, match=r"P: rnn is 'gru'\. Expected a mapping"):
        resolve_parts("P", None, None, rnn="gru")
    with pytest.raises(StrlTypeError, match=r"P: encoder is \[1\]\. Expected a mapping"):
        resolve_parts("P", None, None, encoder=[1])


def test_flat_names_become_parts() -> None:
    given = {
        "net_arch": [4],
        "rnn_type": "gru",
        "lstm_hidden_size": 8,
        "n_lstm_layers": 2,
        "enable_critic_lstm": False,
        "encoder": {"kwargs": {"hidden_sizes": [3]}},
        "encoder_component_names": ["a"],
        "encoder_output_size": 5,
        "critic_encoder_component_names": "shared",
        "estimator_obs_components": ["a"],
        "estimator_target_components": ["b"],
        "adaptor_obs_components": ["c"],
        "visual_component_name": "forward_depth",
        "visual_latent_size": 16,
        "privileged_obs_segments": {"a": 1},
        "encoder_class_name": None,
    }
    before = {**given, "encoder": {**given["encoder"]}}
    assert fold_legacy_kwargs(given) == {
        "net_arch": [4],
        "rnn": {"type": "gru", "hidden_size": 8, "num_layers": 2, "critic": False},
        "encoder": {
            "kwargs": {"hidden_sizes": [3]},
            "component_names": ["a"],
            "output_size": 5,
            "critic_component_names": "shared",
        },
        "estimator": {"obs_components": ["a"], "target_components": ["b"]},
        "adaptor": {"obs_components": ["c"]},
        "visual": {"component_names": "forward_depth", "latent_size": 16},
        "critic_obs_segments": {"a": 1},
    }
    assert given == before  # the caller's mapping is not written to
    assert fold_legacy_kwargs(fold_legacy_kwargs(given)) == fold_legacy_kwargs(given)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"rnn_type": "gru", "rnn": {"type": "lstm"}}, r"rnn_type=gru and rnn\['type'\]=lstm say"),
        ({"rnn_hidden_size": 4, "lstm_hidden_size": 8}, "lstm_hidden_size=8 and rnn_hidden_size=4"),
        (
            {"privileged_obs_segments": {"a": 1}, "critic_obs_segments": {"a": 2}},
            "privileged_obs_segments=.* and critic_obs_segments=",
        ),
    ],
)
def test_flat_names_that_disagree(given: dict, message: str) -> None:
    with pytest.raises(StrlValueError, match=f"{message}.*Give one of them"):
        fold_legacy_kwargs(given)
    same = {"rnn_hidden_size": 4, "lstm_hidden_size": 4, "rnn": {"hidden_size": 4}}
    assert fold_legacy_kwargs(same) == {"rnn": {"hidden_size": 4}}


# ---------------------------------------------------------------------- policies


@pytest.mark.parametrize("alias", ["MlpPolicy", "EncoderPolicy", "AmpPolicy", "EncoderAmpPolicy"])
def test_an_alias_has_the_parts_of_its_name(alias: str) -> None:
    policy = PPO(alias, PointMass(2), policy_kwargs=SMALL).policy
    assert type(policy).__name__ == alias
    assert bool(policy.actor_reader.encoders) == ("Encoder" in alias)
    assert (policy.discriminator is not None) == ("Amp" in alias)


@pytest.mark.parametrize("name", ["MlpGruPolicy", "MlpLstmPolicy", "ActorCriticRecurrent"])
def test_a_memory_is_of_the_kind_in_the_name(name: str) -> None:
    kwargs = {**SMALL, "rnn_hidden_size": 6}
    memory = PPO(name, PointMass(2), policy_kwargs=kwargs).policy.actor_memory
    assert type(memory.rnn) is (nn.GRU if "Gru" in name else nn.LSTM)
    assert memory.rnn.hidden_size == 6


def test_the_free_alias_takes_any_part() -> None:
    policy = PPO("StrlPolicy", PointMass(2), policy_kwargs={**SMALL, "encoder": {}}).policy
    assert policy.actor_reader.encoders
    assert policy.discriminator is None


def test_a_class_may_be_given_instead_of_its_name() -> None:
    policy = PPO(POLICY_ALIASES["EncoderPolicy"], PointMass(2), policy_kwargs=SMALL).policy
    assert type(policy) is POLICY_ALIASES["EncoderPolicy"]


def test_the_card_runs_as_it_is_written() -> None:
    env = PointMass(2)
    APPO("EncoderAmpPolicy", env).learn(48)
    assert AMPPPO is APPO


def test_an_algorithm_with_a_prior_refuses_a_policy_without_discriminator() -> None:
    with pytest.raises(StrlTypeError, match=r"(?i)discriminator|amp"):
        APPO("MlpPolicy", PointMass(2), policy_kwargs=SMALL)


def test_a_typo_gets_a_suggestion() -> None:
    with pytest.raises(StrlValueError, match=r"PPO: unknown policy 'MlPolicy'\. Did you mean 'Mlp"):
        PPO("MlPolicy", PointMass(2))


def test_layers_do_not_share_an_activation_with_parameters() -> None:
    kwargs = {"net_arch": [8, 8], "activation_fn": nn.PReLU}
    policy = PPO("MlpPolicy", PointMass(2), policy_kwargs=kwargs).policy
    slopes = [m for m in policy.modules() if isinstance(m, nn.PReLU)]
    assert len({id(m.weight) for m in slopes}) == len(slopes) == 4


def test_the_discriminator_is_not_in_the_optimizer_of_the_policy() -> None:
    policy = PPO("AmpPolicy", PointMass(2), policy_kwargs=SMALL).policy
    mine = {id(p) for group in policy.optimizer.param_groups for p in group["params"]}
    assert mine == {id(p) for p in policy.ppo_parameters()}
    assert not mine & {id(p) for p in policy.discriminator.parameters()}
    assert isinstance(policy.optimizer, th.optim.Adam)
    assert policy.optimizer.defaults["eps"] == 1e-8
