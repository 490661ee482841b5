-- Agents send the same ids each time. Their text is kept once, and an event names it by its digest: an event is a short row
-- however many metrics were written.

create table audit_lists (
    -- SHA-256 of ids.
    digest   bytea primary key,
    -- The ids as they stand in an event's JSON: sorted, each once.
    ids      text not null,
    -- The latest day (UTC) on which an event that names it was made; a list that no event can name any more is dropped.
    last_day date not null
);

create index audit_lists_by_day on audit_lists (last_day);

-- An event is either a body, as earlier servers wrote it, or a list with the rest. No foreign key to audit_lists: each event
-- would lock its list's row, and all writes of the same ids would go through that one row.
alter table outbox
    add column list       bytea,
    -- When the write was taken, in unix seconds.
    add column ts         bigint,
    -- The peer that wrote, without its port.
    add column ip_address text,
    alter column body drop not null;

-- Not valid: rows that are here all have their body, so there is nothing to look at under the lock.
alter table outbox add constraint outbox_says_what
    check (body is not null or (list is not null and ts is not null and ip_address is not null)) not valid;

-- Events as sinks get them, byte for byte. Where a list was lost, its metrics are null and the event is not whole.
create view audit_events as
select outbox.id, outbox.event_id, outbox.traceparent, outbox.created_at,
    outbox.body is not null or audit_lists.digest is not null as whole,
    coalesce(outbox.body, format(
        '{"ts":%s,"metrics":%s,"ip_address":%s}', outbox.ts, coalesce(audit_lists.ids, 'null'), to_json(outbox.ip_address)
    )) as body
from outbox left join audit_lists on audit_lists.digest = outbox.list;

comment on view audit_events is 'The audit events that some sink is yet to get';
