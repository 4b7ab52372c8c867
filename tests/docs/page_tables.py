"""The tables of the documentation that are made from the code: which page has which, and how each is made.

A table stands between ``<!-- table: NAME -->`` and ``<!-- end of table -->``.
"""

import dataclasses
import inspect
import re
import sys
from collections.abc import Callable, Iterable
from functools import cache, partial
from pathlib import Path
from statistics import median
from typing import Any, get_type_hints

import yaml
from translations import chinese_results

from app_zoo.atari.envs.atari_env import AtariEnvConfig
from app_zoo.classic_control.acrobot.envs.acrobot_env import AcrobotEnvConfig
from app_zoo.classic_control.cartpole.envs.cartpole_env import CartPoleEnvConfig
from app_zoo.classic_control.mountaincar.envs.mountaincar_env import MountainCarEnvConfig
from app_zoo.classic_control.pendulum.envs.pendulum_env import PendulumEnvConfig
from app_zoo.memory_cue.envs.memory_cue_env import MemoryCueEnvConfig
from app_zoo.mujoco.envs.mujoco_env import MujocoEnvConfig
from nervex.config import describe
from nervex.config.checker import type_text, understood
from nervex.data.replay import ReplayConfig
from nervex.entry.catalog import shipped_configs
from nervex.entry.ledger import Record, read_ledger, recipes
from nervex.entry.ledger_table import interval, number
from nervex.entry.sections import CollectConfig, CommonConfig, DatasetConfig, EnvConfig, MainConfig
from nervex.envs.gymnasium_env import GymnasiumEnvConfig
from nervex.model.qac import SACNet
from nervex.policy.base_policy import POLICY_REGISTRY
from nervex.policy.config import PolicyConfig
from nervex.utils.statistics import iqm
from nervex.worker.actor.env_manager.env_manager import EnvManager
from nervex.worker.actor.env_manager.subprocess_env_manager import SubprocessEnvManager
from nervex.worker.actor.serial_actor import ActorConfig
from nervex.worker.actor.serial_evaluator import EvaluatorConfig
from nervex.worker.learner.base_learner import LearnerConfig

ROOT = Path(__file__).resolve().parents[2]
LEDGER = ROOT / "benchmarks" / "ledger"
TABLE = re.compile(r"(<!-- table: (\S+) -->\n)(.*?)(<!-- end of table -->)", re.DOTALL)

POLICIES = ("dqn", "rainbow_dqn", "r2d2", "a2c", "ppo", "impala", "ddpg", "td3", "sac", "bc", "cql", "iql")
APPS = ("classic_control", "memory_cue", "atari", "mujoco")
_MANAGER_OPTIONS = (
    "step_timeout_s", "reset_timeout_s", "fault_budget", "fault_window_s", "wait_num", "close_timeout_s",
)  # fmt: skip
_APP_ENVS: dict[str, dict[str, type]] = {
    "classic_control": {
        "cartpole": CartPoleEnvConfig, "acrobot": AcrobotEnvConfig, "mountaincar": MountainCarEnvConfig,
        "pendulum": PendulumEnvConfig,
    },
    "memory_cue": {"memory_cue": MemoryCueEnvConfig},
    "atari": {"atari": AtariEnvConfig},
    "mujoco": {"mujoco": MujocoEnvConfig},
}  # fmt: skip
_ACTIONS = {"discrete": "discrete", "multi_discrete": "multi-discrete", "box": "continuous"}
_LEARNS_FROM = {
    "replay": "a replay (off-policy)", "rollout": "rollouts (on-policy)", "dataset": "a data set (offline)",
}  # fmt: skip
_EVERY_GYM = (GymnasiumEnvConfig,)  # keys that are told once, in docs/configuration.md
_GENERAL_ENV_KEYS = {f.name for f in dataclasses.fields(EnvConfig)}

Maker = Callable[[str | None], str]
"""Makes a table; given the one that stands on the page, it makes no use of results that came later."""


def page_tables() -> dict[Path, dict[str, Maker]]:
    """Returns page -> name of a table -> how it is made."""
    pages: dict[Path, dict[str, Maker]] = {ROOT / "README.md": {"results": _results_table}}
    pages[ROOT / "docs" / "configuration.md"] = _configuration_tables()
    pages[ROOT / "docs" / "policies" / "README.md"] = {"policies": _made(_policy_index)}
    for name in POLICIES:
        pages[ROOT / "docs" / "policies" / f"{name}.md"] = _policy_tables(name)
    for app in APPS:
        names = [name for name, path in sorted(shipped_configs().items()) if app in path.parts]
        pages[ROOT / "app_zoo" / app / "README.md"] = {
            **{env: _made(schema, cls, "env", empty=_EVERY_GYM) for env, cls in _APP_ENVS[app].items()},
            "recipes": _made(_recipe_table, names, "../../docs/policies"),
            "measured": partial(_measured_table, names),
        }
    pages[ROOT / "README.zh.md"] = {"results": _made(lambda: markdown(chinese_results()))}
    return pages


