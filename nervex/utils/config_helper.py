"""YAML files to EasyDict and back, and merging of nested dicts. No schema: see ``nervex.config``."""

import os
from collections.abc import Collection, Mapping, MutableMapping
from copy import deepcopy
from pathlib import Path
from typing import Any

import yaml
from easydict import EasyDict

from nervex.utils.errors import ConfigError, did_you_mean
from nervex.utils.yaml_reader import SCALAR_RESOLVERS, read_yaml, to_plain


def read_config(path: str | os.PathLike[str]) -> EasyDict:
    """Reads a YAML file by the strict rules of ``nervex.utils.yaml_reader``.

    Raises:
        ConfigError: whatever is wrong with the file, with its name and line.
    """
    return EasyDict(read_yaml(path).data)


def save_config(cfg: Mapping[str, Any], path: str | os.PathLike[str]) -> None:
    """Writes a configuration as YAML, keys in their order, so that ``read_config(path) == cfg``.

    Args:
        cfg: nested mapping of numbers, strings, booleans, None, lists (tuples come back as lists).
        path: the file, replaced if there.

    Raises:
        ConfigError: ``cfg`` holds something else, or the file cannot be written.
    """
    path = Path(path)
    text = yaml.dump(
        to_plain(cfg, "the configuration"), Dumper=_Dumper, sort_keys=False, allow_unicode=True, width=float("inf")
    )
    try:
        path.write_text(text, encoding="utf-8")
    except OSError as e:
        raise ConfigError(f"cannot write {path}: {e.strerror or e}") from e


def deep_merge_dicts(original: Mapping[str, Any] | None, new: Mapping[str, Any] | None) -> dict[str, Any]:
    """Returns a new dict: ``original``, with the values of ``new`` put over it, mapping by mapping.

    Neither argument is changed or aliased. The result is of the type of ``original`` (EasyDict stays EasyDict).
    """
    copied = deepcopy({} if original is None else original)
    merged = copied if isinstance(copied, dict) else dict(copied)
    deep_update(merged, new or {}, new_keys_allowed=True)
    return merged


def deep_update(
    original: MutableMapping[str, Any],
    new_dict: Mapping[str, Any],
    new_keys_allowed: bool = False,
    whitelist: Collection[str] | None = None,
    override_all_if_type_changes: Collection[str] | None = None,
) -> MutableMapping[str, Any]:
    """Updates ``original`` in place, mapping by mapping, and returns it.

    Args:
        original: is changed.
        new_dict: what to put over it; copied, never aliased.
        new_keys_allowed: whether keys that ``original`` lacks are added.
        whitelist: top-level keys below which new keys are allowed in any case.
        override_all_if_type_changes: top-level keys whose mapping is replaced as a whole when its ``type`` differs.

    Raises:
        ConfigError: a new key that is not allowed; ``original`` is then unchanged.
    """
    update = deepcopy(new_dict)
    _check_new_keys(original, update, new_keys_allowed, whitelist or (), replaceable=override_all_if_type_changes or ())
    _put_over(original, update, override_all_if_type_changes or ())
    return original


def flatten_dict(d: Mapping[str, Any], delimiter: str = "/") -> dict[str, Any]:
    """Returns a flat dict: ``{'a': {'b': 1}}`` is ``{'a/b': 1}``. Lists and empty mappings are values."""
    flat: dict[str, Any] = {}
    for key, value in d.items():
        if isinstance(value, Mapping) and value:
            flat.update({f"{key}{delimiter}{sub}": v for sub, v in flatten_dict(value, delimiter).items()})
        else:
            flat[key] = value
    return flat


def _replaces_all(held: Any, value: Any) -> bool:
    return "type" in value and value["type"] != held.get("type")


def _check_new_keys(
    original: Mapping[str, Any],
    new_dict: Mapping[str, Any],
    allowed: bool,
    whitelist: Collection[str],
    *,
    replaceable: Collection[str] = (),
    path: str = "",
) -> None:
    for key, value in new_dict.items():
        if key not in original:
            if not allowed:
                raise ConfigError(f"unknown key '{path}{key}'{did_you_mean(key, original)}")
            continue
        held = original[key]
        if not isinstance(held, Mapping) or not isinstance(value, Mapping):
            continue
        if key in replaceable and _replaces_all(held, value):
            continue
        _check_new_keys(held, value, allowed or key in whitelist, (), path=f"{path}{key}.")


def _put_over(original: MutableMapping[str, Any], new_dict: Mapping[str, Any], replaceable: Collection[str]) -> None:
    for key, value in new_dict.items():
        held = original.get(key)
        both = isinstance(held, MutableMapping) and isinstance(value, Mapping)
        if both and not (key in replaceable and _replaces_all(held, value)):
            _put_over(held, value, ())  # type: ignore[arg-type]
        else:
            original[key] = value


class _Dumper(yaml.SafeDumper):
    """Quotes every string that YAML 1.1 or our reader would take for something else; writes no aliases."""

    def ignore_aliases(self, data: Any) -> bool:
        return True


def _represent_str(dumper: _Dumper, text: str) -> yaml.ScalarNode:
    # Only double quotes carry control characters, line breaks and leading byte order marks unharmed.
    return dumper.represent_scalar("tag:yaml.org,2002:str", text, style=None if text.isprintable() else '"')


for _resolver in SCALAR_RESOLVERS:
    _Dumper.add_implicit_resolver(*_resolver)
_Dumper.add_representer(str, _represent_str)
