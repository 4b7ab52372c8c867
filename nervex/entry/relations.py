"""What several keys of a configuration have to do with each other."""

import dataclasses
import math
from collections.abc import Mapping
from typing import Any, get_type_hints

from nervex.config.schema import fail
from nervex.config.source import ConfigSource
from nervex.utils.config_helper import flatten_dict
from nervex.utils.errors import ConfigError, RunFolderError

#: values with one home, under each of the paths that the tutorial's files use
_ONE_HOME = (
    (("policy", "learn", "algo", "nstep"), ("policy", "collect", "algo", "nstep")),
    (("policy", "learn", "algo", "discount_factor"), ("policy", "collect", "algo", "discount_factor")),
    (("policy", "learn", "algo", "gae_lambda"), ("policy", "collect", "algo", "gae_lambda")),
    (("policy", "collect", "unroll_len"), ("replay_buffer", "unroll_len")),
    (("policy", "collect", "traj_len"), ("actor", "traj_len")),
    (("env", "actor_env_num"), ("policy", "collect", "env_num")),
    (("env", "evaluator_env_num"), ("policy", "eval", "env_num")),
)


#: sections that a policy has no use for, by its data path
_UNUSED = {"replay": ("dataset",), "rollout": ("replay_buffer", "dataset"), "dataset": ("replay_buffer", "actor")}

#: keys that a resumed run may have other values of: they decide when it ends and what it shows
_FREE_KEYS = ("max_env_step", "max_train_iter", "max_wall_s", "common", "evaluator/stop", "learner/log_freq",
              "memory_limit", "torch_threads")  # fmt: skip


def refuse_other_config(before: Mapping[str, Any], now: Mapping[str, Any], run_dir: Any) -> None:
    """Checks that a run goes on with the configuration of its checkpoint, budgets and the like aside.

    Raises:
        RunFolderError: it has another one; the message names up to three keys.
    """
    old, new = flatten_dict(before), flatten_dict(now)
    changed = [
        f"{key.replace('/', '.')} is {old.get(key)!r} there, {new.get(key)!r} here"
        for key in sorted({*old, *new})
        if old.get(key) != new.get(key) and not key.startswith(_FREE_KEYS)
    ]
    if changed:
        more = f" (and {len(changed) - 3} more)" if len(changed) > 3 else ""
        raise RunFolderError(
            f"{run_dir} is a run of another configuration: {'; '.join(changed[:3])}{more}; resume with the same one "
            "(leave CONFIG out, and config.yaml as it is), or train into a new --run-dir"
        )


def share_values(source: ConfigSource, policy_config: type) -> None:
    """Copies a value given under one of its paths to the others; two different ones are an error.

    Args:
        source: its data are changed in place.
        policy_config: schema of section ``policy``, which may lack some of the paths.
    """
    for paths in _ONE_HOME:
        given = [(p, _get(source.data, p)) for p in paths]
        given = [(p, v) for p, v in given if v is not None]
        if not given or not all(_number(v) for _, v in given):
            continue  # a wrong type is reported by the schema
        (path, value), *others = given
        for other, other_value in others:
            if other_value != value and not _infinite(value) and not _infinite(other_value):
                fail(source, other, f"is {other_value}, but '{'.'.join(path)}' is {value}; they are one value, "
                     "give it once")  # fmt: skip
            value = value if _infinite(value) else other_value
        for p in paths:
            if p[0] != "policy" or _has_key(policy_config, p[1:]):
                _set(source.data, p, value)


def settle_values(main: dict[str, Any]) -> None:
    """Gives the defaults of values with one home to their other paths, too.

    Args:
        main: the complete configuration, changed in place.
    """
    for home, *others in _ONE_HOME:
        value = _get(main, home)
        for *parents, key in others if value is not None else ():
            section = _get(main, tuple(parents))
            if isinstance(section, dict) and key in section:
                section[key] = value


def _number(value: Any) -> bool:
    return _infinite(value) or (isinstance(value, int | float) and not isinstance(value, bool))


def _infinite(value: Any) -> bool:
    return value == "inf" or (isinstance(value, float) and math.isinf(value))


