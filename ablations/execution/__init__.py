"""Jobs, and the processes that do them, on this machine or on a Ray cluster.

Start with `job.py` and `worker_pool.py` (the interface). `job_retries.py` hands out jobs and has a job that the machine
failed done again; `worker.py` does one.
"""
