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

-- As before, and what was found is to be searched anew.
CREATE OR REPLACE FUNCTION series_gone() RETURNS trigger LANGUAGE plpgsql AS $$
DECLARE
    live integer[] := (SELECT array_agg(id) FROM old_series WHERE NOT EXISTS (SELECT FROM expired_series WHERE series_id = id));
BEGIN
    DELETE FROM expired_series WHERE series_id IN (SELECT id FROM old_series);
    UPDATE sources SET series = series - gone.n
    FROM (SELECT source_id, count(*) AS n FROM old_series WHERE id = ANY(live) GROUP BY source_id) AS gone
    WHERE sources.id = gone.source_id;
    UPDATE series_total SET series = series - cardinality(live) WHERE cardinality(live) > 0;
    UPDATE latest_blocks SET used = used & ~gone.slots
    FROM (SELECT id / 64 AS block, bit_or(1::bigint << (id % 64)) AS slots FROM unnest(live) AS id GROUP BY id / 64) AS gone
    WHERE latest_blocks.id = gone.block;
    DELETE FROM latest_blocks WHERE used = 0 AND id IN (SELECT id / 64 FROM unnest(live) AS id);
    INSERT INTO series_changes (block_id) SELECT NULL::integer FROM old_series LIMIT 1;
    RETURN NULL;
END
$$;
