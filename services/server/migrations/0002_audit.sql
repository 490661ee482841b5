-- The audit trail. An event is written by the transaction of its write, and stays until every sink has it.

create table outbox (
    id          bigint generated always as identity primary key,
    -- The same on every try: the webhook-id by which a sink recognises a repeat.
    event_id    uuid not null,
    -- When the write was taken, in unix seconds.
    ts          bigint not null,
    -- The peer that wrote, without its port.
    ip_address  text not null,
    -- The names of the metrics as they are in the event's JSON, or the name list that has them. Most senders write the same
    -- metrics again and again; a list is kept apart as soon as it repeats, and goes with its event when it does not.
    metrics     text,
    name_list   bytea,
    traceparent text,
    -- About how many bytes the event's JSON has.
    bytes       integer not null,
    created_at  timestamptz not null default now(),
    constraint outbox_has_metrics check ((metrics is null) <> (name_list is null))
) with (autovacuum_vacuum_scale_factor = 0.02, autovacuum_vacuum_insert_scale_factor = 0.2);

-- One row for each event and sink, deleted when it is delivered. No foreign key to outbox: both rows are made by one statement
-- and removed by one transaction, and checking every row would cost each write two more look-ups.
create table deliveries (
    event      bigint not null,
    -- `webhook`, shared by all servers, or `file:INSTANCE`, the file of one of them.
    sink       text not null,
    -- When it may be claimed. A claim raises it by the lease, so that what a lost server had claimed is due again by itself.
    due_at     timestamptz not null default now(),
    -- Who holds the lease. The outcome of a lease that has been lost is ignored.
    claim      uuid,
    attempts   integer not null default 0,
    created_at timestamptz not null default now(),
    primary key (event, sink)
) with (fillfactor = 70, autovacuum_vacuum_scale_factor = 0.02);

-- The order of claims. due_at is in no index, so that a claim is an update in place.
create index deliveries_by_sink on deliveries (sink, event);

-- Events that could not be delivered, kept for a while for somebody to look at.
create table dead_letters (
    event_id    uuid not null,
    sink        text not null,
    ts          bigint not null,
    ip_address  text not null,
    metrics     text,
    name_list   bytea,
    traceparent text,
    created_at  timestamptz not null,
    died_at     timestamptz not null default clock_timestamp(),
    reason      text not null,
    primary key (event_id, sink)
);

-- The order in which they are removed.
create index dead_letters_by_age on dead_letters (died_at);
create index dead_letters_by_name_list on dead_letters (name_list) where name_list is not null;

-- Lists of metric names that repeat, each once. No foreign key from outbox: each event would lock its list's row, and all writes
-- of the same metrics would wait for each other at that row.
create table audit_name_lists (
    -- SHA-256 of metrics.
    digest   bytea primary key,
    -- The names as they are in an event's JSON: sorted, each once.
    metrics  text not null,
    -- The latest day (UTC) of an event that refers to it. A list that no event can refer to any more is removed.
    last_day date not null
);

create index audit_name_lists_by_day on audit_name_lists (last_day);

-- Events as sinks get them, byte for byte. Where a name list was lost, metrics are null.
create view audit_events as
select outbox.id, outbox.event_id, outbox.traceparent, outbox.created_at,
    format(
        '{"ts":%s,"metrics":%s,"ip_address":%s}',
        outbox.ts, coalesce(outbox.metrics, audit_name_lists.metrics, 'null'), to_json(outbox.ip_address)
    ) as body
from outbox left join audit_name_lists on audit_name_lists.digest = outbox.name_list;

create view audit_dead_letters as
select dead_letters.event_id, dead_letters.sink, dead_letters.reason, dead_letters.created_at, dead_letters.died_at,
    format(
        '{"ts":%s,"metrics":%s,"ip_address":%s}',
        dead_letters.ts, coalesce(dead_letters.metrics, audit_name_lists.metrics, 'null'), to_json(dead_letters.ip_address)
    ) as body
from dead_letters left join audit_name_lists on audit_name_lists.digest = dead_letters.name_list;

comment on view audit_events is 'The audit events that some sink does not have yet';
comment on view audit_dead_letters is 'The audit events that were given up, and why';
