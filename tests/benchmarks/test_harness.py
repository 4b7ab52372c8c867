"""The pure parts of the benchmarks' harness: jobs, order, figures, statistics, tables; drivers on fakes."""

import json
import math
import sys
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

BENCHMARKS = Path(__file__).resolve().parent.parent.parent / "benchmarks"
sys.path += [str(BENCHMARKS), str(BENCHMARKS / "peers" / "jobs")]

import driver  # noqa: E402
import run_peers  # noqa: E402
from harness.environments import Environment, prepare, requirements, steps  # noqa: E402
from harness.runner import DRIVERS, environ, last_line, measure, parse, run_driver, turns  # noqa: E402
from harness.settings import OURS, Job, Peer, chosen, load_jobs  # noqa: E402
from harness.summary import Spread, lines, number, spread, table, tables  # noqa: E402

FIGURE = {"metric": "env step", "amount": 100, "wall_s": 2.0, "cpu_s": 1.0, "threads": 1, "versions": {"torch": "2"}}


def peer(name: str, environment: str | None = "sb3") -> Peer:
    return Peer(name, f"{name}_train", environment)


def job(*peers: Peer, shown: str = "rate") -> Job:
    return Job("task", "A task", "env step", shown, {"steps": 3}, peers, 5.0)


def record(figures: list[dict[str, Any]], peers: list[str], shown: str = "rate") -> dict[str, Any]:
    return {"job": "task", "title": "A task", "unit": "env step", "shown": shown, "runs": 2, "settings": {},
            "peers": peers, "note": {"sb3": "env by env"}, "missing": {"sbx": "pip failed"}, "figures": figures,
            "date": "2030-01-01", "machine": {"cores": 2, "cpu": "A processor"}}  # fmt: skip


def figure(who: str, run: int, wall: float, cpu: float, amount: int = 100) -> dict[str, Any]:
    return {**FIGURE, "peer": who, "run": run, "wall_s": wall, "cpu_s": cpu, "amount": amount}


# Jobs


def test_every_job_has_drivers_requirements_and_quick_settings() -> None:
    data = json.loads((BENCHMARKS / "jobs.json").read_text(encoding="utf-8"))
    jobs = load_jobs()
    assert set(jobs) == set(data["jobs"])
    for name, entry in jobs.items():
        assert set(data["jobs"][name]["quick"]) <= set(entry.settings), name
        assert OURS in [p.name for p in entry.peers] and len(entry.peers) > 1
        for one in entry.peers:
            assert (DRIVERS / f"{one.driver}.py").is_file(), one
            if one.environment is not None:
                assert requirements(one.environment)


def test_quick_jobs_differ_in_their_lengths_only() -> None:
    long, quick = load_jobs(), load_jobs(quick=True)
    for name, entry in long.items():
        assert entry.peers == quick[name].peers and entry.settings.keys() == quick[name].settings.keys()
    assert quick["sac_halfcheetah"].settings["steps"] < long["sac_halfcheetah"].settings["steps"]


def test_chosen_jobs_keep_nervex() -> None:
    jobs = {"a": job(peer("nervex", None), peer("sb3"), peer("sbx")), "b": job(peer("nervex", None), peer("sbx"))}
    assert [p.name for p in chosen(jobs, ["a"], ["sb3"])[0].peers] == ["nervex", "sb3"]
    assert [len(j.peers) for j in chosen(jobs, [], [])] == [3, 2]
    with pytest.raises(ValueError, match=r"there is no 'c' \(known: a, b\)"):
        chosen(jobs, ["c"], [])
    with pytest.raises(ValueError, match=r"there is no 'sb4' \(known: nervex, sb3, sbx\)"):
        chosen(jobs, [], ["sb4"])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"shown": "hz"}, "shown is 'hz'; expected one of rate, us, s"),
        ({"peers": {"nervex": {"driver": "x"}, "who": {"driver": "x"}}}, "peer 'who' has no environment"),
        ({"peers": {"sb3": {"driver": "x"}}}, "'nervex' does not take part"),
    ],
)
def test_wrong_jobs(tmp_path: Path, change: dict[str, Any], message: str) -> None:
    entry = {"title": "", "unit": "", "shown": "s", "settings": {}, "quick": {}, "peers": {"nervex": {"driver": "x"}}}
    path = tmp_path / "jobs.json"
    path.write_text(json.dumps({"environments": {"nervex": None, "sb3": "sb3"}, "jobs": {"a": {**entry, **change}}}))
    with pytest.raises(ValueError, match=message):
        load_jobs(path)


