"""Every code block of the tutorial's quickstart chapter runs and does what the chapter says, in numbers."""

import copy

import pytest
import torch
import tutorial_quickstart as chapter
from easydict import EasyDict

from nervex.agent import Agent

#: q(s) = (s0, s1) and, of the target network, twice as much
BATCH = {
    "obs": torch.tensor([[1.0, 2.0, 0.0, 0.0], [3.0, 4.0, 0.0, 0.0]]),
    "next_obs": torch.tensor([[5.0, 6.0, 0.0, 0.0], [7.0, 8.0, 0.0, 0.0]]),
    "action": torch.tensor([0, 1]),
    "reward": torch.tensor([1.0, 1.0]),
    "done": torch.tensor([False, True]),
}


def known_agent(is_double):
    model = chapter.FCDQN(4, 2, hidden_dim_list=[])
    with torch.no_grad():
        model.pred.weight.copy_(torch.eye(2, 4))
        model.pred.bias.zero_()
    agent = chapter.create_dqn_learner_agent(model, is_double=is_double)
    if is_double:
        agent.target_update({k: 2 * v for k, v in agent.state_dict()["model"].items()}, direct=True)
        agent.target_reset()  # counts calls anew
    return agent


def test_the_env_and_the_network():
    assert (chapter.obs_shape, chapter.act_shape) == (4, 2)
    logit = chapter.model({"obs": torch.zeros(3, 4)})["logit"]
    assert logit.shape == (3, 2)
    assert [layer.out_features for layer in chapter.model.main if hasattr(layer, "out_features")] == [128, 256, 256]


def test_the_env_manager_plays_two_episodes_in_each_of_four_envs():
    manager = chapter.env_manager
    manager.seed(0)
    manager.launch()
    try:
        ended = dict.fromkeys(range(4), 0)
        while not manager.done:
            obs = manager.next_obs
            action = chapter.actor_agent.forward(torch.stack(list(obs.values())), eps=0.5)["action"]
            for env_id, timestep in manager.step(dict(zip(obs, action, strict=True))).items():
                ended[env_id] += timestep.done
    finally:
        manager.close()
    assert ended == dict.fromkeys(range(4), 2)


def test_the_three_agents_share_one_network_and_act_in_their_ways():
    obs = torch.randn(1000, 4, generator=torch.Generator().manual_seed(0))
    learner, actor, evaluator = chapter.learner_agent, chapter.actor_agent, chapter.evaluator_agent
    assert all(isinstance(a, Agent) and a.model is chapter.model for a in (learner, actor, evaluator))
    assert learner.is_double
    best = chapter.model({"obs": obs})["logit"].argmax(dim=1)
    assert torch.equal(evaluator.forward(obs)["action"], best)
    assert torch.equal(actor.forward(obs, eps=0.0)["action"], best)
    torch.manual_seed(0)
    share = (actor.forward(obs, eps=0.5)["action"] == best).float().mean()
    assert 0.70 < share < 0.80  # 1 - eps / 2: exploring is uniform over the two actions
    assert learner.forward(obs)["logit"].requires_grad
    for output in (actor.forward(obs, eps=0.0), evaluator.forward(obs), learner.target_forward(obs)):
        assert not output["logit"].requires_grad


@pytest.mark.parametrize(
    ("is_double", "weights", "loss"),
    # rows: target 1 + 0.9·max(5, 6) = 6.4 (of the target network 1 + 0.9·12 = 11.8) for q = 1, and 1 for q = 4
    [
        (False, None, (5.4**2 + 3**2) / 2),
        (True, None, (10.8**2 + 3**2) / 2),
        (True, [0.5, 2.0], (0.5 * 10.8**2 + 2 * 3**2) / 2),
    ],
)
def test_the_loss_of_the_graph(is_double, weights, loss):
    graph = chapter.CartPoleDqnGraph(chapter.cfg.learner)
    agent = known_agent(is_double)
    data = {**BATCH, **({} if weights is None else {"weights": torch.tensor(weights)})}
    output = graph(data, agent)
    assert output.keys() == {"total_loss"}
    assert output["total_loss"].item() == pytest.approx(loss, rel=1e-6)
    output["total_loss"].backward()
    w0, w1 = weights or (1.0, 1.0)
    row0 = w0 * (1 - (11.8 if is_double else 6.4)) * BATCH["obs"][0]
    row1 = w1 * (4 - 1) * BATCH["obs"][1]
    torch.testing.assert_close(agent.model.pred.weight.grad, torch.stack([row0, row1]))


def test_the_target_network_follows_every_hundredth_iteration():
    graph, agent = chapter.CartPoleDqnGraph(chapter.cfg.learner), known_agent(True)
    q = [agent.target_forward(BATCH["obs"])["logit"].clone()]
    for _ in range(100):
        graph(BATCH, agent)
        q.append(agent.target_forward(BATCH["obs"])["logit"].clone())
    assert all(torch.equal(one, 2 * BATCH["obs"][:, :2]) for one in q[:100])
    assert torch.equal(q[100], BATCH["obs"][:, :2])


def test_the_learner_learns():
    torch.manual_seed(0)
    cfg = copy.deepcopy(chapter.cfg)
    learner = chapter.CartPoleDqnLearner(cfg)
    assert learner.name == "CartPoleDqnLearner" and cfg == chapter.cfg
    first = [p.clone() for p in learner.agent.model.parameters()]
    losses = [float(learner.train(BATCH)["total_loss"]) for _ in range(60)]
    assert learner.last_iter.val == 60
    assert losses[-1] < 0.01 * losses[0]
    assert all(not torch.equal(a, b) for a, b in zip(first, learner.agent.model.parameters(), strict=True))


def test_the_buffer():
    assert chapter.buffer_.count == 10 and len(chapter.buffer_) == 10
    assert chapter.data == [{"data": "placeholder"}] * 4


def test_the_configuration_may_be_plain_too():
    learner = chapter.CartPoleDqnLearner(EasyDict(chapter.cfg))
    plain = chapter.CartPoleDqnLearner({"env": {}, "learner": {"dqn": dict(chapter.cfg.learner.dqn)}})
    assert plain._cfg == learner._cfg and plain._cfg.learner.use_cuda is False
