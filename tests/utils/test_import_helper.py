import logging
import sys
import types
from pathlib import Path

import pytest

from nervex.utils import import_module, import_names, try_import_mc
from nervex.utils.errors import ConfigError
from nervex.utils.import_helper import import_object


def test_import_module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "plug_in_one.py").write_text("import plug_in_log\nplug_in_log.done.append(1)\n")
    (tmp_path / "plug_in_two.py").write_text("import plug_in_log\nplug_in_log.done.append(2)\n")
    (tmp_path / "broken_plug_in.py").write_text("1 / 0\n")
    log = types.ModuleType("plug_in_log")
    log.done = []  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "plug_in_log", log)
    monkeypatch.syspath_prepend(tmp_path)
    import_module(["plug_in_two", str(tmp_path / "plug_in_one.py")])
    assert log.done == [2, 1]  # type: ignore[attr-defined]
    (one,) = import_names([str(tmp_path / "plug_in_one.py")], "policy.import_names")
    assert one.__file__ == str(tmp_path / "plug_in_one.py")
    assert import_object("plug_in_log:done", "env.wrappers[0]") is log.done  # type: ignore[attr-defined]
    with pytest.raises(ConfigError, match=r"env\.wrappers\[0\]: plug_in_log has no 'dane'; did you mean 'done'\?"):
        import_object("plug_in_log:dane", "env.wrappers[0]")
    with pytest.raises(ConfigError, match="import_module: cannot import 'broken_plug_in': ZeroDivisionError"):
        import_module(["broken_plug_in"])
    with pytest.raises(ConfigError, match=r"got the text 'json'; expected a list of names, \['json'\]"):
        import_module("json")


def test_try_import_mc(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    monkeypatch.setitem(sys.modules, "mc", None)
    with caplog.at_level(logging.WARNING, "nervex"):
        assert try_import_mc() is None and "no memory cache client (module mc)" in caplog.text
    monkeypatch.setitem(sys.modules, "mc", client := types.ModuleType("mc"))
    assert try_import_mc() is client
