"""The operators' desk: a page that shows the whole exchange.

A process and port of its own, never a route of the public gateway: it has no login. In reading
order: ``app`` (the routes), ``guard`` (who may ask for what), ``watching`` (the state, looked at
once for all pages), ``trends`` and ``takeovers`` (what was before), ``chain`` (is a part of the log
as it was written), ``past`` (what the analysts' process answers), ``process`` (how it is put
together). What is shown is what ``exchange status`` tells (``exchange/tools/projections``).
"""
