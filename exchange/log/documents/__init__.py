"""Events as JSON documents, for readers that know nothing of this software.

In reading order: ``text`` (how amounts and times are written), ``document`` (an event as a JSON
object), ``schemas`` (the JSON Schema of each type, and which changes of one readers survive).
"""
