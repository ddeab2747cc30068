"""The interface, described for programs and people from the types that the handlers use.

In reading order: ``schemas`` (types to JSON Schema), ``openapi``, ``asyncapi``, ``requests_file``
(requests for an editor) and ``endpoints`` (which serve all of it). ``exchange.pages`` has the page
that shows both documents.
"""