def _get(data: Any, path: tuple[str, ...]) -> Any:
    for key in path:
        if not isinstance(data, Mapping) or key not in data:
            return None
        data = data[key]
    return data


def _set(data: dict[str, Any], path: tuple[str, ...], value: Any) -> None:
    for key in path[:-1]:
        if data.get(key) is None:
            data[key] = {}
        if not isinstance(data[key], dict):
            return  # wrong type, reported by the schema
        data = data[key]
    data[path[-1]] = value


def check_relations(main: dict[str, Any], source: ConfigSource, env_num: int, data_path: str) -> None:
    """Checks what several keys must satisfy together, fills in ``actor.n_sample``, and takes away the sections that a
    policy has no use for.

    Args:
        main: the configuration, changed in place.
        source: where it comes from.
        env_num: envs that collect.
        data_path: of the policy.

    Raises:
        ConfigError: they contradict each other.
    """
    actor, learn = main["actor"], main["policy"]["learn"]
    if actor["n_sample"] is not None and actor["n_episode"] is not None:
        fail(source, ("actor", "n_episode"), "is given beside n_sample; give one of the two")
    if data_path == "dataset":
        _check_dataset(main, source)
    elif "epoch_per_collect" in learn:
        _check_rollout(main, source, env_num)
    else:
        _check_replay(main, source, env_num)
    _fill_lr_schedule(main)
    schedule = learn["lr_schedule"]
    if schedule["type"] == "exp" and schedule["end_factor"] == 0:
        fail(source, ("policy", "learn", "lr_schedule", "end_factor"), "is 0, which no exponential decay reaches; "
             "expected above 0, such as 0.01")  # fmt: skip
    if all(math.isinf(main[k]) for k in ("max_env_step", "max_train_iter", "max_wall_s")) and math.isinf(
        main["evaluator"]["stop_val"]
    ):
        raise ConfigError(
            f"{source.name} has no end: give a budget (max_env_step, max_train_iter or max_wall_s) or "
            "evaluator.stop_val"
        )
    for section in _UNUSED[data_path]:
        del main[section]


def check_data_path(data_path: str, source: ConfigSource) -> None:
    """Checks that a policy is given no section for data that it does not learn from.

    Raises:
        ConfigError: it is.
    """
    policy = source.data.get("policy") or {}
    name = policy.get("policy_type") or "this policy"
    if data_path != "dataset" and source.data.get("dataset") is not None:
        fail(source, ("dataset",), f"is given, but '{name}' learns from what it collects; remove the section, or take "
             "an offline policy (bc, cql, iql)")  # fmt: skip
    if data_path == "dataset":
        for section in ("replay_buffer", "actor"):
            if source.data.get(section) is not None:
                fail(source, (section,), f"is given, but '{name}' learns from section dataset and collects nothing; "
                     "remove the section")  # fmt: skip
    if data_path != "rollout":
        return
    if policy.get("on_policy") is False:
        fail(source, ("policy", "on_policy"), f"is false, but '{name}' is on-policy: it learns from each rollout once "
             "it is collected; leave the key out")  # fmt: skip
    if source.data.get("replay_buffer") is not None:
        fail(source, ("replay_buffer",), f"is given, but '{name}' is on-policy: it learns from each rollout once it is "
             "collected, and has no replay; remove the section")  # fmt: skip


def _check_dataset(main: dict[str, Any], source: ConfigSource) -> None:
    if not main["dataset"]["path"]:
        raise ConfigError(f"missing key 'dataset.path' in {source.name}; expected the folder or file of a data set")
    if not math.isinf(main["max_env_step"]):
        fail(source, ("max_env_step",), f"is {main['max_env_step']}, but a run that learns from a data set makes no "
             "env steps; give max_train_iter")  # fmt: skip


