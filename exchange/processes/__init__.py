"""What each process is made of: the only place that makes pools and clients.

``gateway``, ``matcher``, ``projector``: a file for each process, which imports what that one
needs and no more. A matcher that is started again decides orders a second sooner if it has not
read the gateway's modules before. ``running``, ``pool`` and ``descriptors`` are what they
share.
"""
