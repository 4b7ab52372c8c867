"""The quickstart of the tutorial: DQN on CartPole, put together by hand."""
