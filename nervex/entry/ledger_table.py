"""Tables of the ledger, in Markdown."""

import re
from collections.abc import Sequence
from pathlib import Path
from statistics import median

import numpy as np

from nervex.entry.ledger import Record, by_peer, differences, hashed_keys
from nervex.utils.errors import RunFolderError
from nervex.utils.files import atomic_write_text, write_failure
from nervex.utils.statistics import bootstrap_interval, difference_interval, iqm

START, END = "<!-- ledger:start -->", "<!-- ledger:end -->"
_SUMMARY = ["", "seeds", "final return, IQM [95 %]", "best, IQM", "solved", "env steps", "wall s", "CPU s",
            "CPU ms per env step"]  # fmt: skip
_SEEDS = ["", "seed", "final return", "best (at env step)", "solved at env step", "env steps", "wall s", "CPU s"]
_PEERS = ["compared with", "ours − peer [95 %]", "in % of the peer [95 %]"]
_LEGEND = (
    "Final: the last weights at the full budget, over fresh episodes; best: the best evaluation of a run, chosen "
    "afterwards. IQM: interquartile mean over seeds; [95 %]: stratified bootstrap interval (Agarwal et al. 2021, "
    "https://arxiv.org/abs/2108.13264). Solved: an evaluation at the bar, confirmed by fresh episodes. Seconds: "
    "medians, of training with its evaluations, without the final one."
)


def recipe_table(records: Sequence[Record]) -> str:
    """Returns the page of one recipe: summary, comparison with peers, each seed.

    Args:
        records: of one recipe, at least one.
    """
    first, groups = records[0], by_peer(records)
    bar = "" if all(r.bar is None for r in records) else f", bar {_bar(records):g}"
    command = " ".join(["nervex bench learn", first.name, *first.overrides])
    made = "" if first.peer else f" Made by `{command}`."
    parts = [
        f"# {first.name}",
        f"{first.env}{bar}.{made}",
        _table(_SUMMARY, _summary_rows(first.name, groups)),
    ]
    comparison = _comparison_rows(groups)
    if comparison:
        parts.append(_table(_PEERS, comparison))
    parts += _remarks(records)
    parts.append(_table(_SEEDS, [_seed_row(r) for group in groups.values() for r in group]))
    sources = {r.peer: r.source for r in records if r.source}
    parts += [f"- {peer}: {source}." for peer, source in sources.items()]
    return "\n\n".join([*parts, _LEGEND]) + "\n"


def all_table(ledger: Sequence[Sequence[Record]]) -> str:
    """Returns the section of all recipes.

    Args:
        ledger: the records of each recipe, at least one each.
    """
    rows, comparison = [], []
    for records in ledger:
        name, groups = records[0].name, by_peer(records)
        rows += [[f"[{name}](ledger/{name}/table.md)", *row] for row in _summary_rows("nerveX", groups)]
        comparison += [[name, *row] for row in _comparison_rows(groups)]
    parts = [_table(["", *_SUMMARY], rows)]
    if comparison:
        parts.append(_table(["", *_PEERS], comparison))
    return "\n\n".join([*parts, _LEGEND])


def put_section(path: Path, text: str) -> None:
    """Replaces what stands between the markers ``<!-- ledger:start -->`` and ``<!-- ledger:end -->`` of a page.

    Raises:
        RunFolderError: the page is not there, has no such place, or cannot be written.
    """
    try:
        page = path.read_text(encoding="utf-8")
    except OSError as error:
        raise RunFolderError(f"cannot read {path}: {error.strerror}; give another --readme") from error
    if not re.search(f"{START}.*{END}", page, re.DOTALL):
        raise RunFolderError(f"{path} has no lines {START} and {END}; put them where the tables are to stand")
    page = re.sub(f"{START}.*{END}", lambda _: f"{START}\n{text}\n{END}", page, flags=re.DOTALL)
    write_page(path, page)


def write_page(path: Path, text: str) -> None:
    """Writes a page, whole or not at all.

    Raises:
        RunFolderError: it cannot be written.
    """
    try:
        atomic_write_text(path, text)
    except OSError as error:
        raise RunFolderError(write_failure(path, len(text.encode()), error)) from error


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    return "\n".join("| " + " | ".join(line) + " |" for line in (head, ["---"] * len(head), *rows))


