-- In a transaction of its own: queries go on while the index is made.
CREATE INDEX frames_by_transaction ON frames (source_id, transaction_id);
