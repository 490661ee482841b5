-- The newest state of series in blocks of 64. A row a series cost the database a look into the index, a new version and a
-- record in its log for each metric of a report; a report's series stand together in a block or two, which cost little
-- more than one series did. Deleted by hand are series and sources, as before; their state follows.

CREATE TABLE latest_blocks (
    -- Of the series whose ids are 64 * id to 64 * id + 63; slot n is that of series 64 * id + n.
    id integer PRIMARY KEY,
    -- Bit n is set where series 64 * id + n exists. What the arrays hold in other slots means nothing.
    used bigint NOT NULL,
    -- The time of all series, where `ats` and `arrivals` are empty: a report mostly sets all of a block.
    at timestamptz NOT NULL,
    arrival bigint NOT NULL,
    -- Gauges' newest values, as far as the last slot that is a gauge's. 0 in others.
    "values" double precision[] NOT NULL,
    -- Counters' sums, added up from 64-bit integers and never from the doubles in frames; as far as the last counter's slot.
    totals bigint[] NOT NULL,
    -- For each slot the latest time of a batch that set it (gauge) or added to it (counter), and that batch's arrival. Empty
    -- where all have the same.
    ats timestamptz[] NOT NULL,
    arrivals bigint[] NOT NULL
    -- A full row has 2.2 kB and stays in one piece. Old versions can be cleared away only when no other writer may see them
    -- any more; with room for several beside the one that counts, updates stay on their page and touch no index.
) WITH (fillfactor = 30, toast_tuple_target = 4096);

INSERT INTO latest_blocks (id, used, at, arrival, "values", totals, ats, arrivals)
SELECT block.id,
    bit_or(CASE WHEN latest.series_id IS NULL THEN 0 ELSE 1::bigint << slot END),
    max(latest.at),
    max(latest.arrival),
    array_agg(coalesce(latest.value, 0) ORDER BY slot),
    array_agg(coalesce(latest.total, 0) ORDER BY slot),
    array_agg(coalesce(latest.at, '-infinity') ORDER BY slot),
    array_agg(coalesce(latest.arrival, 0) ORDER BY slot)
FROM (SELECT DISTINCT series_id / 64 AS id FROM latest) AS block
CROSS JOIN generate_series(0, 63) AS slot
LEFT JOIN latest ON latest.series_id = block.id * 64 + slot
GROUP BY block.id;

DROP TABLE latest;

-- Ids are given out by the block, so that the series of a source stand together and no two sources share a row. Whoever makes
-- series of a source holds its row.
ALTER TABLE series ALTER COLUMN id DROP IDENTITY;
CREATE SEQUENCE series_blocks AS integer MINVALUE 0 MAXVALUE 33554431;
SELECT setval('series_blocks', (SELECT coalesce(max(id), 0) FROM series) / 64 + 1, false);
-- The next id of the source's last block; a multiple of 64 where that is full or there is none.
ALTER TABLE sources ADD COLUMN next_series integer NOT NULL DEFAULT 0;

-- Keeps counts and newest state true when an operator deletes a source or some of its series by hand.
CREATE OR REPLACE FUNCTION series_gone() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    UPDATE sources SET series = sources.series - gone.n
    FROM (SELECT source_id, count(*) AS n FROM old_series GROUP BY source_id) AS gone
    WHERE sources.id = gone.source_id;
    UPDATE series_total SET series = series - (SELECT count(*) FROM old_series);
    UPDATE latest_blocks SET used = used & ~gone.slots
    FROM (SELECT id / 64 AS block, bit_or(1::bigint << (id % 64)) AS slots FROM old_series GROUP BY id / 64) AS gone
    WHERE latest_blocks.id = gone.block;
    DELETE FROM latest_blocks WHERE used = 0 AND id IN (SELECT id / 64 FROM old_series);
    RETURN NULL;
END
$$;

-- The newest state for people and for reads: one row a series.
CREATE VIEW latest AS
SELECT series.id AS series_id, series.source_id, series.name, series.kind,
    CASE series.kind WHEN 0 THEN block."values"[series.id % 64 + 1] END AS value,
    CASE series.kind WHEN 1 THEN block.totals[series.id % 64 + 1] END AS total,
    coalesce(block.ats[series.id % 64 + 1], block.at) AS at,
    coalesce(block.arrivals[series.id % 64 + 1], block.arrival) AS arrival
FROM series JOIN latest_blocks AS block ON block.id = series.id / 64;

COMMENT ON TABLE latest_blocks IS 'Newest values and totals, 64 series a row; the view latest shows them one by one';
COMMENT ON VIEW latest IS 'Each series''s newest value (gauge) or total (counter)';