def rendered(page: str, makers: dict[str, Maker], fresh: bool = False) -> str:
    """Returns the page with the tables of now; those of results are brought up to date only if ``fresh``."""
    return TABLE.sub(lambda match: match[1] + makers[match[2]](None if fresh else match[3]) + match[4], page)


def markdown(rows: Iterable[Iterable[str]]) -> str:
    """Returns a table of which the first row is the head."""
    lines = ["| " + " | ".join(cell.replace("|", "\\|") for cell in row) + " |" for row in rows]
    return "\n".join([lines[0], "|" + "---|" * lines[0].count(" | ") + "---|", *lines[1:]]) + "\n"


def schema(cls: type, *path: str, without: Iterable[str] = (), empty: tuple[type, ...] = ()) -> str:
    """Returns the options of a schema as a table; those named ``without``, or that ``empty`` holds too, left out."""
    others = [row for other in empty for row in describe(other, path)]
    rows: list[tuple[str, ...]] = [("key", "type", "default", "unit", "meaning")]
    for row in describe(cls, path):
        if row["path"] not in without and row not in others:
            kind = f"{row['type']}, {row['constraint']}" if row["constraint"] else row["type"]
            default = {"": "`''`", "required": "required"}.get(row["default"], f"`{row['default']}`")
            rows.append((f"`{row['path']}`", kind.replace("None", "null"), default, row["unit"], _phrase(row["doc"])))
    return markdown(rows)


def arguments(functions: Iterable[Any], names: Iterable[str] | None = None) -> str:
    """Returns keyword arguments as a table: types and defaults from the signatures, meanings from the docstrings."""
    rows = [("key", "type", "default", "meaning")]
    seen = set()
    for function in functions:
        documented = getattr(function, "func", function)
        for name, parameter in inspect.signature(function).parameters.items():
            if name in seen or (names is not None and name not in names):
                continue
            seen.add(name)
            default = parameter.default
            text = "from the env" if default is inspect.Parameter.empty else f"`{_yaml(default)}`"
            rows.append((f"`{name}`", _argument_type(documented, name), text, _argument_doc(documented, name)))
    return markdown(rows)


def _argument_type(function: Any, name: str) -> str:
    """What a keyword argument may be, in the words of the other tables; empty where its annotation says nothing."""
    target = function.__init__ if inspect.isclass(function) else function
    annotation = get_type_hints(target).get(name, Any)
    if not understood(annotation):
        return ""
    return type_text(annotation).replace("None", "null")


def recipe_of(name: str) -> dict[str, Any]:
    """Returns a shipped configuration."""
    data: dict[str, Any] = yaml.safe_load(shipped_configs()[name].read_text(encoding="utf-8"))
    return data


def _made(function: Callable[..., str], *args: Any, **kwargs: Any) -> Maker:
    return lambda shown: function(*args, **kwargs)


def _configuration_tables() -> dict[str, Maker]:
    sections = [f.name for f in dataclasses.fields(MainConfig) if f.name in ("env", "policy", "command")]
    nested = [row["path"] for row in describe(MainConfig) if "." in row["path"]]
    return {
        "top": _made(schema, MainConfig, without=[*sections, *nested]),
        "common": _made(schema, CommonConfig, "common"),
        "env": _made(schema, EnvConfig, "env"),
        "gymnasium": _made(schema, GymnasiumEnvConfig, "env"),
        "manager": _made(arguments, [EnvManager, SubprocessEnvManager], _MANAGER_OPTIONS),
        "policy": _made(schema, PolicyConfig, "policy"),
        "every_policy": _made(_every_policy),
        "replay_buffer": _made(schema, ReplayConfig, "replay_buffer"),
        "dataset": _made(schema, DatasetConfig, "dataset"),
        "collect": _made(schema, CollectConfig),
        "actor": _made(schema, ActorConfig, "actor"),
        "evaluator": _made(schema, EvaluatorConfig, "evaluator"),
        "learner": _made(schema, LearnerConfig, "learner"),
    }


