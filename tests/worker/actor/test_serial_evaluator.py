import numpy as np
import pytest
import torch
from actor_envs import FaultySeededEnv, length_of, reward_of
from actor_fakes import FakePolicy, make_manager

from nervex.torch_utils import load_state, save_state
from nervex.utils.errors import EnvFault
from nervex.worker.actor.env_manager.env_runner import episode_seed
from nervex.worker.actor.env_manager.registry import create_env_manager
from nervex.worker.actor.serial_evaluator import BaseSerialEvaluator, EvalResult

CFG = {"n_episode": 7, "eval_freq": 1, "stop_val": float("inf"), "confirm_episode": 100}
LONGEST = 40  # lengths from 1 to 40, by seed


@pytest.fixture
def make():
    made = []

    def build(kind="base", num=3, seed=5, policy=None, **cfg):
        policy = policy or FakePolicy(num)
        manager = make_manager(kind, cfgs=[{"longest": LONGEST}] * num)
        evaluator = BaseSerialEvaluator({**CFG, **cfg}, manager, policy.mode, seed)
        evaluator.fake = policy
        made.append(evaluator)
        return evaluator

    yield build
    for evaluator in made:
        evaluator.close()


def assigned(n_episode, lanes=3, seed=5, eval_count=0):
    """Seeds of the episodes of an evaluation, fixed before it begins: lane after lane."""
    seeds = [int(s) for s in np.random.SeedSequence((seed, eval_count)).generate_state(lanes)]
    shares = [len(range(lane, n_episode, lanes)) for lane in range(lanes)]
    return [episode_seed(s, k) for s, share in zip(seeds, shares, strict=True) for k in range(share)]


def result_of(seeds):
    lengths = [length_of(s, LONGEST) for s in seeds]
    returns = [sum(reward_of(s, t) for t in range(n)) for s, n in zip(seeds, lengths, strict=True)]
    return returns, lengths


@pytest.mark.parametrize("kind", ["base", "sync_subprocess", "subprocess"])
@pytest.mark.parametrize("n_episode", [1, 2, 3, 7])
def test_the_assigned_episodes_count_and_no_others(make, kind, n_episode):
    evaluator = make(kind)
    returns, lengths = result_of(assigned(n_episode))
    result = evaluator.evaluate(n_episode)
    assert result.episode_return.tolist() == returns and result.episode_length.tolist() == lengths
    assert result.mean == pytest.approx(np.mean(returns)) and result.std == pytest.approx(np.std(returns))


def test_short_episodes_are_not_preferred(make):
    """The mean length over many evaluations is that of the envs, not that of the first episodes to finish."""
    evaluator = make(num=8)
    lengths = np.concatenate([evaluator.evaluate(8).episode_length for _ in range(60)])
    every = [result_of(assigned(8, 8, eval_count=i))[1] for i in range(60)]
    assert lengths.tolist() == [n for one in every for n in one]
    assert lengths.mean() == pytest.approx((1 + LONGEST) / 2, abs=2)  # first come, first counted: about 9


def test_every_evaluation_has_fresh_episodes(make):
    evaluator = make()
    for count in range(4):
        assert evaluator.evaluate(7).episode_return.tolist() == result_of(assigned(7, eval_count=count))[0]
    seeds = [s for count in range(4) for s in assigned(7, eval_count=count)]
    assert len(set(seeds)) == 28


def test_the_same_seed_gives_the_same_episodes_and_another_one_others(make):
    one, two, other = (make(seed=seed).evaluate(7).episode_return.tolist() for seed in (5, 5, 6))
    assert one == two != other


def test_envs_are_asked_for_nothing_beyond_their_episodes(make):
    evaluator = make()
    steps = []
    step_block = evaluator.env.step_block
    evaluator.env.step_block = lambda action, lane_id: steps.extend(lane_id.tolist()) or step_block(action, lane_id)
    evaluator.evaluate(4)
    lengths = result_of(assigned(4))[1]
    assert [steps.count(lane) for lane in range(3)] == [lengths[0] + 1 + lengths[1], lengths[2], lengths[3]]


