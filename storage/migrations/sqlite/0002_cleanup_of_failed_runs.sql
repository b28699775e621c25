-- Runs that failed before the service cleared up after failed ones: each owes it a week after its
-- end, as those that fail now do. The others were cleared up after at once.

INSERT OR IGNORE INTO owed (kind, key, version, not_before, tries, last_error)
SELECT 'cleanup', run, 1, finished_at + 7 * 86400 * 1000000, 0, ''
FROM runs
WHERE status = 'failed' AND finished_at IS NOT NULL AND repository <> '';
