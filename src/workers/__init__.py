"""One file per kind of process, started by name (src/runs/spawn.py) and imported by nobody.

docs/architecture.md lists them under "The processes": who starts each, the lock that it holds, its
log, and when it ends. The other files are parts of them: reporter.py, table_writer.py, call_pool.py
and trackers/ are the trainer's, sampler.py (the meters of a slot) is the supervisor's, standby.py
(how they wait for a run) is of both.
"""
