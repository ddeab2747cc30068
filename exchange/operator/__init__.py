"""The operators' desk: a page that shows the whole exchange, and changes read models if allowed.

A process and port of its own, never a route of the public gateway: it shows everything. In reading
order: ``app`` (the routes), ``guard`` (who may ask for what), ``watching`` (the state, looked at
once for all pages), ``trends`` and ``takeovers`` (what was before), ``commits`` (what matchers
count), ``changing`` (changes of read models, and what they cost) and ``comparing`` (a comparison
with the log), ``accounts`` (clients and their keys), ``log`` (questions about parts of the log),
``past`` (what the analysts' process answers), ``process`` (how it is put together). What is shown
is what ``exchange status`` tells, and a change is what its command does: both are in
``exchange/tools``.
"""
