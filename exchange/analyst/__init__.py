"""The analysts' process: what every query answered at a moment, over the paths of the gateway.

``answers`` has one function for each query, and makes the same views as the gateway's. ``asking``
finds the moment that is asked for, and bounds how many questions are under way. ``events`` reads
the log's events in order. ``event_pages`` tells them in pages and ``event_lines`` as lines;
``event_log`` is what both share. ``app`` has the routes, ``status`` those for operators. ``states``
keeps the states of folds close enough for answers to take less than a second.
"""
