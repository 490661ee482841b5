-- Which windows of chunks changed, and in which order. So a server that keeps rows of chunks reads what changed since, not which rows there are.
CREATE TABLE chunk_total (
    -- How many transactions changed chunks. In the order of commits: whoever changes chunks holds this row.
    changes bigint NOT NULL,
    changed_by xid8
);
INSERT INTO chunk_total VALUES (0, NULL);

-- The last change of each window. The drop of a partition is none; the rows of its windows go with it.
CREATE TABLE chunk_changes (
    window_start timestamptz PRIMARY KEY,
    change bigint NOT NULL
);

CREATE FUNCTION chunks_changed() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    UPDATE chunk_total SET changes = changes + 1, changed_by = pg_current_xact_id() WHERE changed_by IS DISTINCT FROM pg_current_xact_id();
    INSERT INTO chunk_changes
    SELECT DISTINCT changed.window_start, chunk_total.changes FROM changed, chunk_total
    ON CONFLICT (window_start) DO UPDATE SET change = excluded.change WHERE chunk_changes.change <> excluded.change;
    RETURN NULL;
END
$$;
CREATE TRIGGER chunks_inserted AFTER INSERT ON chunks
    REFERENCING NEW TABLE AS changed FOR EACH STATEMENT EXECUTE FUNCTION chunks_changed();
CREATE TRIGGER chunks_updated AFTER UPDATE ON chunks
    REFERENCING OLD TABLE AS changed FOR EACH STATEMENT EXECUTE FUNCTION chunks_changed();
CREATE TRIGGER chunks_deleted AFTER DELETE ON chunks
    REFERENCING OLD TABLE AS changed FOR EACH STATEMENT EXECUTE FUNCTION chunks_changed();
