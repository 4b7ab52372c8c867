"""Pure mathematics of reinforcement learning: losses, returns, exploration, and the adder."""

from nervex.utils.lazy import lazy_exports

__getattr__, __dir__ = lazy_exports(
    __name__,
    {
        "q_1step_td_data": "nervex.rl_utils.td",
        "q_1step_td_error": "nervex.rl_utils.td",
        "q_nstep_td_data": "nervex.rl_utils.td",
        "q_nstep_td_error": "nervex.rl_utils.td",
        "q_nstep_td_error_per_sample": "nervex.rl_utils.td",
        "nstep_return_data": "nervex.rl_utils.td",
        "nstep_return": "nervex.rl_utils.td",
        "epsilon_greedy": "nervex.rl_utils.exploration",
        "create_noise_generator": "nervex.rl_utils.exploration",
        "GaussianNoise": "nervex.rl_utils.exploration",
        "OUNoise": "nervex.rl_utils.exploration",
        "Adder": "nervex.rl_utils.adder",
        "Trajectory": "nervex.rl_utils.trajectory",
    },
)
