"""Schedules of epsilon, and noise for continuous actions."""

import math

import pytest
import torch

from nervex.rl_utils import GaussianNoise, OUNoise, create_noise_generator, epsilon_greedy
from nervex.utils.errors import ConfigError


class TestEpsilon:
    def test_exponential(self):
        eps = epsilon_greedy(0.8, 0.1, 100)
        assert eps(0) == pytest.approx(0.8)
        assert eps(100) == pytest.approx(0.1 + 0.7 / math.e)
        assert eps(250) == pytest.approx(0.1 + 0.7 * math.exp(-2.5))
        assert eps(1e9) == pytest.approx(0.1)

    @pytest.mark.parametrize("start", [1.0, 0.6])
    def test_linear_from_any_start(self, start):
        eps = epsilon_greedy(start, 0.2, 10, "linear")
        assert [eps(x) for x in (0, 5, 10, 1000)] == pytest.approx([start, (start + 0.2) / 2, 0.2, 0.2])

    @pytest.mark.parametrize("kind", ["exp", "linear"])
    def test_it_may_grow_or_stay(self, kind):
        grow = epsilon_greedy(0.1, 0.5, 10, kind)
        assert grow(0) == pytest.approx(0.1) and 0.1 < grow(5) < grow(9) < 0.5 and grow(1e6) == pytest.approx(0.5)
        assert epsilon_greedy(0.3, 0.3, 10, kind)(7) == pytest.approx(0.3)

    def test_the_tutorials_keyword(self):
        assert epsilon_greedy(1.0, 0.0, 4, type_="linear")(1) == pytest.approx(0.75)

    def test_unknown_type(self):
        with pytest.raises(ConfigError, match="epsilon_greedy: unknown type 'linaer'; did you mean 'linear'"):
            epsilon_greedy(1, 0, 10, "linaer")

    @pytest.mark.parametrize("decay", [0, -5])
    def test_decay_must_be_positive(self, decay):
        with pytest.raises(ConfigError, match=f"epsilon_greedy: decay is {decay}, expected a positive number"):
            epsilon_greedy(1, 0, decay)


class TestGaussian:
    def test_mean_and_deviation(self):
        torch.manual_seed(0)
        x = GaussianNoise(mu=2.0, sigma=0.5)((50_000,))
        assert x.mean().item() == pytest.approx(2.0, abs=0.02)
        assert x.std().item() == pytest.approx(0.5, abs=0.02)

    def test_shape_and_independence(self):
        torch.manual_seed(0)
        noise = GaussianNoise()
        a, b = noise((3, 2)), noise((3, 2))
        assert a.shape == (3, 2) and a.unique().numel() == 6 and not torch.equal(a, b)
        assert noise((2, 2), row=torch.tensor([7, 3])).shape == (2, 2)

    def test_no_deviation_is_the_mean(self):
        assert GaussianNoise(mu=1.5, sigma=0.0)((4,)).tolist() == [1.5] * 4

    def test_negative_deviation(self):
        with pytest.raises(ConfigError, match="gauss noise: sigma is -1, expected at least 0"):
            GaussianNoise(sigma=-1)

    def test_it_keeps_nothing(self):
        noise = GaussianNoise()
        noise.reset()
        noise.reset(torch.tensor([0]))
        assert noise.state_dict() == {}


