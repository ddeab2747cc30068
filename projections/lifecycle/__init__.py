"""The lives of generations: several of a read model may exist side by side, and one is live.

In reading order: ``generations`` (what they are, and the states), ``changes`` (every change of a
state), ``skips`` (events that a definition passes over), ``definitions`` (which code keeps up which
generation), ``retiring`` (what is left of a retired one).
"""