def _check_rollout(main: dict[str, Any], source: ConfigSource, env_num: int) -> None:
    """Checks the sizes of rollouts, and fills in ``actor.n_sample``: one block of every lane."""
    actor, collect, learn = main["actor"], main["policy"]["collect"], main["policy"]["learn"]
    traj_len, unroll_len = collect["traj_len"], collect["unroll_len"]
    if math.isinf(traj_len):
        if actor["n_sample"] is not None:
            fail(source, ("actor", "n_sample"), "is given with traj_len: inf, where whole episodes are collected; give "
                 "n_episode")  # fmt: skip
        actor["n_episode"] = actor["n_episode"] or env_num
        return
    rows = int(traj_len) * env_num
    if actor["n_episode"] is not None:
        fail(source, ("actor", "n_episode"), f"is given with traj_len: {traj_len}, where rollouts of that length are "
             "collected; give n_sample, or traj_len: inf")  # fmt: skip
    actor["n_sample"] = actor["n_sample"] or rows
    if actor["n_sample"] < rows:
        fail(source, ("actor", "n_sample"), f"is {actor['n_sample']}, less than a rollout of traj_len = {traj_len} "
             f"rows of each of {env_num} envs; give {rows} or more, leave the key out, or make traj_len "
             "shorter")  # fmt: skip
    if traj_len % unroll_len:
        fail(source, ("policy", "collect", "unroll_len"), f"is {unroll_len}, which does not divide traj_len = "
             f"{traj_len}; rollouts are cut into unrolls")  # fmt: skip
    if learn["batch_size"] % unroll_len:
        fail(source, ("policy", "learn", "batch_size"), f"is {learn['batch_size']} rows, which is no multiple of "
             f"policy.collect.unroll_len = {unroll_len}")  # fmt: skip


def _fill_lr_schedule(main: dict[str, Any]) -> None:
    """Fills in how many learner iterations a schedule takes, from the budgets."""
    learn, actor = main["policy"]["learn"], main["actor"]
    schedule = learn["lr_schedule"]
    if schedule["type"] == "constant" or schedule["length"] is not None:
        return
    if not math.isinf(main["max_train_iter"]):
        schedule["length"] = int(main["max_train_iter"])
    elif not math.isinf(main["max_env_step"]) and actor["n_sample"]:
        updates = learn["train_step"]
        if updates is None:
            updates = learn["epoch_per_collect"] * math.ceil(actor["n_sample"] / learn["batch_size"])
        schedule["length"] = max(int(main["max_env_step"] / actor["n_sample"] * updates), 1)


def _check_replay(main: dict[str, Any], source: ConfigSource, env_num: int) -> None:
    actor, learn = main["actor"], main["policy"]["learn"]
    if actor["n_sample"] is None and actor["n_episode"] is None:
        actor["n_sample"] = env_num
    capacity = main["replay_buffer"]["meta_maxlen"]
    if learn["batch_size"] > capacity:
        fail(source, ("policy", "learn", "batch_size"),
             f"is {learn['batch_size']}, more than replay_buffer.meta_maxlen = {capacity}; make the buffer "
             "larger")  # fmt: skip
    _check_limits(main, source, learn, capacity)


def _check_limits(main: dict[str, Any], source: ConfigSource, learn: dict[str, Any], capacity: int) -> None:
    buffer = main["replay_buffer"]
    needed = learn["batch_size"] * max(buffer["min_sample_ratio"], learn["train_step"] / buffer["max_reuse"])
    key = "min_sample_ratio" if learn["train_step"] / buffer["max_reuse"] <= buffer["min_sample_ratio"] else "max_reuse"
    if needed > capacity * 0.9:  # resets of the envs take rows too
        fail(source, ("replay_buffer", key), f"asks for {math.ceil(needed)} transitions before learning, and "
             f"meta_maxlen = {capacity} hardly holds them; make the buffer larger")  # fmt: skip
    if main["actor"]["random_collect_size"] > capacity:
        fail(source, ("actor", "random_collect_size"), f"is {main['actor']['random_collect_size']}, more than "
             f"replay_buffer.meta_maxlen = {capacity}")  # fmt: skip


def _has_key(schema: type, path: tuple[str, ...]) -> bool:
    """Whether a dataclass takes the key at ``path``: it names it, or is open where the path leaves what it names."""
    hints = get_type_hints(schema)
    names = {field.name for field in dataclasses.fields(schema)}
    if path[0] not in names:
        return bool(getattr(schema, "open_keys", False))
    section = hints[path[0]]
    if len(path) == 1 or not dataclasses.is_dataclass(section):
        return True
    return _has_key(section, path[1:])  # type: ignore[arg-type]
