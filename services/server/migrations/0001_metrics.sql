-- Where metrics are kept. Texts are compared byte by byte (COLLATE "C"): ids are what their bytes are, and the order of listings must not
-- depend on the database's language. No index holds a text of any length: a row of a btree ends at 2,704 bytes, an id at 4,096. What is looked
-- up by its text has a digest instead, the first 128 bits of a SHA-256, as a uuid.

-- The nodes that measure; the unnamed source's name is ''. Whoever makes series of a source holds its row until the commit.
CREATE TABLE sources (
    id integer GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    name text COLLATE "C" NOT NULL UNIQUE,
    first_seen timestamptz NOT NULL,
    last_seen timestamptz NOT NULL,
    -- Set while the source is out of the newest state: it was silent for SOURCE_EXPIRY, or it was deleted. Its row stays for its keys and its
    -- history, and goes with the last of them.
    forgotten_at timestamptz,
    -- How many live series it has.
    series integer NOT NULL DEFAULT 0,
    -- The next id of the source's last block of series; a multiple of 64 where that is full or there is none.
    next_series integer NOT NULL DEFAULT 0,
    -- The clock by which its series expire: how long it has reported in all, and moments of that clock, each with the newest arrival then.
    reporting_millis bigint NOT NULL DEFAULT 0,
    mark_reporting_millis bigint[] NOT NULL DEFAULT '{}',
    mark_arrivals bigint[] NOT NULL DEFAULT '{}'
) WITH (fillfactor = 50);

-- Names of metrics and pairs of a label's key and value share one space of numbers, so that one index finds series by either.
CREATE SEQUENCE terms AS integer;

-- Numbers whose name or pair was removed. They are used again before new ones are: the index of series keeps an entry for each number that it ever
-- had, so numbers that only rise would make it grow with every pod that comes and goes.
CREATE TABLE free_terms (
    id integer PRIMARY KEY
);

CREATE TABLE metric_names (
    id integer PRIMARY KEY,
    -- 128 bits of SHA-256 of the name.
    digest uuid NOT NULL UNIQUE,
    name text COLLATE "C" NOT NULL
);

CREATE TABLE label_pairs (
    id integer PRIMARY KEY,
    -- 128 bits of SHA-256 of the key, a byte 0xff and the value.
    digest uuid NOT NULL UNIQUE,
    -- 128 bits of SHA-256 of the key.
    key_digest uuid NOT NULL,
    key text COLLATE "C" NOT NULL,
    value text COLLATE "C" NOT NULL
);

-- A matcher with a regular expression looks at the values of its key, and only at those that begin as it does. A value is too long for an index; its first
-- 32 characters are not.
CREATE INDEX label_pairs_by_key ON label_pairs (key_digest, "left"(value, 32));

-- One row a (source, id, kind). A live series has its slot in latest_blocks; one that has expired keeps its row here for its history.
CREATE TABLE series (
    -- Ids are given out by the block of 64, so that the series of a source stand together and no two sources share a block.
    id integer PRIMARY KEY,
    source_id integer NOT NULL REFERENCES sources ON DELETE CASCADE,
    -- 0 gauge, 1 counter.
    kind smallint NOT NULL CHECK (kind IN (0, 1)),
    -- 128 bits of SHA-256 of the kind and the metric's id.
    identity uuid NOT NULL,
    -- The metric's name, then its labels.
    terms integer[] NOT NULL,
    -- The metric's id with its labels, in canonical form.
    metric text COLLATE "C" NOT NULL,
    -- Reads over all sources ask for an id; writers ask for it with its source.
    UNIQUE (identity, source_id)
);

-- Finds series by name and labels. Without a pending list, whose length every search would have to read.
CREATE INDEX series_by_term ON series USING gin (terms) WITH (fastupdate = off);
CREATE INDEX series_by_source ON series (source_id);
-- Finds counters that have a gauge of their id beside them, among all series.
CREATE INDEX series_counters ON series (id) WHERE kind = 1;

