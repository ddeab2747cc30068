"""How any request is read and answered, whatever it is about.

In reading order: ``declaration`` (what an endpoint says of itself), ``parameters``,
``requests`` (bytes to validated input), ``amounts`` (decimals to integers and back, exactly),
``responses``, ``problems`` (every error that a client can see), ``callers`` (what belongs to whom),
``addresses`` (the client's address), ``analyst`` (how the process that answers about the past is
asked).
"""