def test_hidden_state_begins_anew_with_every_episode(make):
    class Recurrent(FakePolicy):
        def forward(self, lane_id, data):
            output = super().forward(lane_id, data)
            at_end.extend((output["since"] - data["obs"][:, 2].long()).tolist())
            return output

    at_end = []
    evaluator = make(policy=Recurrent(3))
    evaluator.evaluate(9)
    evaluator.evaluate(9)  # what the first one left behind is gone, too
    assert len(at_end) > 30 and not any(at_end)
    assert evaluator.fake.resets.count(None) == 2
    assert sum(len(lanes) for lanes in evaluator.fake.resets if lanes) == 2 * (9 - 3)


# When to stop


def means(n_episode):
    first = result_of(assigned(n_episode))[0]
    confirmation = result_of(assigned(100, eval_count=1))[0]
    return float(np.mean(first)), float(np.mean(confirmation))


def lucky():
    """A number of episodes whose evaluation is better than its confirmation."""
    return next(n for n in range(1, 9) if means(n)[0] > means(n)[1] + 100)


def test_a_stop_must_be_confirmed_by_a_hundred_fresh_episodes(make):
    n_episode = lucky()
    first, confirmation = means(n_episode)

    refused = make(n_episode=n_episode, stop_val=(first + confirmation) / 2)
    assert refused.eval(0) is False
    assert refused.last.mean == pytest.approx(confirmation) and len(refused.last.episode_return) == 100
    assert refused.best == refused.last.mean  # a first glance that was not confirmed is no result

    confirmed = make(n_episode=n_episode, stop_val=confirmation)
    assert confirmed.eval(0) is True and confirmed.last.mean == pytest.approx(confirmation)

    below = make(n_episode=n_episode, stop_val=first + 0.1)
    assert below.eval(0) is False
    assert len(below.last.episode_return) == n_episode and below.eval_count == 1  # no confirmation was asked for


def test_without_confirmation(make):
    evaluator = make(stop_val=means(7)[0], confirm_episode=0)
    assert evaluator.eval(0) is True and evaluator.eval_count == 1


def test_the_best_is_kept(make):
    evaluator = make()
    best = []
    for count in range(5):
        assert evaluator.eval(count, n_episode=2) is False
        assert len(evaluator.last.episode_return) == 2
        best.append(evaluator.last.mean)
        assert evaluator.best == max(best)


def test_a_restored_evaluator_goes_on(make, tmp_path):
    evaluator, other = make(), make()
    other.load_state_dict(evaluator.state_dict())  # before the first one
    assert (other.best, other.last, other.eval_count) == (None, None, 0)
    evaluator.eval(0)
    evaluator.eval(1)
    save_state(tmp_path / "state", evaluator.state_dict())
    other.load_state_dict(load_state(tmp_path / "state")[0])
    assert other.best == evaluator.best
    assert other.last.episode_return.tolist() == evaluator.last.episode_return.tolist()
    assert other.last.episode_length.tolist() == evaluator.last.episode_length.tolist()
    for _ in range(2):
        evaluator.eval(2)
        other.eval(2)
        assert other.last.episode_return.tolist() == evaluator.last.episode_return.tolist()
    assert other.eval_count == evaluator.eval_count == 4


def test_what_a_result_tells():
    result = EvalResult(np.array([1.0, 3.0]), np.array([4, 5]))
    assert (result.mean, result.std) == (2.0, 1.0)


def test_closing_twice_and_before_the_start(make):
    evaluator = make()
    evaluator.close()
    evaluator.evaluate(1)
    evaluator.close()
    evaluator.close()
    assert BaseSerialEvaluator(CFG).close() is None


