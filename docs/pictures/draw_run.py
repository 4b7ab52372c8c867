"""Draws what a run shows on a terminal: ``python docs/pictures/draw_run.py RUN_DIR`` writes images/run.svg and
images/run_curve.png.

The pictures of the pages are of ``nervex train cartpole_dqn --seed 0 --run-dir RUN_DIR``.
"""

import io
import json
import re
import shutil
import sys
from pathlib import Path

from rich._export_format import CONSOLE_SVG_FORMAT
from rich.console import Console
from rich.text import Text

from nervex.utils import read_config
from nervex.worker.monitor import Budgets, RunFolder, read_metrics
from nervex.worker.monitor.progress_view import Facts, panel

IMAGES = Path(__file__).resolve().parent.parent / "images"
COLUMNS = 88
FONTS = "ui-monospace, SFMono-Regular, Menlo, Consolas, 'DejaVu Sans Mono', monospace"


def last_panel(run: RunFolder) -> Facts:
    """Returns what the panel showed at the end of a run."""
    config = read_config(str(run.config_path))
    rows = read_metrics(run.metrics_path)
    values = {key: value for row in rows for key, value in row.items() if isinstance(value, int | float)}
    budgets = Budgets(config.max_env_step, config.max_train_iter, config.max_wall_s)
    return Facts(
        int(values["env_step"]), int(values["train_iter"]), values, values["time/wall_s"], budgets,
        config.evaluator.stop_val,
    )  # fmt: skip


def draw(run_dir: str) -> None:
    run = RunFolder.open(run_dir)
    result = json.loads(run.result_path.read_text(encoding="utf-8"))
    command = f"nervex train {read_config(str(run.config_path)).common.name} --seed {result['seed']}"
    console = Console(record=True, width=COLUMNS, file=io.StringIO(), force_terminal=True, highlight=False)
    console.print(Text.assemble(("$ ", "green"), command))
    console.print(panel(last_panel(run), command.split()[2] + f" seed {result['seed']}", COLUMNS))
    console.print(
        f"solved: return {result['best_eval_return']:.2f} over {result['last_eval_episode']} episodes"
        f" after {result['env_step']:,} env steps, {result['train_iter']:,} iterations, {result['wall_s']:.1f} s"
    )
    # without the fonts that Rich would fetch from elsewhere
    template = re.sub(r"@font-face \{\{.*?\}\}\s*", "", CONSOLE_SVG_FORMAT, flags=re.DOTALL)
    svg = console.export_svg(
        title="nerveX", code_format=template.replace("Fira Code, monospace", FONTS), unique_id="run"
    )
    IMAGES.mkdir(exist_ok=True)
    (IMAGES / "run.svg").write_text(svg, encoding="utf-8")
    shutil.copyfile(run.curve_path, IMAGES / "run_curve.png")


if __name__ == "__main__":
    draw(sys.argv[1])
