"""For those who run the exchange.

``status`` (as a gateway sees it), ``verification`` (of the log), ``claims`` (rebuilt from the log),
``quarantine`` (retry a command that crashed the matcher), ``open_orders`` (how many a client may
have), ``accounts`` (created, suspended, resumed), ``keys`` (issued, rotated, revoked), ``commands``
(how these are sent), ``snapshots`` (taken now), ``adopt_topic`` (go on with a topic that was cut or
recreated) and ``adoption`` (how that is done). ``backups`` are taken, restored, and relied on when
Kafka's old records are deleted. ``republish`` publishes the log again.
"""
