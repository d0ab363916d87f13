"""A trained adapter → what other programs run: a merged model, a folder for vLLM, a GGUF file; with a model card, for the Hub.

It may import the packages below; it needs neither Ray nor MLflow.
"""
