"""One file per kind of process, started by name (src/runs/spawn.py) and imported by nobody.

| process | started by | lock | log | ends when |
|---|---|---|---|---|
| supervisor RUN, or --standby | launcher (for a free slot), reconciler (adopts a trainer), panel, sweep driver or launch (--standby) | slot-N, RUN.supervisor | RUN.log | the trainer has exited and each of its runs has an end |
| trainer RUN ATTEMPT, --pack or --standby | supervisor | RUN.trainer of each run | RUN.log | the result.json of each run is written |
| sweep_driver SWEEP | launcher, reconciler | SWEEP.driver | SWEEP.log | the sweep is COMPLETED or CANCELLED |
| reconcile | a trainer that lost its supervisor | reconciler | none | it has reconciled once |
| measure | the panel | slot-N | errors on stderr | each measurement is kept |
| memory_probe | measure, `spelltune preflight` and `plan` | its caller's slot-N | JSON on stdout | six steps and an evaluation are done, or it is out of memory |
| import_check | `spelltune doctor` | none | JSON lines on stdout | each module was tried |
| export RUN FORM | the panel | RUN.export | exports/FORM.log of the run | the model is written or uploaded, and noted |
| convert FILE | the check before a launch, the trainer | .SHA.lock beside the folder | what is wrong on stdout | the folder is written |
| ray_nodes | sweep driver with executor ray, launch (--check) | none | SWEEP.log | its standard input closes: the driver exited |
| node_agent | a Ray task on each node | none | last line to ray_nodes | its standard input closes: the task ended |
| calls | a trainer, where cores are free | none | none | its standard input closes: the trainer exited |
| notify, or --test | whoever reconciles or ends a run or a sweep; --test by the panel and the command line | notify | the run table | each service has told each notice, or was tried four times |
| idle | the panel, every command of a person, where `when_idle` has a command | idle | when_idle.log | that setting is gone, or the machine is off |
| evaluate | `spelltune mcp` | none | JSON lines on stdout | the evaluation is told, or its standard input closes |
| answer SLOT | the panel, `spelltune mcp` | none; gives way to slot-N | last line of stderr to the panel | its standard input closes: the panel exited; a training begins on its slot; nothing was asked for `idle` |

A supervisor with --standby holds standby-N in the place of its locks, and its trainer none, until
they have a run; they end with each other, or when they are not used.

reporter.py, call_pool.py and trackers/ are the trainer's: what a training reports, to the run table
and elsewhere.
standby.py is the supervisor's and the trainer's: how they wait for a run.
sampler.py is the supervisor's: the meters of its slot.
"""  # noqa: E501
