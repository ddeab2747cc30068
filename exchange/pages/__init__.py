"""What people look at in a browser: plain HTML, CSS and ES modules, without a build step.

Read ``site`` (which pages there are, and what each may do), then ``files`` (where their files are
and what is checked) and ``routes`` (how they are served). A page is a folder: ``market/``; what
pages have in common is in ``shared/``. In each, ``main.js`` is the place to begin: connection, then
state (plain data, folded by pure functions), then views.
"""
