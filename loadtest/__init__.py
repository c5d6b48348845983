"""A Locust suite against a running gserver, seen as a stranger sees it: nothing here imports the server.

`locust -f loadtest` loads `locustfile.py`; the modules whose names begin with `_` are its rooms.
"""
