"""What people run against an exchange from outside.

``command`` has their options, ``terminal`` what they share, ``moments`` which moment is meant,
``telling`` how far long work is.
``market`` is for traders: clients only, over HTTP and the stream. ``operators`` is for those who
run the exchange; its tools reach the stores too, and so do those of ``projections``, which rebuild
read models. ``analysts`` is for those who study the log.
"""
