"""Jobs, and the processes that do them, on this machine or on a Ray cluster.

Start with `job.py` and `worker_pool.py` (the interface); `job_queue.py` starts jobs and retries them, and `worker.py`
does one.
"""