def _summary_rows(name: str, groups: dict[str, list[Record]]) -> list[list[str]]:
    return [_summary_row(peer or name, group) for peer, group in groups.items()]


def _summary_row(name: str, group: Sequence[Record]) -> list[str]:
    steps = sorted(r.solved_env_step for r in group if r.solved_env_step is not None)
    solved = "" if all(r.bar is None for r in group) else f"{len(steps)} of {len(group)}"
    offline = group[0].offline
    if steps:
        solved += f", median at {int(median(steps)):,}" + (" iterations" if offline else "")
    step, cpu = median(r.env_step for r in group), median(r.cpu_s for r in group)
    made = f"0 ({int(median(r.train_iter for r in group)):,} iterations)" if offline else f"{int(step):,}"
    return [
        name, str(len(group)), interval(_final(group)),
        number(float(iqm(_best(group)))), solved,
        made, f"{median(r.wall_s for r in group):,.0f}", f"{cpu:,.0f}",
        "" if offline else f"{1e3 * cpu / max(step, 1):.2f}",
    ]  # fmt: skip


def _comparison_rows(groups: dict[str, list[Record]]) -> list[list[str]]:
    ours = groups.get("")
    if ours is None:
        return []
    rows = []
    for peer, group in groups.items():
        if not peer:
            continue
        difference = difference_interval(_final(ours), _final(group))
        scale = abs(float(iqm(_final(group)))) / 100
        percent = "{:+.1f} % [{:+.1f} %, {:+.1f} %]".format(*(x / scale for x in difference)) if scale else ""
        rows.append([peer, "{} [{}, {}]".format(*map(number, difference)), percent])
    return rows


def _remarks(records: Sequence[Record]) -> list[str]:
    """What a reader must know of records that differ in more than their seed."""
    found = []
    for peer, group in by_peer(records).items():
        kinds: list[Record] = []
        for record in group:
            if not any(_is_same(record, kind) for kind in kinds):
                kinds.append(record)
        if len(kinds) > 1:
            found.append(f"**{peer or 'Ours'}: seeds of {len(kinds)} different configurations.**")
    dirty = [r.seed for r in records if any(s.get("dirty") for s in r.sessions)]
    if dirty:
        found.append(f"Made with code that differs from its commit: seed {', '.join(map(str, dirty))}.")
    return found


def _is_same(a: Record, b: Record) -> bool:
    """Whether two seeds are of one configuration; keys that a later version added do not count."""
    old, new = sorted((a, b), key=lambda record: len(hashed_keys(record.config)))
    return not differences(old.config, new.config)


def _seed_row(record: Record) -> list[str]:
    solved = "" if record.bar is None else "never" if record.solved_env_step is None else f"{record.solved_env_step:,}"
    final, best = record.final, record.best
    return [
        record.peer or record.name, str(record.seed),
        f"{number(final.return_mean)} over {final.episodes}",
        f"{number(best.return_mean)} ({best.env_step:,})", solved, f"{record.env_step:,}",
        f"{record.wall_s:,.0f}", f"{record.cpu_s:,.0f}",
    ]  # fmt: skip


def _bar(records: Sequence[Record]) -> float:
    return next(r.bar for r in records if r.bar is not None)


def _final(group: Sequence[Record]) -> np.ndarray:
    return np.array([r.final.return_mean for r in group])


def _best(group: Sequence[Record]) -> np.ndarray:
    return np.array([r.best.return_mean for r in group])


def interval(score: Sequence[float] | np.ndarray) -> str:
    """Returns the interquartile mean of scores ``[N]``, and its 95 % bootstrap interval if there are several."""
    found = bootstrap_interval(np.asarray(score))
    ends = f" [{number(found.low)}, {number(found.high)}]" if len(score) > 1 else ""
    return number(found.value) + ends


def number(value: float) -> str:
    """Returns a return with about four significant digits."""
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.1f}" if abs(value) >= 10 else f"{value:.3g}"