class TestOrnsteinUhlenbeck:
    def test_it_returns_the_state_not_the_increment(self):
        """The state's lag-1 autocorrelation is 1 − θ·dt = 0.9; that of the increments would be near 0."""
        torch.manual_seed(0)
        noise = OUNoise(sigma=0.3, theta=1.0, dt=0.1)
        x = torch.stack([noise((2000,)) for _ in range(120)])[60:]  # stationary by then
        centered = x - x.mean()
        correlation = (centered[1:] * centered[:-1]).mean() / (centered**2).mean()
        assert correlation.item() == pytest.approx(0.9, abs=0.01)
        assert x.std().item() == pytest.approx(0.3 * math.sqrt(0.1 / (1 - 0.9**2)), rel=0.03)
        assert x.mean().item() == pytest.approx(0.0, abs=0.01)

    def test_without_randomness_it_decays_to_the_mean(self):
        noise = OUNoise(mu=1.0, sigma=0.0, theta=0.5, dt=0.2, x0=3.0)
        assert [noise((1,)).item() for _ in range(3)] == pytest.approx([1 + 2 * 0.9**k for k in (1, 2, 3)])

    def test_the_first_step_has_the_increments_deviation(self):
        torch.manual_seed(0)
        x = OUNoise(sigma=0.3, theta=0.15, dt=0.01)((50_000,))
        assert x.std().item() == pytest.approx(0.3 * math.sqrt(0.01), rel=0.02)

    def test_start_at_the_mean(self):
        assert OUNoise(mu=4.0, sigma=0.0, x0=None)((2,)).tolist() == [4.0, 4.0]

    def test_rows_are_reset_one_by_one(self):
        noise = OUNoise(sigma=0.0, theta=1.0, dt=0.5, x0=8.0)
        noise((3, 2))
        noise((3, 2))  # 8, 4, 2
        noise.reset(torch.tensor([1]))
        assert noise((3, 2)).tolist() == [[1.0, 1.0], [4.0, 4.0], [1.0, 1.0]]
        noise.reset()
        assert noise((3, 2)).unique().tolist() == [4.0]

    def test_only_the_lanes_that_are_asked_for_move(self):
        noise = OUNoise(sigma=0.0, theta=1.0, dt=0.5, x0=8.0)
        assert noise((2, 1), row=torch.tensor([2, 0])).tolist() == [[4.0], [4.0]]
        assert noise((1, 1), row=torch.tensor([0])).tolist() == [[2.0]]
        assert noise((3, 1), row=torch.tensor([1, 2, 0])).tolist() == [[4.0], [2.0], [1.0]]
        noise.reset(torch.tensor([2, 9]))  # 9 has not been met
        assert noise((4, 1), row=torch.tensor([0, 1, 2, 9]))[:, 0].tolist() == [0.5, 2.0, 4.0, 4.0]
        noise.reset()
        assert noise((2, 1), row=torch.tensor([0, 1]))[:, 0].tolist() == [4.0, 4.0]

    def test_each_lane_is_a_process_of_its_own(self):
        """The lag-1 autocorrelation along each lane is 0.9 whatever the others do."""
        torch.manual_seed(0)
        noise, lanes = OUNoise(sigma=0.3, theta=1.0, dt=0.1), torch.arange(2000)
        xs = []
        for _ in range(60):
            half = torch.randperm(2000)[:1000]
            noise((1000,), row=half)
            xs.append(noise((2000,), row=lanes))
        held = noise((2000,), row=lanes)
        x = torch.stack(xs[40:])
        assert held.shape == (2000,)
        correlation = (x[1:] * x[:-1]).mean() / (x**2).mean()
        assert correlation.item() == pytest.approx((0.9 + 0.9**2) / 2, abs=0.01)  # one step, or two

    def test_another_shape_of_a_row_begins_anew(self):
        noise = OUNoise(sigma=0.0, theta=1.0, dt=0.5, x0=8.0)
        noise((1, 1), row=torch.tensor([0]))
        assert noise((1, 2), row=torch.tensor([0])).tolist() == [[4.0, 4.0]]

    def test_lanes_of_a_restored_one(self):
        first, second = OUNoise(sigma=0.0, theta=1.0, dt=0.5, x0=8.0), OUNoise(sigma=0.0, theta=1.0, dt=0.5, x0=8.0)
        first((1, 1), row=torch.tensor([1]))
        second.load_state_dict(first.state_dict())
        assert second((2, 1), row=torch.tensor([1, 2]))[:, 0].tolist() == [2.0, 4.0]

    def test_what_it_returns_is_the_callers(self):
        noise = OUNoise(sigma=0.0, theta=1.0, dt=0.5, x0=8.0)
        noise((1,)).fill_(100.0)
        assert noise((1,)).tolist() == [2.0]
        noise((1,), row=torch.tensor([0])).fill_(100.0)
        assert noise((1,), row=torch.tensor([0])).tolist() == [0.5]

    def test_another_shape_begins_anew(self):
        noise = OUNoise(sigma=0.0, theta=1.0, dt=0.5, x0=8.0)
        noise((2,))
        assert noise((3,)).tolist() == [4.0] * 3

    def test_a_restored_one_continues_the_stream(self):
        torch.manual_seed(3)
        first = OUNoise(mu=0.5)
        for _ in range(5):
            first((4,))
        state, rng = first.state_dict(), torch.get_rng_state()
        second = OUNoise(mu=0.5)
        second.load_state_dict(state)
        expected = [first((4,)) for _ in range(3)]
        torch.set_rng_state(rng)
        assert all(torch.equal(second((4,)), x) for x in expected)

    def test_a_restored_one_is_independent_of_the_first(self):
        first, second = OUNoise(sigma=0.0, theta=1.0, dt=0.5, x0=8.0), OUNoise(sigma=0.0, theta=1.0, dt=0.5, x0=8.0)
        first((2,))
        second.load_state_dict(first.state_dict())
        second.reset(torch.tensor([0]))
        assert first((2,)).tolist() == [2.0, 2.0]
        assert second((2,)).tolist() == [4.0, 2.0]

    def test_state_before_the_first_call(self):
        noise = OUNoise(sigma=0.0, x0=1.0, theta=1.0, dt=0.5)
        noise.load_state_dict(OUNoise().state_dict())
        assert noise((1,)).tolist() == [0.5]


class TestCreation:
    def test_by_name(self):
        assert isinstance(create_noise_generator("gauss", {"mu": 1.0, "sigma": 0.0}), GaussianNoise)
        assert create_noise_generator("gauss", {"mu": 1.0, "sigma": 0.0})((2,), "cpu").tolist() == [1.0, 1.0]
        assert isinstance(create_noise_generator("ou"), OUNoise)

    def test_unknown_name(self):
        with pytest.raises(ConfigError, match=r"unknown noise 'guass'; did you mean 'gauss'\? \(known: gauss, ou\)"):
            create_noise_generator("guass")
