"""An adapter, a history and candidates → the candidates in order: for one list, many, or a stream of JSON lines.

It may import what trains and scores; of the packages above none.
"""
