"""The lives of generations: several of a read model may exist side by side, and one is live.

In reading order: ``generations`` (what they are, and the states), ``definitions`` (which code keeps
up which generation), ``changes`` (every change of a state), ``operations`` (those that were made),
``switching`` (the one that readers see), ``skips`` (events that a definition passes over),
``retiring`` (what is left of a retired one).
"""