# Environments


def test_torch_is_installed_first_and_pinned_in_both_steps() -> None:
    commands = steps(Path("py"), ["torch==2.13.0", "lib==1"])
    assert [c[6:] for c in commands] == [["torch==2.13.0"], ["torch==2.13.0", "lib==1"]]
    assert [c[6:] for c in steps(Path("py"), ["lib==1"])] == [["lib==1"]]


def test_every_requirement_is_pinned() -> None:
    for path in (BENCHMARKS / "peers" / "requirements").glob("*.txt"):
        for line in requirements(path.stem):
            assert "==" in line or line == "numpy<2", f"{path.name}: {line}"


def test_environments_that_are_there_are_taken(tmp_path: Path) -> None:
    assert prepare("sb3", {"sb3": tmp_path / "python"}) == Environment(tmp_path / "python")
    assert prepare(None, {}).python == Path(sys.executable)


# Running


@given(st.lists(st.sampled_from("abcdef"), min_size=1, max_size=6, unique=True), st.integers(1, 5))
def test_peers_take_turns(names: list[str], runs: int) -> None:
    order = [(run, p.name) for run, p in turns([peer(n) for n in names], runs)]
    assert order == [(run, name) for run in range(runs) for name in names]


def test_environ_gives_one_thread_and_forgets_what_slows_down() -> None:
    seen = environ({"HOME": "x", "OPENBLAS_CORETYPE": "Haswell", "PYTHONPATH": "y", "OMP_NUM_THREADS": "8"})
    assert seen["OMP_NUM_THREADS"] == "1" and seen["HOME"] == "x"
    assert "OPENBLAS_CORETYPE" not in seen and "PYTHONPATH" not in seen


def test_parse_takes_figures_among_other_lines() -> None:
    assert parse(f"loading\n{json.dumps(FIGURE)}\ndone") == [FIGURE]
    with pytest.raises(ValueError, match="printed no figure"):
        parse("nothing")
    with pytest.raises(ValueError, match="lacks amount"):
        parse(json.dumps({k: v for k, v in FIGURE.items() if k != "amount"}))


def test_last_line_names_the_error_without_our_folders() -> None:
    assert last_line(f"Traceback\n  x\nValueError: no {BENCHMARKS}/jobs.json\n\n") == "ValueError: no jobs.json"
    assert last_line("") == "" and len(last_line("x" * 500)) == 200


def test_a_peer_that_fails_is_reported_and_left_out() -> None:
    calls, kept = [], []

    def once(python: Path, entry: Job, who: Peer, seed: int) -> list[dict[str, Any]]:
        calls.append((who.name, seed))
        if who.name == "sb3" and seed == 1:
            raise ValueError("it broke")
        return [FIGURE]

    def environment(name: str | None) -> Environment:
        return Environment(None, "pip failed") if name == "sbx" else Environment(Path("python"))

    entry = job(peer("nervex", None), peer("sb3"), peer("sbx", "sbx"))
    found = measure(entry, environment, 3, lambda r: kept.append(len(r["figures"])), lambda line: None, once)
    assert calls == [("nervex", 0), ("sb3", 0), ("nervex", 1), ("sb3", 1), ("nervex", 2)]
    assert found["missing"] == {"sbx": "pip failed", "sb3": "it broke"} and kept == [1, 2, 3, 3, 4]
    assert [(f["peer"], f["run"]) for f in found["figures"]] == [
        ("nervex", 0), ("sb3", 0), ("nervex", 1), ("nervex", 2)
    ]  # fmt: skip


def test_drivers_are_processes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("harness.runner.DRIVERS", tmp_path)
    (tmp_path / "good_train.py").write_text(
        "import json, sys\ngiven = json.loads(sys.argv[1])\n"
        f"print(json.dumps({{**{FIGURE}, 'amount': given['steps'], 'threads': given['threads']}}))"
    )
    (tmp_path / "bad_train.py").write_text("raise KeyError('who')")
    (tmp_path / "slow_train.py").write_text("import time\ntime.sleep(60)")
    python = Path(sys.executable)
    assert run_driver(python, job(), peer("good"), 0)[0]["amount"] == 3
    with pytest.raises(ValueError, match="KeyError: 'who'"):
        run_driver(python, job(), peer("bad"), 0)
    with pytest.raises(ValueError, match=r"it had not ended after 0\.2 s"):
        run_driver(python, Job(**{**vars(job()), "limit_s": 0.2}), peer("slow"), 0)


