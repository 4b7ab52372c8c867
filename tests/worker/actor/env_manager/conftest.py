"""What the tests of the env managers share."""

import pytest

from nervex.worker.actor.env_manager.registry import create_env_manager


@pytest.fixture(params=("base", "sync_subprocess", "subprocess"))
def make(request):
    """Builds managers of one kind; the asynchronous one waits for all lanes, so that it goes in step here."""
    made = []

    def build(env_fn, configs, **options):
        if request.param == "subprocess":
            options = {"wait_num": len(configs), **options}
        manager = create_env_manager(request.param, env_fn, configs, **options)
        made.append(manager)
        return manager

    build.kind = request.param
    yield build
    for manager in made:
        manager.close()