def _policy_tables(name: str) -> dict[str, Maker]:
    policy: Any = POLICY_REGISTRY.get(name)
    own = policy_recipes(name)
    return {
        "facts": _made(_facts, name),
        "config": _made(schema, policy.config_class, "policy", empty=(PolicyConfig,)),
        "model": _made(_model_table, policy),
        "recipes": _made(_recipe_table, own, None),
        "measured": partial(_measured_table, own, curves=True),
    }


def _every_policy() -> str:
    """The keys that each policy has of its own, under a heading each."""
    parts = []
    for name in POLICIES:
        policy: Any = POLICY_REGISTRY.get(name)
        page = f"[Its page](policies/{name}.md) has the arguments of its network, `policy.model`."
        table = schema(policy.config_class, "policy", empty=(PolicyConfig,))
        parts.append(f"### `policy_type: {name}`\n\n{page}\n\n{table}")
    return "\n" + "\n".join(parts)


@cache
def policy_recipes(name: str) -> list[str]:
    """Returns the shipped configurations of a policy."""
    return [recipe for recipe in sorted(shipped_configs()) if recipe_of(recipe)["policy"]["policy_type"] == name]


def action_kinds(policy: Any) -> str:
    """Returns the kinds of action that a policy serves, as a page names them."""
    return ", ".join(_ACTIONS[kind] for kind in sorted(policy.action_kinds, key=list(_ACTIONS).index))


def _memory(name: str, policy: Any) -> str:
    if name == "r2d2":
        return "always recurrent"
    return "recurrent if `rnn_type` is given" if hasattr(sys.modules[policy.__module__], "is_recurrent") else "none"


def _facts(name: str) -> str:
    policy: Any = POLICY_REGISTRY.get(name)
    replay = policy.data_path == "replay"
    return markdown(
        [
            ("", ""),
            ("actions", action_kinds(policy)),
            ("learns from", _LEARNS_FROM[policy.data_path]),
            ("memory", _memory(name, policy)),
            ("priorities for the replay", "no replay" if not replay else "yes" if policy.gives_priority else "no"),
        ]
    )


def _policy_index() -> str:
    rows: list[tuple[str, ...]] = [("policy", "actions", "learns from", "memory", "recipes")]
    for name in POLICIES:
        policy: Any = POLICY_REGISTRY.get(name)
        source = {"replay": "replay", "rollout": "rollouts", "dataset": "data set"}[policy.data_path]
        own = ", ".join(f"`{recipe}`" for recipe in policy_recipes(name))
        rows.append((f"[`{name}`]({name}.md)", action_kinds(policy), source, _memory(name, policy), own))
    return markdown(rows)


def _model_table(policy: Any) -> str:
    """The arguments of the network; its encoder is chosen by the shape of the observation, whatever the class says."""
    target = policy.model_class({"model": {}})
    if not isinstance(target, type | partial):  # a function that chooses between networks of the same arguments
        target = SACNet
    fixed = dict(getattr(target, "keywords", {}))
    fixed.pop("encoder_type", None)
    return arguments([partial(getattr(target, "func", target), **fixed)])


def _recipe_table(names: Iterable[str], policy_pages: str | None) -> str:
    rows: list[tuple[str, ...]] = [("command", "env", "bar", "budget (env steps)")]
    if policy_pages:
        rows[0] = ("command", "policy", *rows[0][1:])
    for name in names:
        data = recipe_of(name)
        own = [f"{key}: {_yaml(value)}" for key, value in data["env"].items() if key not in _GENERAL_ENV_KEYS]
        env = ", ".join([data["env"]["env_type"], *own])
        policy = data["policy"]["policy_type"]
        budget = f"{data['max_env_step']:,}" if "max_env_step" in data else f"0 ({data['max_train_iter']:,} iterations)"
        row = (f"`nervex train {name}`", f"`{env}`", f"{data['evaluator'].get('stop_val', 'none')}", budget)
        rows.append((row[0], f"[{policy}]({policy_pages}/{policy}.md)", *row[1:]) if policy_pages else row)
    return markdown(rows)