-- Series that are out of the newest state, and since when. A table of its own, so that rows of series and their indexes are never rewritten.
CREATE TABLE expired_series (
    series_id integer PRIMARY KEY,
    at timestamptz NOT NULL
);

-- Finds what is to be removed with the last of its history.
CREATE INDEX expired_series_by_time ON expired_series (at);

-- The next block of 64 series ids.
CREATE SEQUENCE series_blocks AS integer MINVALUE 0 MAXVALUE 33554431 START 1;

-- How many live series there are in all. Whoever makes or ends series locks this row, which keeps the cap exact; other batches don't.
CREATE TABLE series_total (
    one boolean PRIMARY KEY DEFAULT true CHECK (one),
    series bigint NOT NULL
);
INSERT INTO series_total (series) VALUES (0);

-- The order in which batches arrived, which tells the newest of two gauges of one time and whether a series is still reported.
CREATE SEQUENCE arrivals;

-- The newest state of live series, 64 a row: a report's series stand together in a block or two, which cost little more to write than one series.
CREATE TABLE latest_blocks (
    -- Of the series whose ids are 64 * id to 64 * id + 63; slot n is that of series 64 * id + n.
    id integer PRIMARY KEY,
    -- The one source whose series these are.
    source_id integer NOT NULL,
    -- Bit n is set where series 64 * id + n is live. What the arrays hold in other slots means nothing.
    used bigint NOT NULL,
    -- The time of all series, where `ats` and `arrivals` are empty: a report mostly sets all of a block.
    at timestamptz NOT NULL,
    arrival bigint NOT NULL,
    -- Gauges' newest values, as far as the last slot that is a gauge's. 0 in others.
    "values" double precision[] NOT NULL,
    -- Counters' sums, added up from 64-bit integers and never from the doubles in frames; as far as the last counter's slot.
    totals bigint[] NOT NULL,
    -- For each slot the latest time of a batch that set it (gauge) or added to it (counter), at most that batch's arrival; and the number of the
    -- last batch that named it. Empty where all have the same.
    ats timestamptz[] NOT NULL,
    arrivals bigint[] NOT NULL,
    -- The latest time of a remote-write sample of these series that was ahead of its arrival: up to here a sample may be stored that is newer than the
    -- slot's time says.
    ahead_until timestamptz
    -- A full row has 2.2 kB and stays in one piece. Old versions can be cleared away only when no other writer may see them any more; with room
    -- for several beside the one that counts, updates stay on their page and touch no index.
) WITH (fillfactor = 30, toast_tuple_target = 4096);

CREATE INDEX latest_blocks_by_source ON latest_blocks (source_id);

-- The totals of unlabelled counters that left the newest state: the sum over all sources never falls.
CREATE TABLE retired_totals (
    -- That of the series.
    identity uuid PRIMARY KEY,
    metric text COLLATE "C" NOT NULL,
    total bigint NOT NULL
);

-- What senders say about metrics, each variant once.
CREATE TABLE metric_metadata (
    -- 128 bits of SHA-256 of the name, the type, the help and the unit.
    digest uuid PRIMARY KEY,
    name text COLLATE "C" NOT NULL,
    type text NOT NULL,
    help text NOT NULL,
    unit text NOT NULL,
    -- When it was said last, to the day or so; what nobody says any more goes.
    said_at timestamptz NOT NULL
);

-- Names may be longer than a row of a btree; a prefix finds them as well.
CREATE INDEX metric_metadata_by_name ON metric_metadata (left(name, 256));

-- Which series a frame's values belong to, in order, for lists that come again: agents mostly send the same ids each time.
CREATE TABLE layouts (
    id integer GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    source_id integer NOT NULL REFERENCES sources ON DELETE CASCADE,
    -- SHA-256 of the kinds and ids in their order; of something else where these ids have become other series, which have a layout of their own. The list
    -- of a layout never changes.
    digest bytea NOT NULL,
    series_ids integer[] NOT NULL,
    -- The latest day (UTC) of a frame that uses it. It is dropped when no frame of that day or an earlier one is there or can come.
    last_day date NOT NULL,
    UNIQUE (source_id, digest)
);

