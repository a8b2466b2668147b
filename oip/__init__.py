"""The Open Inference Protocol (V2) over HTTP: messages, their two encodings, and an ASGI application that speaks it.

Nothing in here knows what a model is for: no room of the service, no model runtime and no cache is imported.
Protocol text: https://github.com/kserve/open-inference-protocol; binary tensors: Triton's `extension_binary_data.md`.
"""

__version__ = "0.2.0"
"""The version of the whole distribution, of which every room is a part."""
