"""The command line: ``nervex train | eval | collect | check | verify-resume | inspect | replay | profile | plot |
bench | list``.

Modules that need torch are imported by the commands that use them, so that ``--help`` is quick.
"""

import argparse
import logging
import os
import sys
from collections.abc import Sequence
from typing import Any, NoReturn

from nervex import __version__
from nervex.utils.errors import ConfigError, NerveXError, RunFolderError

BAD_INPUT = 2  # exit code of a wrong configuration or command line
FAILED = 1  # exit code of a run that failed
INTERRUPTED = 130  # exit code of a run that Ctrl-C ended
_RUNNING = ("train", "collect", "bench", "verify-resume", "replay")  # commands in which a run may fail


def main(argv: Sequence[str] | None = None) -> int:
    """Runs a command and returns its exit code."""
    args, unknown = _parser().parse_known_args(argv)
    if hasattr(args, "overrides"):  # key=value may also follow an option
        args.overrides += [word for word in unknown if "=" in word and not word.startswith("-")]
        unknown = [word for word in unknown if word not in args.overrides]
    if unknown:
        print(
            f"error: nervex {args.command} has no option '{unknown[0]}'; settings are given as key=value, such as "
            f"policy.learn.batch_size=32 (options: nervex {args.command} --help)",
            file=sys.stderr,
        )
        return BAD_INPUT
    logging.basicConfig(level=logging.INFO, format="nervex: %(message)s", stream=sys.stderr)
    try:
        code: int = args.run(args)
        return code
    except NerveXError as e:
        if args.debug:
            raise
        print(f"error: {e}", file=sys.stderr)
        bad_input = isinstance(e, ConfigError | RunFolderError) or args.command not in _RUNNING
        return BAD_INPUT if bad_input else FAILED
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return INTERRUPTED
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return FAILED


class _Parser(argparse.ArgumentParser):
    """Reports a wrong option in one line."""

    def error(self, message: str) -> NoReturn:
        print(f"error: {message} (see {self.prog} --help)", file=sys.stderr)
        sys.exit(BAD_INPUT)


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(prog="nervex", description="Deep reinforcement learning from a YAML file.")
    parser.add_argument("--version", action="version", version=f"nervex {__version__}")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    common = _Parser(add_help=False)
    common.add_argument("--debug", action="store_true", help="show the traceback of an error")

    train = commands.add_parser("train", parents=[common], help="train a policy", description="Trains a policy.")
    train.add_argument("config", nargs="?", metavar="CONFIG", help="YAML file or shipped name, such as cartpole_dqn")
    train.add_argument("overrides", nargs="*", metavar="key=value", help="such as policy.learn.batch_size=32")
    train.add_argument("--seed", type=int, help="seed of everything random (default: the config's, 0)")
    train.add_argument("--run-dir", metavar="DIR", help="folder of the run (default: a new one under runs/)")
    begin = train.add_mutually_exclusive_group()
    begin.add_argument("--resume", action="store_true", help="go on where the run in --run-dir stopped")
    begin.add_argument("--load", metavar="WEIGHTS", help="begin with the weights of a run or a .safetensors file")
    train.set_defaults(run=_train)

    evaluate = commands.add_parser("eval", parents=[common], help="evaluate a trained policy")
    evaluate.add_argument("run_dir", metavar="RUN_DIR", help="folder of a run")
    evaluate.add_argument("--episodes", type=int, default=20, metavar="N", help="episodes (default: 20)")
    evaluate.add_argument("--seed", type=int, help="seed of the episodes")
    evaluate.add_argument("--video", metavar="FILE.mp4", help="film one more episode")
    evaluate.set_defaults(run=_eval)

    _add_collect(commands, common)

    check = commands.add_parser("check", parents=[common], help="try a configuration without training")
    check.add_argument("config", metavar="CONFIG", help="YAML file or shipped name")
    check.add_argument("overrides", nargs="*", metavar="key=value")
    check.set_defaults(run=_check)

    text = "Trains a short stretch and prints where its time goes, and how far it is from its limit."
    profile = commands.add_parser(
        "profile", parents=[common], help="show where the time of a run goes", description=text
    )
    profile.add_argument("config", metavar="CONFIG", help="YAML file or shipped name")
    profile.add_argument("overrides", nargs="*", metavar="key=value")
    profile.add_argument(
        "--steps", type=int, metavar="N", help="env steps to measure (default: about 10 s of training)"
    )
    profile.add_argument("--json", action="store_true", help="print one line of JSON in place of the table")
    profile.set_defaults(run=_profile)

    plot = commands.add_parser("plot", parents=[common], help="draw the curves of runs")
    plot.add_argument("run_dirs", nargs="+", metavar="RUN", help="folders of runs")
    plot.add_argument("--out", default="plot.png", metavar="FILE.png", help="picture to write (default: plot.png)")
    plot.set_defaults(run=_plot)

    _add_trust(commands, common)
    _add_bench(commands, common)

    names = commands.add_parser("list", parents=[common], help="list what there is")
    names.add_argument("what", choices=["policies", "envs", "configs", "plugins"])
    names.set_defaults(run=_list)
    return parser