CREATE INDEX layouts_by_day ON layouts (last_day);

-- The newest history, one row a batch. Partitions of 30 minutes, which are dropped when all of their frames are sealed into chunks; one is made again
-- where a batch comes late. The primary key is the memory of which batches were applied until then; afterwards it is sealed_reports.
--
-- A reader of the history runs in one REPEATABLE READ transaction whose first statement is LOCK TABLE frames IN ACCESS SHARE MODE: its snapshot is
-- taken after the lock, so what it does not find in frames because the partition was dropped, it finds in chunks. Frames whose keys are in
-- sealed_reports are in chunks too, and are to be skipped. It locks chunks and rollups as well where dropped_history tells it what to read: what that
-- says is there is not dropped while it reads.
CREATE TABLE frames (
    -- The batch's time, to the millisecond, from its key.
    at timestamptz NOT NULL,
    -- The order in which batches were applied, which decides between samples of one series and one time.
    arrival bigint NOT NULL,
    source_id integer NOT NULL,
    key uuid NOT NULL,
    -- SHA-256 of the request, which tells a repeat from another batch under the same key.
    digest bytea NOT NULL,
    -- The list of series: a layout, or the frame's own list, or neither where the batch was older than the history when it came.
    layout_id integer,
    series_ids integer[],
    -- One value for each series of the list: a gauge's value, bit for bit, or what the batch added to a counter, as the nearest double.
    "values" double precision[] NOT NULL,
    -- Each value's own time, where they have one; else all have the batch's.
    times timestamptz[],
    -- The oldest and the newest of `times`, which is at most `at`.
    oldest_at timestamptz,
    newest_at timestamptz,
    -- What the batch added to counters, one for each value (0 for a gauge); only where a double does not hold all of them exactly.
    deltas bigint[],
    -- The source first: a source's frames are read together.
    PRIMARY KEY (source_id, at, key)
) PARTITION BY RANGE (at);

-- Compressing doubles costs more than it saves. Set before there are partitions, which take it over.
ALTER TABLE frames ALTER COLUMN "values" SET STORAGE EXTERNAL;

-- No batch older than this is accepted: keys before it were forgotten.
CREATE TABLE oldest_accepted (
    one boolean PRIMARY KEY DEFAULT true CHECK (one),
    at timestamptz NOT NULL
);
INSERT INTO oldest_accepted (at) VALUES ('-infinity');

-- Sealed history: the samples of 64 series and at most 2 hours a row, coded column by column. Partitions of a UTC day. A sample belongs to the window
-- of its own time, whenever it came.
CREATE TABLE chunks (
    -- A multiple of 2 hours since 1970.
    window_start timestamptz NOT NULL,
    source_id integer NOT NULL,
    -- Of the series whose ids are 64 * block_id to 64 * block_id + 63, as in latest_blocks.
    block_id integer NOT NULL,
    -- A window's rows are merged: of equal times of a gauge the highest part counts, deltas of a counter add up. Part 0 is what was there when the
    -- window was folded, with parts below 0 where its series are divided among several rows; higher parts came later and are folded into it.
    part smallint NOT NULL,
    -- The times of the columns, for all of them.
    times bytea NOT NULL,
    -- Column n, that of series 64 * block_id + n, is data[offsets[n], offsets[n + 1]), counted from 0; there may be fewer than 64.
    offsets integer[] NOT NULL,
    data bytea NOT NULL,
    -- Counters' running totals at window_start, by slot: what was added before, whichever parts that is in. The same in all parts of a window, but for
    -- slots at the end that are missing and mean 0.
    bases bigint[],
    PRIMARY KEY (block_id, window_start, part)
) PARTITION BY RANGE (window_start);

