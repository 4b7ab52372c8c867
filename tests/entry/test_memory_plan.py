import logging

import pytest

from nervex import serial_pipeline
from nervex.config.source import apply_overrides, read_source
from nervex.data.window import ItemWindow
from nervex.entry.catalog import find_config
from nervex.entry.compile_config import compile_config
from nervex.entry.memory_plan import plan_memory
from nervex.entry.serial_parts import build_parts
from nervex.torch_utils.seeds import rng_state
from nervex.torch_utils.state_tree import encode_state
from nervex.utils.errors import ConfigError

SMALL = ["policy.learn.compile=false", "actor.random_collect_size=0", "replay_buffer.meta_maxlen=1000"]


def parts_of(name, *overrides):
    return build_parts(compile_config(apply_overrides(read_source(find_config(name)), list(overrides))))


def streams():
    structure, tensors = encode_state(rng_state())
    return str(structure), {k: v.tolist() for k, v in tensors.items()}


@pytest.mark.parametrize("name", ["cartpole_dqn", "pendulum_sac", "memory_cue_r2d2"])
def test_the_plan_is_what_the_replay_then_holds(name):
    parts = parts_of(name, *SMALL)
    try:
        before = streams()
        planned = plan_memory(parts, None)
        assert streams() == before
        parts.command.step()
        replay = parts.replay
        parts.actor.generate_data(
            n_sample=300, consume=lambda b: replay.push_data(b.traj.columns, b.lane_id, b.length, b.gap, b.cut)
        )
        assert planned.store == replay.storage.table.plan.memory_bytes
        assert planned.store == pytest.approx(replay.storage.nbytes, rel=0.02)
    finally:
        parts.close()


def test_the_model_counts_with_gradients_and_moments():
    parts = parts_of("cartpole_dqn", "policy.learn.compile=false")
    try:
        weights = sum(p.numel() * p.element_size() for p in parts.policy.model.parameters())
        planned = plan_memory(parts, None).model
        assert 5 * weights <= planned <= 5.2 * weights  # itself, its target, a gradient, two moments
    finally:
        parts.close()


def test_a_rollout_counts_twice_the_rows_of_all_lanes():
    parts = parts_of("cartpole_ppo", "policy.collect.traj_len=64", "env.actor_env_num=4")
    try:
        planned = plan_memory(parts, None)
        held = parts.rollout
        parts.actor.generate_data(n_row=256, consume=lambda block: held.push_data(block.traj.columns))
        rows = sum(leaf.numel() * leaf.element_size() for leaf in held.blocks[0].values())
        assert rows <= planned.store <= 3 * rows  # the learner's rows also have advantages and returns
    finally:
        parts.close()


def test_a_run_that_would_take_more_is_refused_before_anything_is_written(tmp_path, caplog):
    run = {"env": {"env_type": "gymnasium", "env_id": "CartPole-v1"}, "policy": {"policy_type": "dqn"}}
    run |= {"max_env_step": 100, "replay_buffer": {"meta_maxlen": 1_000_000}}
    with pytest.raises(ConfigError, match=r"memory_limit is 10\.0 MiB, and this run would take .*meta_maxlen smaller"):
        serial_pipeline({**run, "memory_limit": 10 << 20}, run_dir=tmp_path / "run", show=False)
    assert not (tmp_path / "run").exists()
    with caplog.at_level(logging.INFO, "nervex"):
        serial_pipeline({**run, "replay_buffer": {"meta_maxlen": 1000}}, run_dir=tmp_path / "run", show=False)
    assert any(text.startswith("memory: model ") and "replay 1,000 rows: " in text for text in caplog.messages)


def test_items_of_a_policys_own_are_planned_when_they_come(monkeypatch):
    parts = parts_of("cartpole_dqn", *SMALL)
    try:
        monkeypatch.setattr(parts.replay, "window", ItemWindow())
        planned = plan_memory(parts, None)
        assert planned.store is None and "first items" in planned.text
    finally:
        parts.close()
