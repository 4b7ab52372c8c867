"""Returns over time, backward row by row, for tables [T, B] of float32 or float64.

``terminated``, ``truncated`` and ``valid`` are bool [T, B], or [1, B] where all rows are alike; arrays are contiguous
and of one floating dtype. The equations stand with the functions of :mod:`nervex.rl_utils` that call these. What must
not be read is left out by choice, not multiplied by 0, so that a NaN there does no harm.
"""

import numpy as np

from nervex.kernels.jit import kernel, part


@kernel
def gae(
    value: np.ndarray,
    reward: np.ndarray,
    terminated: np.ndarray,
    truncated: np.ndarray,
    valid: np.ndarray,
    gamma: float,
    lambda_: float,
    adv: np.ndarray,
) -> None:
    """Writes ``adv`` [T, B]; ``value`` has T + 1 rows. See :func:`nervex.rl_utils.advantage.gae`."""
    real = reward.dtype.type
    number = real(gamma), real(gamma * lambda_)
    later = np.zeros(reward.shape[1], reward.dtype)  # A_{t+1}
    for t in range(len(reward) - 1, -1, -1):
        ends = terminated[min(t, len(terminated) - 1)], truncated[min(t, len(truncated) - 1)]
        _gae_row(value[t], value[t + 1], reward[t], ends, valid[min(t, len(valid) - 1)], number, later, adv[t])


@part
def _gae_row(
    value: np.ndarray,
    next_value: np.ndarray,
    reward: np.ndarray,
    ends: tuple[np.ndarray, np.ndarray],
    valid: np.ndarray,
    number: tuple[float, float],
    later: np.ndarray,
    adv: np.ndarray,
) -> None:
    (terminated, truncated), (gamma, gamma_lambda) = ends, number
    zero = reward.dtype.type(0)
    for b in range(len(adv)):
        error = reward[b] + (zero if terminated[b] else gamma * next_value[b]) - value[b]
        x = error + (zero if terminated[b] | truncated[b] else gamma_lambda * later[b])
        later[b] = x if valid[b] else zero
        adv[b] = later[b]


@kernel
def vtrace(
    ratio: np.ndarray,
    value: np.ndarray,
    reward: np.ndarray,
    terminated: np.ndarray,
    truncated: np.ndarray,
    valid: np.ndarray,
    gamma: float,
    lambda_: float,
    clips: tuple[float, float, float],
    return_: np.ndarray,
    adv: np.ndarray,
) -> None:
    """Writes ``return_`` and ``adv`` [T, B]; ``value`` has T + 1 rows, ``clips`` are ρ̄, c̄ and that of the policy
    gradient. See :func:`nervex.rl_utils.vtrace.vtrace_returns`."""
    real = reward.dtype.type
    number = real(gamma), real(gamma * lambda_), real(clips[0]), real(clips[1]), real(clips[2])
    later = np.zeros(reward.shape[1], reward.dtype)  # v_{t+1} − V_{t+1}
    for t in range(len(reward) - 1, -1, -1):
        ends = terminated[min(t, len(terminated) - 1)], truncated[min(t, len(truncated) - 1)]
        row = ratio[t], value[t], value[t + 1], reward[t]
        _vtrace_row(row, ends, valid[min(t, len(valid) - 1)], number, later, return_[t], adv[t])


@part
def _vtrace_row(
    row: tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray],
    ends: tuple[np.ndarray, np.ndarray],
    valid: np.ndarray,
    number: tuple[float, float, float, float, float],
    later: np.ndarray,
    return_: np.ndarray,
    adv: np.ndarray,
) -> None:
    (ratio, value, next_value, reward), (terminated, truncated) = row, ends
    gamma, gamma_lambda, rho_clip, c_clip, rho_pg_clip = number
    zero = reward.dtype.type(0)
    for b in range(len(adv)):
        error = reward[b] + (zero if terminated[b] else gamma * next_value[b]) - value[b]
        cut = terminated[b] | truncated[b]
        rho = rho_clip if ratio[b] > rho_clip else ratio[b]
        c = c_clip if ratio[b] > c_clip else ratio[b]
        rho_pg = rho_pg_clip if ratio[b] > rho_pg_clip else ratio[b]
        a = rho_pg * (error + (zero if cut else gamma * later[b]))
        x = rho * error + (zero if cut else gamma_lambda * c * later[b])
        later[b] = x if valid[b] else zero
        adv[b] = a if valid[b] else zero
        return_[b] = value[b] + later[b]


