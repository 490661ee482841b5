-- Where metrics are kept. Names are compared byte by byte (COLLATE "C"): ids are what their bytes are, and the order of
-- listings must not depend on the database's language.

-- The nodes that measure; the unnamed source's name is ''. Whoever writes for a source holds its row until the commit, so
-- batches of one source go one after the other and replicas can't deadlock.
CREATE TABLE sources (
    id integer GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    name text COLLATE "C" NOT NULL UNIQUE,
    first_seen timestamptz NOT NULL,
    last_seen timestamptz NOT NULL,
    -- How many series it has, kept in step by the writer and by series_gone below.
    series integer NOT NULL DEFAULT 0,
    about jsonb
) WITH (fillfactor = 50);

-- One row a (source, id, type).
CREATE TABLE series (
    id integer GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    source_id integer NOT NULL REFERENCES sources ON DELETE CASCADE,
    -- The metric's id with its labels, in canonical form.
    name text COLLATE "C" NOT NULL,
    -- 0 gauge, 1 counter.
    kind smallint NOT NULL CHECK (kind IN (0, 1)),
    UNIQUE (source_id, name, kind)
);

-- Reads over all sources ask for a name.
CREATE INDEX series_by_name ON series (name, kind);

-- How many series there are in all. New series lock this row, which keeps the cap exact; batches without new series don't.
CREATE TABLE series_total (
    one boolean PRIMARY KEY DEFAULT true CHECK (one),
    series bigint NOT NULL
);
INSERT INTO series_total (series) VALUES (0);

-- The order in which batches arrived, which tells the newest of two gauges of one time.
CREATE SEQUENCE arrivals;

-- Each series's newest state; the row is made together with its series. Half of a page is left free so that an update
-- finds room beside the old row and touches no index.
CREATE TABLE latest (
    series_id integer PRIMARY KEY REFERENCES series ON DELETE CASCADE,
    -- A gauge's newest value.
    value double precision,
    -- A counter's sum, added up from 64-bit integers and never from the doubles in frames.
    total bigint,
    -- The latest time of a batch that set it (gauge) or added to it (counter).
    at timestamptz NOT NULL,
    arrival bigint NOT NULL
) WITH (fillfactor = 50);

-- Which series a frame's values belong to, in order. Agents send the same ones each time.
CREATE TABLE layouts (
    id integer GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    source_id integer NOT NULL REFERENCES sources ON DELETE CASCADE,
    -- SHA-256 of the types and ids in their order.
    digest bytea NOT NULL,
    series_ids integer[] NOT NULL,
    -- The latest day (UTC) of a frame that uses it; a layout that no kept day uses is dropped.
    last_day date NOT NULL,
    UNIQUE (source_id, digest)
);

-- The history: one row a batch. It is also the memory of which batches were applied, by their primary key.
CREATE TABLE frames (
    -- The batch's time, to the millisecond, from its key.
    at timestamptz NOT NULL,
    source_id integer NOT NULL,
    key uuid NOT NULL,
    layout_id integer NOT NULL,
    -- SHA-256 of the request, which tells a repeat from another batch under the same key.
    digest bytea NOT NULL,
    -- One value for each series of the layout: a gauge's value, bit for bit, or what the batch added to a counter. A delta
    -- above 2^53 is rounded here to the nearest double; the counter's total in latest is exact all the same.
    "values" double precision[] NOT NULL,
    PRIMARY KEY (at, source_id, key)
) PARTITION BY RANGE (at);

-- Compressing doubles costs more than it saves. Set before there are partitions, which take it over.
ALTER TABLE frames ALTER COLUMN "values" SET STORAGE EXTERNAL;

-- Keeps the counts true when an operator deletes a source or some of its series by hand.
CREATE FUNCTION series_gone() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    UPDATE sources SET series = sources.series - gone.n
    FROM (SELECT source_id, count(*) AS n FROM old_series GROUP BY source_id) AS gone
    WHERE sources.id = gone.source_id;
    UPDATE series_total SET series = series - (SELECT count(*) FROM old_series);
    RETURN NULL;
END
$$;
CREATE TRIGGER series_gone AFTER DELETE ON series
    REFERENCING OLD TABLE AS old_series FOR EACH STATEMENT EXECUTE FUNCTION series_gone();

-- The history for people: one row a sample.
CREATE VIEW samples AS
SELECT frames.at, sources.name AS source, series.name, CASE series.kind WHEN 0 THEN 'gauge' ELSE 'counter' END AS kind, sample.value
FROM frames
JOIN sources ON sources.id = frames.source_id
JOIN layouts ON layouts.id = frames.layout_id
CROSS JOIN LATERAL unnest(layouts.series_ids, frames."values") AS sample (series_id, value)
JOIN series ON series.id = sample.series_id;

COMMENT ON TABLE sources IS 'The nodes that measure; '''' is the unnamed one';
COMMENT ON TABLE latest IS 'Each series''s newest value (gauge) or total (counter)';
COMMENT ON VIEW samples IS 'The history, one row a sample: a gauge''s value or what was added to a counter';
