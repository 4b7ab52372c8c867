"""Probes of arrays that two sides hold: observations that change later, actions that the env changes or keeps."""

import copy
from typing import Any

from nervex.envs.doctor.finding import WARNING, Broken, Findings
from nervex.envs.doctor.play import difference, equal
from nervex.envs.doctor.trial import SEEDS, Trial


def aliased_obs(trial: Trial) -> None:
    """An observation that was handed out stays as it was."""
    for number, episode in enumerate(trial.episodes):
        for t, (then, now) in enumerate(zip(episode.obs, episode.sent, strict=True)):
            if not equal(then, now):
                trial.findings.add(
                    WARNING,
                    "obs-alias",
                    f"the observation of episode {number}, step {t} was changed by "
                    "a later call: the env hands out its own array (nerveX copies at once; a list of "
                    "observations would hold the last one only)",
                    "return a copy (obs.copy())",
                )
                return


def aliased_inside(trial: Trial) -> None:
    """Nor does one that the wrappers around the env have received."""
    with trial.fresh() as subject:
        if subject.bare is subject.env:
            return
        received: list[tuple[Any, Any]] = []
        inner = subject.bare.step

        def watched(action: Any) -> Any:
            result = inner(action)
            received.append((result[0], copy.deepcopy(result[0])))
            return result

        try:
            subject.bare.step = watched
        except AttributeError:  # an env with slots cannot be watched
            return
        trial.plays(subject, SEEDS[:1])
    changed = [t for t, (now, then) in enumerate(received, 1) if not equal(now, then)]
    if changed and "obs-alias" not in trial.findings:
        trial.findings.add(
            WARNING,
            "obs-alias",
            f"under its wrappers the env hands out its own array: the observation of step {changed[0]} was changed by "
            "a later call, so that a wrapper that keeps observations (FrameStackObservation) holds the newest one "
            "several times",
            "return a copy (obs.copy())",
        )


def changed_action(trial: Trial) -> None:
    """The env leaves the action that it is given as it is."""
    for number, episode in enumerate(trial.episodes):
        for t, (sent, given) in enumerate(episode.actions):
            if not equal(sent, given):
                trial.findings.add(
                    WARNING,
                    "action-changed",
                    f"step {t + 1} of episode {number} changed the action "
                    f"array that it was given, from {sent} to {given}",
                    "work on a copy (action = np.array(action))",
                )
                return


def scribbled(trial: Trial) -> None:
    """Whoever overwrites an observation or an action after the step does not change the episode."""
    if "same-seed" in trial.findings:
        return
    with trial.fresh() as subject:
        plain = trial.plays(subject, SEEDS[:2])
    for what, fix in (("obs", "return a copy (obs.copy())"), ("action", "copy the action before keeping it")):
        with trial.fresh() as subject:
            subject.findings = Findings()  # what an env does with a state that was overwritten is no news
            try:
                other = trial.plays(subject, SEEDS[:2], scribble=what)
                diffs = [diff for a, b in zip(plain, other, strict=True) if (diff := difference(a, b)) is not None]
            except Broken:
                diffs = ["next step, which raises"]
        if diffs:
            name = "observation" if what == "obs" else "action"
            trial.findings.add(
                WARNING,
                f"{what}-kept",
                f"the env keeps the {name} array and reads it later: overwriting "
                f"it after the step changes the {diffs[0]}",
                fix,
            )
