-- Which transaction wrote a frame; none where it was written before there was this column. A server that keeps frames reads those that came since.
ALTER TABLE frames ADD COLUMN transaction_id bigint;
ALTER TABLE frames ALTER COLUMN transaction_id SET DEFAULT pg_current_xact_id()::text::bigint;
