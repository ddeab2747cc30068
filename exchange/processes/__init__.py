"""What each process is made of: the only place that makes pools and clients.

``gateway``, ``matcher``, ``projector``, ``builder``, ``publisher``, ``analyst``: a file for each
process, which imports only what its process needs. A restarted matcher decides orders a second
sooner for not importing the gateway's modules. ``running``, ``pool``, ``descriptors``,
``budgets``, ``door`` and ``backends`` are what they share.
"""