@kernel
def upgo(
    value: np.ndarray,
    reward: np.ndarray,
    terminated: np.ndarray,
    truncated: np.ndarray,
    valid: np.ndarray,
    gamma: float,
    return_: np.ndarray,
) -> None:
    """Writes ``return_`` [T, B]; ``value`` has T + 1 rows. See :func:`nervex.rl_utils.upgo.upgo_returns`."""
    gamma = reward.dtype.type(gamma)
    later = np.zeros(reward.shape[1], reward.dtype)  # G_{t+1} − V_{t+1}, 0 where step t + 1 was worse than its value
    for t in range(len(reward) - 1, -1, -1):
        ends = terminated[min(t, len(terminated) - 1)], truncated[min(t, len(truncated) - 1)]
        row = value[t], value[t + 1], reward[t]
        _upgo_row(row, ends, valid[min(t, len(valid) - 1)], gamma, later, return_[t])


@part
def _upgo_row(
    row: tuple[np.ndarray, np.ndarray, np.ndarray],
    ends: tuple[np.ndarray, np.ndarray],
    valid: np.ndarray,
    gamma: float,
    later: np.ndarray,
    return_: np.ndarray,
) -> None:
    (value, next_value, reward), (terminated, truncated) = row, ends
    zero = reward.dtype.type(0)
    for b in range(len(return_)):
        error = reward[b] + (zero if terminated[b] else gamma * next_value[b]) - value[b]
        x = error + (zero if terminated[b] | truncated[b] else gamma * later[b])
        later[b] = x if valid[b] & (error >= 0) else zero
        return_[b] = value[b] + x if valid[b] else value[b]


@kernel
def lambda_returns(
    next_value: np.ndarray,
    reward: np.ndarray,
    gamma: np.ndarray,
    lambda_: np.ndarray,
    terminated: np.ndarray,
    truncated: np.ndarray,
    valid: np.ndarray,
    return_: np.ndarray,
) -> None:
    """Writes ``return_`` [T, B]; ``gamma`` and ``lambda_`` are [T, B] or [1, B]. See
    :func:`nervex.rl_utils.value_td.multistep_forward_view`."""
    later = np.zeros(reward.shape[1], reward.dtype)  # G_{t+1}
    no_row = np.zeros(reward.shape[1], np.bool_)
    for t in range(len(reward) - 1, -1, -1):
        ends = terminated[min(t, len(terminated) - 1)], truncated[min(t, len(truncated) - 1)]
        next_valid = valid[min(t + 1, len(valid) - 1)] if t + 1 < len(reward) else no_row
        here = valid[min(t, len(valid) - 1)], next_valid
        number = gamma[min(t, len(gamma) - 1)], lambda_[min(t, len(lambda_) - 1)]
        _lambda_row(next_value[t], reward[t], number, ends, here, later, return_[t])


@part
def _lambda_row(
    next_value: np.ndarray,
    reward: np.ndarray,
    number: tuple[np.ndarray, np.ndarray],
    ends: tuple[np.ndarray, np.ndarray],
    here: tuple[np.ndarray, np.ndarray],
    later: np.ndarray,
    return_: np.ndarray,
) -> None:
    (gamma, lambda_), (terminated, truncated), (valid, next_valid) = number, ends, here
    zero, one = reward.dtype.type(0), reward.dtype.type(1)
    for b in range(len(return_)):
        cut = terminated[b] | truncated[b] | (not next_valid[b])
        mix = zero if cut else lambda_[b]
        fixed = reward[b] + (zero if terminated[b] else gamma[b] * (one - mix) * next_value[b])
        x = fixed + (zero if cut else gamma[b] * mix * later[b])
        later[b] = x if valid[b] else zero
        return_[b] = later[b]


@kernel
def nstep_returns(
    reward: np.ndarray, terminated: np.ndarray, trainable: np.ndarray, gamma: float, nstep: int, return_: np.ndarray
) -> None:
    """Turns the values in ``return_`` [T, B] into n-step returns where ``trainable`` bool [T, B]. See
    :func:`nervex.rl_utils.sequence_td.nstep_sequence_target`."""
    gamma = reward.dtype.type(gamma)
    nothing = np.zeros(reward.shape[1], reward.dtype)
    for _ in range(nstep):  # each turn adds one step; row t reads row t + 1 before that one gets it
        for t in range(len(reward)):
            after = return_[t + 1] if t + 1 < len(reward) else nothing
            _nstep_row(reward[t], terminated[min(t, len(terminated) - 1)], trainable[t], gamma, after, return_[t])


@part
def _nstep_row(
    reward: np.ndarray,
    terminated: np.ndarray,
    trainable: np.ndarray,
    gamma: float,
    after: np.ndarray,
    return_: np.ndarray,
) -> None:
    zero = reward.dtype.type(0)
    for b in range(len(return_)):
        x = reward[b] + (zero if terminated[b] else gamma * after[b])
        return_[b] = x if trainable[b] else return_[b]
