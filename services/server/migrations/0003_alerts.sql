-- The state of alerts, which the one server that evaluates rules changes, and what waits for receivers. That server holds an advisory lock, and makes
-- all changes on the session that holds it.

-- When rules were evaluated last. An evaluation begins by raising it, so none is made twice.
CREATE TABLE alert_evaluation (
    one boolean PRIMARY KEY DEFAULT true CHECK (one),
    at timestamptz NOT NULL
);
INSERT INTO alert_evaluation (at) VALUES ('epoch');

-- One row a group of rules: its rules, and of each its alerts with their timers.
CREATE TABLE alert_states (
    file text COLLATE "C" NOT NULL,
    group_name text COLLATE "C" NOT NULL,
    state json NOT NULL,
    PRIMARY KEY (file, group_name)
    -- Each row is replaced at each evaluation.
) WITH (fillfactor = 50, autovacuum_vacuum_scale_factor = 0.02);

-- What receivers are told, in the order in which it was made. Written by the transaction that changes the state.
CREATE TABLE alert_notifications (
    id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    receiver text COLLATE "C" NOT NULL,
    body json NOT NULL,
    created_at timestamptz NOT NULL,
    -- After this time it is of no use any more.
    expires_at timestamptz NOT NULL,
    -- When it may be claimed. A claim raises it by the lease, so that what a lost server had claimed is due again by itself.
    due_at timestamptz NOT NULL DEFAULT now(),
    claim uuid,
    attempts integer NOT NULL DEFAULT 0
);
CREATE INDEX alert_notifications_by_receiver ON alert_notifications (receiver, id);

CREATE TABLE alert_silences (
    id uuid PRIMARY KEY,
    silence json NOT NULL,
    ends_at timestamptz NOT NULL
);

COMMENT ON TABLE alert_states IS 'The state of each group of alerting rules';
COMMENT ON TABLE alert_notifications IS 'Notifications that receivers do not have yet';
COMMENT ON TABLE alert_silences IS 'Silences of alerts';
