"""What each process is made of: the only place that makes pools and clients.

A module for each process, which imports what that one needs and no more: a matcher that is
started again decides orders a second sooner if it has not read the gateway's modules before.
``running`` and ``pool`` are what they share.
"""
