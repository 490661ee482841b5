-- Rows of series are removed by the thousand when the last of their history goes. New ones use their room only after a VACUUM, which comes by default when a
-- fifth of a table's rows are dead. Sooner here, so that the files need less room for it. No lock that reads or writes wait for.
ALTER TABLE series SET (autovacuum_vacuum_scale_factor = 0.02);
ALTER TABLE label_pairs SET (autovacuum_vacuum_scale_factor = 0.02);
ALTER TABLE expired_series SET (autovacuum_vacuum_scale_factor = 0.02);
ALTER TABLE free_terms SET (autovacuum_vacuum_scale_factor = 0.02);
