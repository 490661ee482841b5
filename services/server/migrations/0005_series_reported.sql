-- The time of the newest sample that came of an expired series while it was live, or a later one. `at`, when it expired, is mostly a day later or more.
-- NULL where a server of the version before expired it; `at` stands in for it then. A column without a default rewrites no row.
ALTER TABLE expired_series ADD COLUMN reported_at timestamptz;
