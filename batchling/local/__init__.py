"""The embedded server: OpenAI's Files and Batches API over HTTP, on this machine, with its state on disk.

`batchling.local.server` starts it, in process (`start_in_process`) or in the foreground (`serve`).
Nothing is imported here, so that naming the package costs nothing.
"""