def _measured_table(names: Iterable[str], shown: str | None, curves: bool = False) -> str:
    """Our records in the ledger, and their curves below. Against the table of a page, it holds the seeds that stand
    there and no later ones."""
    rows = [("recipe", "seeds", "final return, IQM", "best return, IQM", "solved", "env steps to the bar", "wall s",
             "machine", "curve")]  # fmt: skip
    before = None if shown is None else _seeds_shown(shown)
    for name in names:
        records = [r for r in read_ledger(LEDGER, name) if not r.peer] if name in recipes(LEDGER) else []
        seeds, curve = (None, True) if before is None else before.get(name, (set(), False))
        records = [r for r in records if seeds is None or r.seed in seeds]
        rows.append(_measured_row(name, records, curve and (LEDGER / name / "curve.png").exists()))
    drawn = [row[0] for row in rows[1:] if row[-1]] if curves else []
    pictures = [re.sub(r"^\[(\w+)\]\((.*)\)$", r"\n![learning curve of \1](\2curve.png)\n", name) for name in drawn]
    return markdown(rows) + "".join(pictures)


def _results_table(shown: str | None) -> str:
    """The summary of the front page: our records with those of the peers beside them, all or as many as stand there."""
    rows = [("recipe", "policy", "seeds", "bar", "final return, IQM [95 %]", "solved, at env step (median)", "wall s")]
    before = None if shown is None else _seeds_shown(shown, column=2)
    for name in recipes(LEDGER):
        records = [r for r in read_ledger(LEDGER, name) if not r.peer]
        if before is not None:
            records = [r for r in records if r.seed in before.get(name, (set(), False))[0]]
        if not records:
            continue
        policy = recipe_of(name)["policy"]["policy_type"]
        steps = [r.solved_env_step for r in records if r.solved_env_step is not None]
        bar = next((f"{r.bar:g}" for r in records if r.bar is not None), "none")
        solved = f"{len(steps)} of {len(records)}" + (f", {int(median(steps)):,}" if steps else "")
        rows.append((
            f"[{name}](benchmarks/ledger/{name}/table.md)", f"[{policy}](docs/policies/{policy}.md)",
            ", ".join(str(r.seed) for r in records), bar, interval([r.final.return_mean for r in records]),
            solved if bar != "none" else "", f"{median(r.wall_s for r in records):,.0f}",
        ))  # fmt: skip
    return markdown(rows)


def _measured_row(name: str, records: list[Record], curve: bool) -> tuple[str, ...]:
    if not records:
        return (name, "none yet", *[""] * 7)
    steps = [r.solved_env_step for r in records if r.solved_env_step is not None]
    barred = any(r.bar is not None for r in records)
    machines = {(m["cpu"], m["cores"], m["accelerator"]) for r in records for m in [r.sessions[0]["machine"]]}
    return (
        f"[{name}](../../benchmarks/ledger/{name}/)",
        ", ".join(str(r.seed) for r in records),
        number(float(iqm([r.final.return_mean for r in records]))),
        number(float(iqm([r.best.return_mean for r in records]))),
        f"{len(steps)} of {len(records)}" if barred else "no bar",
        f"{int(median(steps)):,}{' iterations' if records[0].offline else ''}" if steps else "",
        f"{median(r.wall_s for r in records):,.0f}",
        "; ".join(sorted(f"{cores} cores, {cpu}" + (f", {gpu}" if gpu else "") for cpu, cores, gpu in machines)),
        f"[curve](../../benchmarks/ledger/{name}/curve.png)" if curve else "",
    )


def _seeds_shown(table: str, column: int = 1) -> dict[str, tuple[set[int], bool]]:
    """Returns recipe -> seeds that a table of results holds, and whether it shows the curve."""
    shown = {}
    for line in [row for row in table.splitlines() if row.startswith("|")][2:]:
        cells = [cell.strip() for cell in line.strip().strip("|").split("|")]
        name = re.sub(r"\[(\w+)\].*", r"\1", cells[0])
        shown[name] = ({int(seed) for seed in re.findall(r"\d+", cells[column])}, "curve.png" in cells[-1])
    return shown


def _phrase(text: str) -> str:
    """Takes the full stop and the capital of a sentence away; a name such as CartPole-v1 keeps its capital."""
    word = text.partition(" ")[0]
    lower = text[:1].lower() + text[1:] if word[1:] == word[1:].lower() else text
    return lower.rstrip(".")


def _yaml(value: Any) -> str:
    if value is None or isinstance(value, bool):
        return "null" if value is None else str(value).lower()
    return str(list(value)) if isinstance(value, tuple) else str(value)


def _argument_doc(function: Any, name: str) -> str:
    match = re.search(rf"^ +(?:\w+, )*{name}(?:, \w+)*: (.*?)(?=\n +\w+(?:, \w+)*: |\n\n|\Z)",
                      inspect.getdoc(function) or "", re.M | re.S)  # fmt: skip
    assert match is not None, f"{function} documents no argument {name}"
    text = " ".join(match[1].split()).rstrip(".").replace("``", "`")
    return text
