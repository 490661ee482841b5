-- Writers look series up by source, name and type. Where many sources have the same names, an index by name alone leads past
-- all of them; with the source at its end it is as good as the other one, whichever the planner takes.
CREATE INDEX series_by_name_and_source ON series (name, kind, source_id);
DROP INDEX series_by_name;
