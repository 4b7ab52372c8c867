import pytest
from actor_fakes import MANAGERS, make_actor, make_manager


@pytest.fixture
def managed():
    """Builds actors, with a manager or the name of one, and closes their envs."""
    actors = []

    def build(manager="base", policy=None, **cfg):
        if isinstance(manager, str):
            manager = make_manager(**MANAGERS[manager])
        actor, policy = make_actor(manager, policy, **cfg)
        actors.append(actor)
        return actor, policy

    yield build
    for actor in actors:
        actor.close()