-- One column is cut out of data by substring(), which reads no more than it needs of a value that is stored out of line and uncompressed.
ALTER TABLE chunks ALTER COLUMN data SET STORAGE EXTERNAL;
ALTER TABLE chunks ALTER COLUMN times SET STORAGE MAIN;
ALTER TABLE chunks ALTER COLUMN offsets SET STORAGE MAIN;
ALTER TABLE chunks ALTER COLUMN bases SET STORAGE MAIN;

-- Finds what is to be folded.
CREATE INDEX chunks_to_fold ON chunks (window_start, source_id) WHERE part > 0;

-- What was added to counters in all sealed frames, by slot: a counter's running total after its last sealed sample. Missing slots mean 0.
CREATE TABLE sealed_totals (
    block_id integer PRIMARY KEY,
    totals bigint[] NOT NULL
) WITH (fillfactor = 50);

-- What is kept of samples when they themselves are too old: what the samples of each 5 minutes come to, of 64 series and a UTC day in a row, coded as
-- golectra-chunks says. The transaction that folds a window of chunks writes its part of the day. Partitions of 7 days.
CREATE TABLE rollups_5m (
    day_start timestamptz NOT NULL,
    source_id integer NOT NULL,
    -- As in chunks.
    block_id integer NOT NULL,
    -- Bit n is set where the day's n-th window of 2 hours is in it.
    windows smallint NOT NULL,
    -- As in chunks.
    times bytea NOT NULL,
    offsets integer[] NOT NULL,
    data bytea NOT NULL,
    -- Counters' running totals at the start of each window: bases[12 * slot + n + 1] at that of the n-th. What is missing means 0.
    bases bigint[],
    PRIMARY KEY (block_id, day_start)
) PARTITION BY RANGE (day_start);

ALTER TABLE rollups_5m ALTER COLUMN data SET STORAGE EXTERNAL;
ALTER TABLE rollups_5m ALTER COLUMN times SET STORAGE MAIN;
ALTER TABLE rollups_5m ALTER COLUMN offsets SET STORAGE MAIN;
ALTER TABLE rollups_5m ALTER COLUMN bases SET STORAGE MAIN;

-- The same for hours, made of those of 5 minutes; and as arrays that SQL can read, which the view samples_hourly shows. A counter's values are its running
-- totals. Partitions of 28 days.
CREATE TABLE rollups_1h (
    day_start timestamptz NOT NULL,
    source_id integer NOT NULL,
    block_id integer NOT NULL,
    -- As in rollups_5m.
    windows smallint NOT NULL,
    times bytea NOT NULL,
    offsets integer[] NOT NULL,
    data bytea NOT NULL,
    -- The n-th hour of series 64 * block_id + slot stands at 24 * slot + n + 1. Where there are no samples the count is 0, and the other values mean
    -- nothing.
    counts integer[] NOT NULL,
    sums double precision[] NOT NULL,
    mins double precision[] NOT NULL,
    maxs double precision[] NOT NULL,
    lasts double precision[] NOT NULL,
    PRIMARY KEY (block_id, day_start)
) PARTITION BY RANGE (day_start);

ALTER TABLE rollups_1h ALTER COLUMN data SET STORAGE EXTERNAL;
ALTER TABLE rollups_1h ALTER COLUMN times SET STORAGE MAIN;
ALTER TABLE rollups_1h ALTER COLUMN offsets SET STORAGE MAIN;

-- Up to where history was dropped. Samples that come for a time before `raw` are not kept.
CREATE TABLE dropped_history (
    one boolean PRIMARY KEY DEFAULT true CHECK (one),
    raw timestamptz NOT NULL,
    rollups_5m timestamptz NOT NULL
);
INSERT INTO dropped_history (raw, rollups_5m) VALUES ('-infinity', '-infinity');

