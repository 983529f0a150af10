"""The run table: its rows (`tables`), and every query on them.

A query takes an open session: `reading()` or, for a short write, `writing()`.

    from src import store

    with store.reading() as session:
        run = store.find(session, "my-run")

What follows is the table of contents, by module.
"""

# ruff: noqa: F401

from sqlmodel import Session

from src.store.checkpoints import (
    final_evaluation,
    final_evaluations,
    forget_evaluations,
    list_checkpoints,
    list_evaluations,
    newest_scored,
    predictions,
    record_checkpoint,
    record_evaluation,
    remove_checkpoint,
    scored,
    set_best,
    suite_evaluations,
)
from src.store.damage import damage_marker, is_damaged, is_lost
from src.store.database import (
    DatabaseUnavailable,
    explain_unreachable,
    free_reserve,
    is_shared,
    keep_reserve,
    location,
    next_snapshot,
    read_with_retry,
    reading,
    set_snapshot_number,
    snapshot_number,
    write_with_retry,
    writing,
)
from src.store.documents import show, to_json, usage_document
from src.store.found_runs import FoundRuns, find_runs
from src.store.metrics import (
    curve,
    curves,
    latest_metrics,
    metric_names,
    metric_points,
    moments,
    points_missing,
    record_metrics,
    record_points,
)
from src.store.notices import (
    begin_telling,
    count_process,
    end_telling,
    forget,
    forget_old,
    is_telling,
    is_untold,
    last_notice,
    last_of,
    leave,
    mark_told,
    recent,
    untold,
)
from src.store.outcome import EndReason, Outcome, Remedy
from src.store.run_columns import Column, UnknownColumn, find_column
from src.store.run_filter import BadFilter, RunFilter
from src.store.run_filter import parse as parse_filter
from src.store.run_list import (
    RunState,
    archive,
    count_configs,
    count_runs,
    failed_since,
    last_checkpoints,
    last_end,
    page_of_configs,
    page_of_runs,
    recorded_metrics,
    scores_of_configs,
    states,
    states_of,
    tags_in_use,
)
from src.store.runs import (
    RunIsActive,
    UnknownRun,
    completed_here,
    delete_rows,
    enqueue,
    events_of,
    find,
    find_checkpoint,
    forks,
    label_of,
    labels_of,
    list_events,
    list_runs,
    new_id,
    progress_of,
    put_back,
    queue,
    record_event,
    run_labels,
    run_outcomes,
    runs_of,
    set_notes,
    sizes_of_processes,
    stop_wishes,
)
from src.store.sqlite import (
    busy_timeout_seconds,
    database_url,
    sqlite_driver,
    sqlite_file,
    url_of,
    why_not_wal,
)
from src.store.status import (
    HELD_REASON,
    MAX_FAILED_STARTS,
    TRANSITIONS,
    InvalidState,
    InvalidTransition,
    assign_slot,
    claim,
    end,
    fail_start,
    hold,
    hold_all_but,
    move_to_front,
    owns,
    release,
    release_slot,
    request_stop,
    requeue,
    requeue_cancelled,
    restart_from_scratch,
    stop_reason,
    stop_requested,
    transition,
    update_attempt,
)
from src.store.sweeps import (
    acquire_lease,
    change_sweep,
    confirmations,
    data_fingerprints,
    driver_came_up,
    driver_died,
    fail_sweep,
    find_sweep,
    list_sweeps,
    list_trials,
    processes,
    record_driver_start,
    reports,
    runs_of_sweep,
    scores_of_all,
    trial_counts,
    trial_metrics,
)
from src.store.usage import add_usage, record_samples, samples_of, usage_of_sweep
