"""The limit of nerveX's own run, as ``nervex profile`` measures it: the bare env, and the bare products of acting and
learning in the precision of the run."""

from driver import emit, settings
from nervex_train import PACKAGES, UNSEEN, overrides

from nervex.config.source import apply_overrides, read_source
from nervex.entry.catalog import find_config
from nervex.entry.profile import profile_config

given = settings()
words = [*overrides(given), *UNSEEN, f"seed={given['seed']}", "max_env_step=1000000000"]
profile = profile_config(apply_overrides(read_source(find_config(given["config"])), words), given["steps"])
limit = (profile.limit.wall_ms["total"] / 1e3, profile.limit.cpu_ms["total"] / 1e3)
steps_of_unit = profile.env_step / profile.update if given["count"] == "update" else 1.0
emit(given, given["count"], 1.0, (limit[0] * steps_of_unit, limit[1] * steps_of_unit), *PACKAGES,
     profile=profile.as_dict())  # fmt: skip
