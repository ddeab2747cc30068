"""For those who study the log.

``commands`` says what each may be told. ``export`` writes the log to files, and proves such a
folder. ``schemas`` writes what published events look like. ``proof`` proves that one event is in
the log. ``statement`` is what a client holds, did and owes, and ``statement_page`` how it is told.
``at_page`` tells what the API answered at a moment, and ``differences`` what changed between two.
``role`` makes a role of the database that reads the views for analysts. ``replay_page`` prints the
events of the log in order, and ``serving`` tells them over a stream as if they happened now.
"""
