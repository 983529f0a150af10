CREATE TABLE run (
  id VARCHAR NOT NULL,
  name VARCHAR NOT NULL,
  status VARCHAR NOT NULL,
  reason VARCHAR,
  config JSON NOT NULL,
  used JSON NOT NULL,
  attempt INTEGER NOT NULL,
  resume_step INTEGER,
  token VARCHAR,
  slot INTEGER,
  slot_given_at FLOAT,
  step INTEGER,
  max_steps INTEGER NOT NULL,
  phase VARCHAR,
  best_step INTEGER,
  supervisor_pid INTEGER,
  trainer_pid INTEGER,
  boot_id VARCHAR,
  host VARCHAR,
  created_at FLOAT NOT NULL,
  started_at FLOAT,
  ended_at FLOAT,
  heartbeat_at FLOAT,
  stop_requested_at FLOAT,
  stop_reason VARCHAR,
  queue_at FLOAT,
  held_at FLOAT,
  parent_id VARCHAR,
  parent_step INTEGER,
  tags JSON,
  notes VARCHAR,
  sweep_id VARCHAR,
  number INTEGER,
  seed_index INTEGER,
  searched JSON,
  confirmed_rank INTEGER,
  end_reason VARCHAR,
  failed_starts INTEGER,
  PRIMARY KEY (id)
);
CREATE INDEX ix_run_name ON run (name);
CREATE INDEX ix_run_status ON run (status);
CREATE INDEX ix_run_sweep_id ON run (sweep_id);
CREATE UNIQUE INDEX trial_of_sweep ON run (sweep_id, number);
CREATE TABLE sweep (
  id VARCHAR NOT NULL,
  name VARCHAR NOT NULL,
  file VARCHAR NOT NULL,
  base JSON,
  path VARCHAR NOT NULL,
  folder VARCHAR NOT NULL,
  status VARCHAR NOT NULL,
  reason VARCHAR,
  seed INTEGER NOT NULL,
  most_trials INTEGER,
  seconds FLOAT,
  spent_seconds FLOAT NOT NULL,
  host VARCHAR,
  seen_at FLOAT,
  created_at FLOAT NOT NULL,
  ended_at FLOAT,
  PRIMARY KEY (id)
);
CREATE INDEX ix_sweep_status ON sweep (status);
CREATE TABLE checkpoint (
  run_id VARCHAR NOT NULL,
  step INTEGER NOT NULL,
  attempt INTEGER NOT NULL,
  path VARCHAR NOT NULL,
  size_bytes BIGINT NOT NULL,
  is_best BOOLEAN NOT NULL,
  created_at FLOAT NOT NULL,
  PRIMARY KEY (run_id, step),
  FOREIGN KEY(run_id) REFERENCES run (id) ON DELETE CASCADE
);
CREATE TABLE evaluation (
  run_id VARCHAR NOT NULL,
  step INTEGER NOT NULL,
  split VARCHAR NOT NULL,
  attempt INTEGER NOT NULL,
  path VARCHAR NOT NULL,
  rows INTEGER NOT NULL,
  correct INTEGER NOT NULL,
  created_at FLOAT NOT NULL,
  PRIMARY KEY (run_id, step, split),
  FOREIGN KEY(run_id) REFERENCES run (id) ON DELETE CASCADE
);
CREATE INDEX evaluation_by_split ON evaluation (run_id, split, step);
CREATE TABLE event (
  id INTEGER NOT NULL,
  run_id VARCHAR NOT NULL,
  attempt INTEGER NOT NULL,
  step INTEGER,
  kind VARCHAR NOT NULL,
  text VARCHAR NOT NULL,
  at FLOAT NOT NULL,
  PRIMARY KEY (id),
  FOREIGN KEY(run_id) REFERENCES run (id) ON DELETE CASCADE
);
CREATE INDEX ix_event_run_id ON event (run_id);
CREATE TABLE latestmetric (
  run_id VARCHAR NOT NULL,
  name VARCHAR NOT NULL,
  step INTEGER NOT NULL,
  attempt INTEGER NOT NULL,
  value FLOAT,
  PRIMARY KEY (run_id, name),
  FOREIGN KEY(run_id) REFERENCES run (id) ON DELETE CASCADE
);
CREATE TABLE metric (
  run_id VARCHAR NOT NULL,
  name VARCHAR NOT NULL,
  step INTEGER NOT NULL,
  attempt INTEGER NOT NULL,
  value FLOAT,
  at FLOAT NOT NULL,
  PRIMARY KEY (run_id, name, step, attempt),
  FOREIGN KEY(run_id) REFERENCES run (id) ON DELETE CASCADE
);
