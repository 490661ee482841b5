-- Which series searches find that they did not find before: series that were made, and expired ones that came back. So a server that remembers what a search found
-- reads what came since, not all series again. Maintenance keeps the newest rows.
CREATE TABLE series_changes (
    -- In the order of commits: whoever makes series or brings them back holds the row of series_total.
    n bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    -- 64 series, as in latest_blocks, and which of them; NULL where series were removed, and what was found is to be searched anew.
    block_id integer,
    slots bigint
);
INSERT INTO series_changes DEFAULT VALUES;

CREATE FUNCTION series_made() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    INSERT INTO series_changes (block_id, slots) SELECT id / 64, bit_or(1::bigint << (id % 64)) FROM made GROUP BY id / 64;
    RETURN NULL;
END
$$;
CREATE TRIGGER series_made AFTER INSERT ON series
    REFERENCING NEW TABLE AS made FOR EACH STATEMENT EXECUTE FUNCTION series_made();

-- Rows of series that were removed go, too: those did not come back.
CREATE FUNCTION series_back() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    INSERT INTO series_changes (block_id, slots)
    SELECT id / 64, bit_or(1::bigint << (id % 64)) FROM back JOIN series ON series.id = back.series_id GROUP BY id / 64;
    RETURN NULL;
END
$$;
CREATE TRIGGER series_back AFTER DELETE ON expired_series
    REFERENCING OLD TABLE AS back FOR EACH STATEMENT EXECUTE FUNCTION series_back();