def _add_collect(commands: Any, common: argparse.ArgumentParser) -> None:
    text = "Plays episodes with the weights of a run's best evaluation and writes them as a data set."
    collect = commands.add_parser("collect", parents=[common], help="make a data set with a policy", description=text)
    collect.add_argument("run_dir", metavar="RUN_DIR", help="folder of a run")
    collect.add_argument("--out", required=True, metavar="FILE", help="folder, or file .hdf5, of the new data set")
    collect.add_argument("--episodes", type=int, default=100, metavar="N", help="episodes (default: 100)")
    collect.add_argument("--seed", type=int, help="seed of the episodes")
    collect.add_argument(
        "--format", choices=["nervex", "minari"], help="of the files (default: minari for .hdf5 and .h5, else nervex)"
    )
    way = collect.add_mutually_exclusive_group()
    way.add_argument("--stochastic", action="store_true", help="draw actions from the policy (default: the likeliest)")
    way.add_argument("--eps", type=float, metavar="E", help="exploration rate of eps-greedy policies")
    way.add_argument("--random", action="store_true", help="draw actions uniformly, in the envs of the run")
    collect.set_defaults(run=_collect)


def _add_trust(commands: Any, common: argparse.ArgumentParser) -> None:
    text = "Kills a short run at random instants, resumes it, and compares what it leaves with an undisturbed run."
    verify = commands.add_parser(
        "verify-resume", parents=[common], help="prove that killed runs resume exactly", description=text
    )
    verify.add_argument("config", metavar="CONFIG", help="YAML file or shipped name")
    verify.add_argument("overrides", nargs="*", metavar="key=value")
    verify.add_argument("--kills", type=int, default=5, metavar="N", help="SIGKILLs (default: 5)")
    verify.add_argument("--seed", type=int, default=0, metavar="N", help="of the runs and of the instants (default: 0)")
    verify.add_argument("--steps", type=int, metavar="N", help="env steps of the run (default: about 300 updates)")
    verify.add_argument("--run-dir", metavar="DIR", help="keep both runs there (default: nothing is kept)")
    verify.set_defaults(run=_verify_resume)

    text = "Prints what is inside without loading it; nothing in it is executed."
    inspect = commands.add_parser(
        "inspect", parents=[common], help="show what a checkpoint or a run holds", description=text
    )
    inspect.add_argument("path", metavar="PATH", help="run folder, checkpoint, bad batch or .safetensors file")
    inspect.set_defaults(run=_inspect)

    text = "Makes a run once more from the checkpoint before an update up to it, and shows that update."
    replay = commands.add_parser("replay", parents=[common], help="rebuild one update of a run", description=text)
    replay.add_argument("run_dir", metavar="RUN", help="folder of a run")
    replay.add_argument("--iter", type=int, metavar="N", help="update to rebuild (default: the first that went wrong)")
    replay.add_argument(
        "--out", metavar="DIR", help="write batch, weights before and after, losses and gradients there"
    )
    replay.set_defaults(run=_replay)