# Statistics and tables


def test_lines_by_hand() -> None:
    figures = [
        figure("nervex", 0, 1.0, 0.5), figure("sb3", 0, 4.0, 1.0), figure("nervex", 1, 3.0, 0.5),
        figure("sb3", 1, 6.0, 2.0), figure("nervex", 2, 2.0, 0.5),
    ]  # fmt: skip
    ours, theirs = lines(record(figures, ["nervex", "sb3", "sbx"]))
    assert ours.wall == Spread(0.02, 0.01, 0.03) and ours.cpu == Spread(0.005, 0.005, 0.005)
    assert ours.wall_ratio is None and (ours.runs, theirs.runs) == (3, 2)
    assert theirs.wall_ratio == Spread(3.0, 2.0, 4.0)  # run by run: 4 / 1 and 6 / 3
    assert theirs.cpu_ratio == Spread(3.0, 2.0, 4.0)


def test_runs_that_do_not_get_there_are_infinitely_long() -> None:
    figures = [
        figure("nervex", 0, 1.0, 1.0, 1), figure("nervex", 1, 1.0, 1.0, 0), figure("nervex", 2, 2.0, 2.0, 1),
        figure("sb3", 0, 9.0, 9.0, 0), figure("sb3", 1, 3.0, 3.0, 1), figure("sb3", 2, 5.0, 5.0, 1),
    ]  # fmt: skip
    ours, theirs = lines(record(figures, ["nervex", "sb3"], "s"))
    assert ours.wall == Spread(2.0, 1.0, math.inf) and (ours.reached, ours.runs) == (2, 3)
    assert theirs.wall_ratio == Spread(2.5, 0.0, math.inf)
    assert "2 of 3 got there" in tables(record(figures, ["nervex", "sb3"], "s"))


def test_tables_say_what_is_missing_and_with_what_it_was_measured() -> None:
    text = tables(record([figure("nervex", 0, 1.0, 0.5), figure("sb3", 0, 4.0, 1.0)], ["nervex", "sb3", "sbx"]))
    assert text.startswith("### A task\n\n| env step | env steps/s [min, max] | CPU ms per env step [min, max] |")
    assert "| nervex | 100 | 5.00 |  |  | 1 |" in text and "| sb3 | 25.0 | 10.0 | 4.00 | 2.00 | 1 |" in text
    assert "- not measured: sbx (pip failed)" in text and "- sb3: env by env" in text
    assert text.endswith("Measured 2030-01-01 on 2 cores, A processor. nervex, sb3: torch 2; 1 thread.")


def test_short_times_are_microseconds() -> None:
    text = tables(record([figure("nervex", 0, 1e-3, 5e-4, 10), figure("nervex", 1, 3e-3, 5e-4, 10)], ["nervex"], "us"))
    assert "| nervex | 200 [100, 300] | 50.0 |  |  | 2 |" in text


@pytest.mark.parametrize(
    ("value", "text"),
    [(0, "0"), (math.inf, "∞"), (1234.5, "1,230"), (1.2345, "1.23"), (0.00012345, "0.000123"), (99.96, "100"),
     (12.34, "12.3")],
)  # fmt: skip
def test_numbers(value: float, text: str) -> None:
    assert number(value) == text


@given(st.lists(st.floats(0.1, 10), min_size=1, max_size=9))
def test_spread(values: list[float]) -> None:
    found = spread(values)
    assert found.least == min(values) <= found.median <= max(values) == found.greatest


def test_table() -> None:
    assert table(["a", "b"], [["1", "2"]]) == "| a | b |\n| --- | --- |\n| 1 | 2 |"


# The command, and what drivers share