def test_actions_are_asked_for_without_gradients(make):
    evaluator = make()
    seen = []
    forward = evaluator.policy.forward
    evaluator.policy.forward = lambda lanes, data: (
        seen.append(torch.is_inference_mode_enabled()) or forward(lanes, data)
    )
    evaluator.evaluate(1)
    assert seen and all(seen)


# Evaluations without an end


@pytest.mark.parametrize("kind", ["base", "subprocess"])
def test_an_episode_that_does_not_end(make, kind):
    longest = max(result_of(assigned(7))[1])
    assert make(kind, max_episode_step=longest).evaluate(7).episode_length.max() == longest
    message = rf"env \d has played {longest} steps of one episode .*limit evaluator\.max_episode_step\); give the env a"
    with pytest.raises(EnvFault, match=message):
        make(kind, max_episode_step=longest - 1).evaluate(7)


@pytest.mark.parametrize("kind", ["base", "subprocess"])
@pytest.mark.parametrize("confirming", [False, True])
def test_an_evaluation_that_is_given_up_has_not_begun(make, kind, confirming):
    # low: every evaluation asks for a confirmation
    cfg = {"n_episode": 2, "confirm_episode": 5, "stop_val": -1.0 if confirming else float("inf")}
    evaluator, whole = make(kind, **cfg), make(kind, **cfg)
    evaluator.eval(0)
    whole.eval(0)
    before = evaluator.last, evaluator.best, evaluator.eval_count
    count = evaluator.eval_count + confirming + 1  # where it is given up
    asked = []
    assert (
        evaluator.eval(1, stop=lambda: evaluator.eval_count == count and (len(asked) == 2 or asked.append(1))) is None
    )
    assert len(asked) == 2 and (evaluator.last, evaluator.best, evaluator.eval_count) == before
    assert evaluator.eval(1) is whole.eval(1) is confirming
    assert evaluator.last.episode_return.tolist() == whole.last.episode_return.tolist()


@pytest.mark.parametrize("kind", ["base", "sync_subprocess"])
def test_an_episode_that_a_fault_cut_off_is_played_by_the_next_one(kind):
    seeds = [int(s) for s in np.random.SeedSequence((5, 0)).generate_state(2)]
    episodes = [[episode_seed(seed, k) for k in range(9)] for seed in seeds]
    bad = next(k for k in range(3) if length_of(episodes[0][k], LONGEST) > 4)
    what = "kill" if kind == "sync_subprocess" else "raise"
    cfgs = [{"env": i, "longest": LONGEST, "faults": {episodes[0][bad]: (4, what)}} for i in range(2)]
    options = {"worker_num": 2, "close_timeout_s": 0.1} if kind == "sync_subprocess" else {}
    manager = create_env_manager(kind, FaultySeededEnv, cfgs, **options)
    evaluator = BaseSerialEvaluator(CFG, manager, FakePolicy(2).mode, 5)
    try:
        result = evaluator.evaluate(6)
    finally:
        evaluator.close()
    counted = [e for k, e in enumerate(episodes[0][:4]) if k != bad] + episodes[1][:3]
    assert result.episode_length.tolist() == [length_of(e, LONGEST) for e in counted]
    assert result.episode_return.tolist() == [
        sum(reward_of(e, t) for t in range(length_of(e, LONGEST))) for e in counted
    ]
    assert manager.fault_count == 1


class BreaksEnv(FaultySeededEnv):
    """Every episode of more than two steps breaks."""

    def step(self, action):
        if self.step_count == 2:
            raise ZeroDivisionError("the physics exploded")
        return super().step(action)


def test_an_evaluation_whose_episodes_all_break_ends():
    manager = create_env_manager("base", BreaksEnv, [{"longest": LONGEST, "env": 0}], fault_budget=10**6)
    evaluator = BaseSerialEvaluator(CFG, manager, FakePolicy(1).mode, 5)
    with pytest.raises(EnvFault, match="faults of env 0 have cut off 5 episodes of an evaluation in a row"):
        evaluator.evaluate(200)
    evaluator.close()
