-- Instants are whole microseconds since 1970-01-01T00:00Z, so that they sort as numbers.
-- Kept to what SQLite 3.31 understands: no STRICT, no RETURNING.

CREATE TABLE runs (
  run TEXT NOT NULL PRIMARY KEY,
  repository TEXT NOT NULL,
  workflow TEXT NOT NULL,
  name TEXT NOT NULL,
  status TEXT NOT NULL,
  reason TEXT NOT NULL,
  trigger_type TEXT NOT NULL,
  ref TEXT NOT NULL,
  commit_id TEXT NOT NULL,
  queued_at INTEGER NOT NULL,
  started_at INTEGER,
  finished_at INTEGER,
  seq INTEGER NOT NULL
);
-- One index per kind of list, each ending in (queued_at, run), so that no list is ever sorted.
CREATE INDEX runs_by_age ON runs (queued_at, run);
CREATE INDEX runs_by_repository ON runs (repository, queued_at, run);
CREATE INDEX runs_by_workflow_alone ON runs (workflow, queued_at, run);
CREATE INDEX runs_by_workflow ON runs (repository, workflow, queued_at, run);
CREATE INDEX runs_by_status ON runs (status, queued_at, run);
CREATE INDEX runs_by_workflow_status ON runs (repository, workflow, status, queued_at, run);
CREATE INDEX runs_by_commit ON runs (commit_id, queued_at, run) WHERE commit_id <> '';

CREATE TABLE events (
  run TEXT NOT NULL,
  seq INTEGER NOT NULL,
  at INTEGER NOT NULL,
  type TEXT NOT NULL,
  version INTEGER NOT NULL,
  data TEXT NOT NULL,
  PRIMARY KEY (run, seq)
) WITHOUT ROWID;

CREATE TABLE run_values (
  run TEXT NOT NULL,
  scope TEXT NOT NULL,
  name TEXT NOT NULL,
  value TEXT NOT NULL,
  PRIMARY KEY (run, scope, name)
);

CREATE TABLE sources (
  sha256 TEXT NOT NULL PRIMARY KEY,
  text TEXT NOT NULL
);

CREATE TABLE triggers (
  key TEXT NOT NULL PRIMARY KEY,
  repository TEXT NOT NULL,
  workflow TEXT NOT NULL,
  at INTEGER NOT NULL,
  verdict TEXT NOT NULL,
  run TEXT,
  cause TEXT NOT NULL
);
CREATE INDEX triggers_by_repository ON triggers (repository, at, key);
CREATE INDEX triggers_by_workflow ON triggers (repository, workflow, at, key);

CREATE TABLE refs (
  repository TEXT NOT NULL,
  ref TEXT NOT NULL,
  n INTEGER NOT NULL,
  oid TEXT,
  seen_at INTEGER NOT NULL,
  PRIMARY KEY (repository, ref)
) WITHOUT ROWID;

CREATE TABLE repositories (
  repository TEXT NOT NULL PRIMARY KEY,
  url TEXT NOT NULL,
  branch TEXT NOT NULL,
  applied INTEGER NOT NULL,
  applied_commit TEXT NOT NULL,
  applied_at INTEGER,
  fetched_at INTEGER,
  problem TEXT NOT NULL
) WITHOUT ROWID;

CREATE TABLE definitions (
  repository TEXT NOT NULL,
  ref TEXT NOT NULL,
  workflow TEXT NOT NULL,
  path TEXT NOT NULL,
  commit_id TEXT NOT NULL,
  blob TEXT NOT NULL,
  base_blob TEXT NOT NULL,
  live_from INTEGER NOT NULL,
  problem_commit TEXT NOT NULL,
  problems TEXT NOT NULL,
  PRIMARY KEY (repository, ref, workflow)
);

CREATE TABLE entries (
  blob TEXT NOT NULL,
  base_blob TEXT NOT NULL,
  path TEXT NOT NULL,
  loader INTEGER NOT NULL,
  entry TEXT NOT NULL,
  PRIMARY KEY (blob, base_blob, path, loader)
);

CREATE TABLE deliveries (
  delivery TEXT NOT NULL PRIMARY KEY,
  repository TEXT NOT NULL,
  provider TEXT NOT NULL,
  event TEXT NOT NULL,
  received_at INTEGER NOT NULL,
  digest TEXT NOT NULL,
  verdict TEXT NOT NULL,
  reason TEXT NOT NULL,
  sender_id TEXT NOT NULL,
  actor TEXT NOT NULL,
  ref TEXT NOT NULL,
  after TEXT NOT NULL,
  headers TEXT NOT NULL,
  size_bytes INTEGER NOT NULL
);
CREATE UNIQUE INDEX deliveries_by_digest ON deliveries (repository, digest);
CREATE INDEX deliveries_by_ref ON deliveries (repository, ref, after, received_at);

CREATE TABLE owed (
  kind TEXT NOT NULL,
  key TEXT NOT NULL,
  version INTEGER NOT NULL,
  not_before INTEGER NOT NULL,
  tries INTEGER NOT NULL,
  last_error TEXT NOT NULL,
  PRIMARY KEY (kind, key)
) WITHOUT ROWID;
CREATE INDEX owed_by_instant ON owed (kind, not_before, key);
