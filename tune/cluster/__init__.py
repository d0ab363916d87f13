"""What a cluster of several machines needs besides Ray: code that travels, what each node has, folders that come back.

Goes in: the study's models, its runs folder, a trial's folder. Comes out: facts of nodes, and the same folder on the
driver's machine whether or not the nodes share its storage. Imports Ray and `reranker`, nothing of the search.
"""