def _add_bench(commands: Any, common: argparse.ArgumentParser) -> None:
    bench = commands.add_parser("bench", help="run a recipe over seeds, and keep the results")
    actions = bench.add_subparsers(dest="action", required=True, metavar="ACTION")
    ledger = _Parser(add_help=False)
    ledger.add_argument(
        "--ledger", default="benchmarks/ledger", metavar="DIR", help="folder of the records (default: %(default)s)"
    )

    text = "Runs the seeds that the ledger lacks to the end of their budget; an interrupted one goes on."
    learn = actions.add_parser("learn", parents=[common, ledger], help="run a recipe over seeds", description=text)
    learn.add_argument("config", metavar="CONFIG", help="YAML file or shipped name")
    learn.add_argument("overrides", nargs="*", metavar="key=value")
    learn.add_argument("--seeds", type=int, default=5, metavar="N", help="number of seeds (default: 5)")
    learn.add_argument("--first-seed", type=int, default=0, metavar="N", help="the first of them (default: 0)")
    learn.add_argument("--work", metavar="DIR", help="folder of the runs (default: runs/bench/NAME)")
    learn.add_argument(
        "--final-episodes", type=int, default=100, metavar="N", help="of the final evaluation (default: 100)"
    )
    learn.add_argument("--plot", action="store_true", help="draw the curves, too")
    learn.set_defaults(run=_bench_learn)

    text = "Writes tables and pictures of all recipes from the ledger."
    table = actions.add_parser("table", parents=[common, ledger], help="write tables", description=text)
    table.add_argument(
        "--readme", default="benchmarks/README.md", metavar="FILE", help="page with the tables (default: %(default)s)"
    )
    table.set_defaults(run=_bench_table)


def _train(args: argparse.Namespace) -> int:
    from nervex.config.source import apply_overrides, read_source
    from nervex.entry.catalog import find_config
    from nervex.entry.serial_entry import serial_pipeline
    from nervex.worker.monitor.run_folder import RunFolder

    overrides = list(args.overrides)
    if args.config is not None and "=" in args.config and args.resume:
        overrides.insert(0, args.config)
        args.config = None
    if args.config is None:
        if args.resume and args.run_dir:
            RunFolder.open(args.run_dir)
        if not (args.resume and args.run_dir):
            raise ConfigError("train needs a CONFIG (a YAML file, or a name of: nervex list configs)")
        path = f"{args.run_dir}/config.yaml"
    else:
        path = str(find_config(args.config))
    if args.resume and not args.run_dir:
        raise ConfigError("--resume needs --run-dir DIR, the folder of the run that goes on")
    if args.seed is not None:
        overrides.append(f"seed={args.seed}")
    source = apply_overrides(read_source(path), overrides)
    outcome = serial_pipeline(source, run_dir=args.run_dir, resume=args.resume, load=args.load)
    _print_result(outcome.result)
    return INTERRUPTED if outcome.result["stop_reason"] == "interrupted" else 0


def _print_result(result: dict[str, Any]) -> None:
    last, best = result["last_eval_return"], result["best_eval_return"]
    shown = "no evaluation" if last is None else (
        f"return {last:.5g} over {result['last_eval_episode']} episodes (best {best:.5g})"
    )  # fmt: skip
    verdict = "solved" if result["solved"] else f"ended ({result['stop_reason']})"
    print(f"{verdict}: {shown} after {result['env_step']:,} env steps, {result['train_iter']:,} iterations, "
          f"{result['wall_s']:.1f} s")  # fmt: skip
    print(f"run folder: {result['run_dir']}")


def _eval(args: argparse.Namespace) -> int:
    from nervex.entry.eval_entry import evaluate_run

    outcome = evaluate_run(args.run_dir, args.episodes, args.seed, args.video)
    result = outcome.result
    returns, length = result.episode_return, result.episode_length.mean()
    print(f"return {result.mean:.2f} ± {result.std:.2f} over {len(returns)} episodes "
          f"(min {returns.min():.2f}, max {returns.max():.2f}, length {length:.1f})")  # fmt: skip
    if outcome.video is not None:
        print(f"video: {outcome.video} ({outcome.frame_num} frames)")
    return 0


