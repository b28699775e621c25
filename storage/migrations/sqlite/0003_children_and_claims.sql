-- Child runs, which stand in no list but that of their parent; the order of the queue; what runs
-- hold while they are active; how long a run is kept.

ALTER TABLE runs ADD COLUMN parent TEXT NOT NULL DEFAULT '';
ALTER TABLE runs ADD COLUMN retry_of TEXT NOT NULL DEFAULT '';
ALTER TABLE runs ADD COLUMN attempt INTEGER NOT NULL DEFAULT 1;
ALTER TABLE runs ADD COLUMN priority INTEGER NOT NULL DEFAULT 0;
ALTER TABLE runs ADD COLUMN not_before INTEGER;
ALTER TABLE runs ADD COLUMN keep_days INTEGER NOT NULL DEFAULT 30;

DROP INDEX runs_by_age;
DROP INDEX runs_by_repository;
DROP INDEX runs_by_workflow_alone;
DROP INDEX runs_by_workflow;
DROP INDEX runs_by_status;
DROP INDEX runs_by_workflow_status;
DROP INDEX runs_by_commit;
CREATE INDEX runs_by_age ON runs (queued_at, run) WHERE parent = '';
CREATE INDEX runs_by_repository ON runs (repository, queued_at, run) WHERE parent = '';
CREATE INDEX runs_by_workflow_alone ON runs (workflow, queued_at, run) WHERE parent = '';
CREATE INDEX runs_by_workflow ON runs (repository, workflow, queued_at, run) WHERE parent = '';
CREATE INDEX runs_by_status ON runs (status, queued_at, run) WHERE parent = '';
CREATE INDEX runs_by_workflow_status ON runs (repository, workflow, status, queued_at, run)
  WHERE parent = '';
CREATE INDEX runs_by_commit ON runs (commit_id, queued_at, run)
  WHERE parent = '' AND commit_id <> '';
CREATE INDEX runs_by_parent ON runs (parent, queued_at, run) WHERE parent <> '';
-- In the order in which they leave the queue.
CREATE INDEX runs_queued ON runs (repository, workflow, priority DESC, queued_at, run)
  WHERE parent = '' AND status = 'queued';

CREATE TABLE claims (
  run TEXT NOT NULL,
  name TEXT NOT NULL,
  max INTEGER NOT NULL,
  cancels INTEGER NOT NULL,
  PRIMARY KEY (run, name)
) WITHOUT ROWID;
CREATE INDEX claims_by_name ON claims (name, run);
CREATE INDEX claims_that_cancel ON claims (run) WHERE cancels = 1;

INSERT OR IGNORE INTO owed (kind, key, version, not_before, tries, last_error)
SELECT 'expire', run, 1, finished_at + 30 * 86400 * 1000000, 0, ''
FROM runs
WHERE finished_at IS NOT NULL AND repository <> '';