def test_command_line(tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    assert run_peers.main(["--jobs", "chess"]) == 2
    assert capsys.readouterr().err.startswith("error: there is no 'chess' (known: dqn_cartpole")
    written = record([figure("nervex", 0, 1.0, 0.5)], ["nervex"])
    run_peers.write(tmp_path, {**written, "job": "returns"})
    assert run_peers.page(load_jobs(), tmp_path).startswith("### A task")
    assert [p.name for p in tmp_path.iterdir()] == ["returns.json"]
    assert run_peers.page(load_jobs(), tmp_path / "none") == "Nothing has been measured yet."


def test_clock_leaves_out_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [0.0]
    monkeypatch.setattr(driver.time, "perf_counter", lambda: now[0])
    monkeypatch.setattr(driver, "cpu_s", lambda: now[0] / 2)
    clock = driver.Clock()
    now[0] = 4.0
    with clock.paused():
        now[0] = 10.0
    now[0] = 11.0
    assert clock.read() == (5.0, 2.5)
    clock.leave_out((1.0, 1.0))
    assert clock.read() == (4.0, 1.5)


def test_solver_evaluates_at_its_steps_and_ends_at_the_goal(capsys: pytest.CaptureFixture[str]) -> None:
    given = {"env": "CartPole-v1", "goal": 9, "eval_every": 100, "eval_episodes": 3, "seed": 0, "threads": 1}
    asked = []

    def act(obs: Any) -> Any:
        asked.append(solver.step)
        return (obs[:, 2] > 0).astype(int)

    solver = driver.Solver(given, act)

    def train() -> None:
        for step in range(0, 1000, 40):
            solver.check(step)

    solver.run(train, "gymnasium")
    line = json.loads(capsys.readouterr().out)
    assert set(asked) == {120} and line["amount"] == 1 and line["metric"] == "to 9" and line["env_step"] == 120
    unreached = driver.Solver({**given, "goal": 1e9}, lambda obs: (obs[:, 2] > 0).astype(int))
    unreached.run(lambda: unreached.check(150), "gymnasium")
    assert json.loads(capsys.readouterr().out)["amount"] == 0


def test_overrides_of_nervex_fit_the_recipes() -> None:
    import nervex_train

    from nervex.config.source import apply_overrides, read_source
    from nervex.entry.catalog import find_config
    from nervex.entry.compile_config import compile_config

    names = ("ppo_cartpole", "dqn_cartpole", "solve_sac_pendulum", "solve_td3_pendulum")
    for spec in (dict(load_jobs()[name].settings, threads=1) for name in names):
        cfg = compile_config(apply_overrides(read_source(find_config(spec["config"])), nervex_train.overrides(spec)))
        learn = cfg.cfg.policy.learn
        assert learn.batch_size == spec["batch_size"] and learn.learning_rate == spec["learning_rate"]
        assert learn.algo.discount_factor == spec["gamma"] and cfg.cfg.torch_threads == 1
        assert len(cfg.actor_env_cfg) == spec["env_num"]
    ppo = dict(load_jobs()["ppo_cartpole"].settings)
    assert nervex_train.updates_of(ppo, 1024) == 16 and nervex_train.updates_of(ppo, 1025) == 32
    assert nervex_train.updates_of(dict(load_jobs()["dqn_cartpole"].settings), 16) == 10


def test_goal_of_nervex_leaves_evaluations_out(monkeypatch: pytest.MonkeyPatch) -> None:
    import nervex_train

    from nervex.worker.monitor.sink import MetricRow

    now = [0.0]
    monkeypatch.setattr(driver.time, "perf_counter", lambda: now[0])
    monkeypatch.setattr(driver, "cpu_s", lambda: now[0] / 2)
    goal = nervex_train.Goal(475)

    def evaluated(end: float, score: float, update: int) -> None:
        now[0] = end
        goal.write(MetricRow("eval", 10 * update, update, {"eval_return": score, "time/eval_s": 3.0}))

    evaluated(4.0, 500.0, 0)  # untrained weights, luckily good
    assert goal.reached is None
    now[0] = 6.0
    goal.learned(None)
    evaluated(9.0, 400.0, 1)
    now[0] = 10.0
    goal.learned(None)
    evaluated(19.0, 480.0, 2)
    assert (
        goal.reached == (1.0 + 2.0 + 1.0, 1.5) and goal.env_step == 20
    )  # of the first evaluation's CPU time at most 2
    with pytest.raises(driver.Solved):
        goal.learned(None)
