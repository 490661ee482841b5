-- The time of the newest sample that came of an expired series while it was live, or a later one. `at`, when it expired, is mostly a day later or more.
-- NULL where a server of the version before expired it; `at` stands in for it then. A column without a default rewrites no row.
ALTER TABLE expired_series ADD COLUMN reported_at timestamptz;

-- The labels of a notification's group, as they stand in its body: only the oldest of each group is delivered, and bodies are long to read.
-- NULL where a server of the version before wrote it.
ALTER TABLE alert_notifications ADD COLUMN group_key text COLLATE "C";
