"""What the tests of the env managers share."""

import pytest

from nervex.worker.actor.env_manager.registry import create_env_manager


@pytest.fixture(params=("base", "sync_subprocess", "shared worker", "subprocess"))
def make(request):
    """Builds managers of one kind; the asynchronous one waits for all lanes, so that it goes in step here."""
    made = []
    kind = "sync_subprocess" if request.param == "shared worker" else request.param

    def build(env_fn, configs, **options):
        if kind == "subprocess":
            options = {"wait_num": len(configs), **options}
        if kind == "sync_subprocess":
            options = {"worker_num": 1 if request.param == "shared worker" else len(configs), **options}
        manager = create_env_manager(kind, env_fn, configs, **options)
        made.append(manager)
        return manager

    build.kind = kind
    yield build
    for manager in made:
        manager.close()