-- The memory of which batches were applied whose frames are sealed. A row for each time that frames of a source were sealed; kept for DEDUP_WINDOW.
CREATE TABLE sealed_reports (
    -- When the frames' partition begins.
    frames_start timestamptz NOT NULL,
    source_id integer NOT NULL,
    part smallint NOT NULL,
    -- 16 bytes a batch: the first 8 of SHA-256 of its key's 16 bytes, then the first 8 of the request's digest.
    keys bytea NOT NULL,
    PRIMARY KEY (frames_start, source_id, part)
) WITH (toast_tuple_target = 8160);

-- They do not compress.
ALTER TABLE sealed_reports ALTER COLUMN keys SET STORAGE EXTERNAL;

-- Keeps counts and newest state true when an operator deletes a source or some of its series by hand.
CREATE FUNCTION series_gone() RETURNS trigger LANGUAGE plpgsql AS $$
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
    RETURN NULL;
END
$$;
CREATE TRIGGER series_gone AFTER DELETE ON series
    REFERENCING OLD TABLE AS old_series FOR EACH STATEMENT EXECUTE FUNCTION series_gone();

-- The newest state for people and for reads: one row a live series.
CREATE VIEW latest AS
SELECT series.id AS series_id, series.source_id, series.identity, series.metric, series.kind,
    CASE series.kind WHEN 0 THEN block."values"[series.id % 64 + 1] END AS value,
    CASE series.kind WHEN 1 THEN block.totals[series.id % 64 + 1] END AS total,
    coalesce(block.ats[series.id % 64 + 1], block.at) AS at,
    coalesce(block.arrivals[series.id % 64 + 1], block.arrival) AS arrival
FROM series JOIN latest_blocks AS block ON block.id = series.id / 64 AND block.used >> (series.id % 64) & 1 = 1;

-- The history that is not sealed yet, for people: one row a sample.
CREATE VIEW samples AS
SELECT coalesce(sample.at, frames.at) AS at, sources.name AS source, series.metric AS name,
    CASE series.kind WHEN 0 THEN 'gauge' ELSE 'counter' END AS kind, sample.value
FROM frames
JOIN sources ON sources.id = frames.source_id
LEFT JOIN layouts ON layouts.id = frames.layout_id
CROSS JOIN LATERAL unnest(coalesce(frames.series_ids, layouts.series_ids), frames."values", frames.times) AS sample (series_id, value, at)
JOIN series ON series.id = sample.series_id;

-- The history by the hour, for people: one row a series and hour.
CREATE VIEW samples_hourly AS
SELECT day.day_start + slot.hour * interval '1 hour' AS at, sources.name AS source, series.metric AS name,
    CASE series.kind WHEN 0 THEN 'gauge' ELSE 'counter' END AS kind,
    day.counts[slot.place] AS count, day.sums[slot.place] AS sum, day.mins[slot.place] AS min, day.maxs[slot.place] AS max,
    day.sums[slot.place] / day.counts[slot.place] AS avg, day.lasts[slot.place] AS last
FROM rollups_1h AS day
JOIN series ON series.id / 64 = day.block_id
JOIN sources ON sources.id = series.source_id
CROSS JOIN LATERAL (SELECT hour, 24 * (series.id % 64) + hour + 1 AS place FROM generate_series(0, 23) AS hour) AS slot
WHERE day.counts[slot.place] > 0;

COMMENT ON TABLE sources IS 'The nodes that measure; '''' is the unnamed one';
COMMENT ON TABLE latest_blocks IS 'Newest values and totals, 64 series a row; the view latest shows them one by one';
COMMENT ON VIEW latest IS 'Each live series''s newest value (gauge) or total (counter)';
COMMENT ON VIEW samples IS 'The newest history, one row a sample: a gauge''s value or what was added to a counter. Older history is sealed in chunks';
COMMENT ON VIEW samples_hourly IS 'The history by the hour, one row a series and hour with samples: count, sum, min, max, avg and last value; a counter''s are of its running total';
