"""A trained adapter → an HTTP service on Ray Serve that ranks lists for many clients at once.

It may import the packages below and `tune.execution`; of all of tune only this room knows Ray Serve and FastAPI. Both come with the
extra `serve`, so a search does without them.
"""