def _collect(args: argparse.Namespace) -> int:
    from nervex.entry.collect_entry import collect_run, returns_text

    act = "random" if args.random else "stochastic" if args.stochastic else "greedy"
    result = collect_run(args.run_dir, args.out, args.episodes, args.seed, args.format, act, args.eps)  # type: ignore[arg-type]
    print(returns_text(result))
    print(f"data set: {args.out}")
    return 0


def _check(args: argparse.Namespace) -> int:
    from nervex.config.source import apply_overrides, read_source
    from nervex.entry.catalog import find_config
    from nervex.entry.check_entry import CheckReport, check_config

    report = CheckReport()
    try:
        check_config(apply_overrides(read_source(find_config(args.config)), args.overrides), report)
    finally:
        print(*report.lines(), sep="\n", flush=True)
    print("ok" if not report.error_num else f"{report.error_num} error(s) in the env")
    return BAD_INPUT if report.error_num else 0


def _verify_resume(args: argparse.Namespace) -> int:
    from nervex.entry.verify_entry import verify_resume

    report = verify_resume(
        args.config,
        args.overrides,
        kills=args.kills,
        seed=args.seed,
        steps=args.steps,
        run_dir=args.run_dir,
        say=lambda line: print(line, flush=True),
    )
    print("\n".join(report.lines()))
    return 0 if report.passed else FAILED


def _inspect(args: argparse.Namespace) -> int:
    from nervex.entry.inspect_entry import inspect_path

    found = inspect_path(args.path)
    print("\n".join(found.lines))
    return 0 if found.sound else FAILED


def _replay(args: argparse.Namespace) -> int:
    from nervex.entry.replay_entry import replay_run

    replayed = replay_run(args.run_dir, args.iter, out=args.out)
    print("\n".join(replayed.lines()))
    if args.out is not None:
        print(f"written: {args.out}")
    return FAILED if replayed.differences else 0


def _profile(args: argparse.Namespace) -> int:
    import json

    from nervex.config.source import apply_overrides, read_source
    from nervex.entry.catalog import find_config
    from nervex.entry.profile import profile_config

    source = apply_overrides(read_source(find_config(args.config)), args.overrides)
    profile = profile_config(source, args.steps)
    print(json.dumps(profile.as_dict()) if args.json else "\n".join(profile.lines()))
    return 0


def _plot(args: argparse.Namespace) -> int:
    from pathlib import Path

    from nervex.entry.plot import plot_runs

    print(f"picture: {plot_runs(args.run_dirs, Path(args.out))}")
    return 0


def _bench_learn(args: argparse.Namespace) -> int:
    from pathlib import Path

    from nervex.entry.bench_learn import bench_learn, write_tables

    if args.seeds < 1 or args.first_seed < 0:
        raise ConfigError(f"--seeds is {args.seeds} and --first-seed {args.first_seed}; expected at least 1 and 0")
    ledger = Path(args.ledger)
    records = bench_learn(
        args.config,
        args.overrides,
        seeds=range(args.first_seed, args.first_seed + args.seeds),
        ledger=ledger,
        work=None if args.work is None else Path(args.work),
        final_episode=args.final_episodes,
        say=lambda line: print(line, flush=True),
    )
    if records is None:
        print("interrupted; the same command goes on")
        return INTERRUPTED
    written = write_tables(ledger, [records[0].name], plot=args.plot)
    print(written[0].read_text(encoding="utf-8"))
    print(f"written: {', '.join(map(str, written))}")
    return 0


def _bench_table(args: argparse.Namespace) -> int:
    from pathlib import Path

    from nervex.entry.bench_learn import write_readme, write_tables
    from nervex.entry.ledger import recipes

    ledger, readme = Path(args.ledger), Path(args.readme)
    write_readme(ledger, readme)
    for path in [*write_tables(ledger, recipes(ledger)), readme]:
        print(f"written: {path}")
    return 0


def _list(args: argparse.Namespace) -> int:
    from nervex.entry.catalog import list_names

    for name, text in list_names(args.what):
        print(f"{name:<24} {text}".rstrip())
    return 0
