-- The audit trail's outbox. An event stands here from the write's own transaction until every sink has it.

create table outbox (
    id          bigint generated always as identity primary key,
    -- The same on every try: the webhook-id by which a sink tells a repeat.
    event_id    uuid not null,
    -- The event's JSON byte for byte; text, since jsonb would order its keys anew.
    body        text not null,
    traceparent text,
    created_at  timestamptz not null default now()
) with (autovacuum_vacuum_scale_factor = 0.02, autovacuum_vacuum_insert_scale_factor = 0.2);

-- One row an event and sink, deleted when it is delivered. No foreign key to outbox: both rows are made in one statement
-- and removed in one transaction, and a check of every row would cost each write two more look-ups.
create table deliveries (
    event      bigint not null,
    -- `webhook`, shared by all servers, or `file:INSTANCE`, the file of one of them.
    sink       text not null,
    -- When it may be claimed. A claim moves it ahead by the lease, so that what a lost server held comes back by itself.
    due_at     timestamptz not null default now(),
    -- Who holds the lease: what a server says about a lease it has lost is not listened to.
    claim      uuid,
    attempts   integer not null default 0,
    created_at timestamptz not null default now(),
    primary key (event, sink)
) with (fillfactor = 70, autovacuum_vacuum_scale_factor = 0.02);

-- The order of claims. due_at is left out of every index, so that claiming is an update in place.
create index deliveries_by_sink on deliveries (sink, event);

-- What could not be delivered, kept for a while for someone to look at.
create table dead_letters (
    event_id    uuid not null,
    sink        text not null,
    body        text not null,
    traceparent text,
    created_at  timestamptz not null,
    died_at     timestamptz not null default now(),
    reason      text not null,
    primary key (event_id, sink)
);

create index dead_letters_by_age on dead_letters (died_at);
