-- Frames with a list of series of their own are few, and each query has to find them among all frames of its sources.
CREATE INDEX frames_with_own_lists ON frames (source_id, at) WHERE series_ids IS NOT NULL;
