-- Which chunks changed, and in which order. So a server that keeps rows of chunks reads what changed since, not which rows there are.
CREATE TABLE chunk_total (
    one boolean PRIMARY KEY DEFAULT true CHECK (one),
    -- How many transactions changed chunks. In the order of commits: whoever changes chunks holds this row.
    changes bigint NOT NULL,
    changed_by bigint
);
INSERT INTO chunk_total (changes) VALUES (0);

-- What each of these transactions changed. Maintenance keeps the newest rows.
CREATE TABLE chunk_changes (
    change bigint NOT NULL,
    block_id integer NOT NULL,
    window_start timestamptz NOT NULL,
    PRIMARY KEY (change, block_id, window_start)
);

CREATE FUNCTION chunks_changed() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    IF NOT EXISTS (SELECT FROM changed) THEN
        RETURN NULL;
    END IF;
    -- A crash must not take back a change that others have seen: another would get its number.
    IF current_setting('synchronous_commit') = 'off' THEN
        PERFORM set_config('synchronous_commit', 'local', true);
    END IF;
    UPDATE chunk_total SET changes = changes + 1, changed_by = txid_current() WHERE changed_by IS DISTINCT FROM txid_current();
    -- A transaction that began before there was this table does not see its row.
    IF NOT EXISTS (SELECT FROM chunk_total WHERE changed_by = txid_current()) THEN
        RAISE EXCEPTION 'this transaction is too old to change chunks: try again' USING ERRCODE = 'serialization_failure';
    END IF;
    INSERT INTO chunk_changes SELECT DISTINCT chunk_total.changes, changed.block_id, changed.window_start FROM chunk_total, changed ON CONFLICT DO NOTHING;
    RETURN NULL;
END
$$;
CREATE TRIGGER chunks_inserted AFTER INSERT ON chunks
    REFERENCING NEW TABLE AS changed FOR EACH STATEMENT EXECUTE FUNCTION chunks_changed();
-- Of rows that are moved both places.
CREATE TRIGGER chunks_updated AFTER UPDATE ON chunks
    REFERENCING OLD TABLE AS changed FOR EACH STATEMENT EXECUTE FUNCTION chunks_changed();
CREATE TRIGGER chunks_updated_to AFTER UPDATE ON chunks
    REFERENCING NEW TABLE AS changed FOR EACH STATEMENT EXECUTE FUNCTION chunks_changed();
CREATE TRIGGER chunks_deleted AFTER DELETE ON chunks
    REFERENCING OLD TABLE AS changed FOR EACH STATEMENT EXECUTE FUNCTION chunks_changed();
